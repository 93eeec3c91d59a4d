"""Put what ran here into dvc.lock and DVC's cache; `snakemake` does so by itself at the end of a run."""

from palimpsest.workflow import record, stage


def main(job: stage.Stage) -> None:
    print(f"{record.record(job.params)} jobs added to dvc.lock")


if __name__ == "__main__":
    stage.run(__doc__, "", main)
