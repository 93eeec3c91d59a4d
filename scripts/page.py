"""Write results/report.html from what is here, for example after `dvc pull`; every report job does so too."""

from palimpsest.report import page
from palimpsest.workflow import stage


def main(job: stage.Stage) -> None:
    page.refresh(job.params)


if __name__ == "__main__":
    stage.run(__doc__, "", main)
