"""Fetch what data/external.yaml names: python scripts/fetch.py data/external/i2p.csv"""

from pathlib import Path

from palimpsest import external
from palimpsest.workflow import params, sheets, stage


def main(job: stage.Stage) -> None:
    params.known("file", [job.file], sheets.external())
    entry = sheets.external()[job.file]
    external.make(Path(job.file), entry["url"], entry["digest"], entry["as"])


if __name__ == "__main__":
    stage.run(__doc__, "file", main)
