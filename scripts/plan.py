"""Write down what every job of the grid reads besides other jobs' results: settings, concepts, code, weights."""

from palimpsest.workflow import plan, stage


def main(job: stage.Stage) -> None:
    plan.refresh(job.params)


if __name__ == "__main__":
    stage.run(__doc__, "", main)
