"""Declare that a change of a file of ours leaves every result standing: it then counts as it did in a revision of git (HEAD~1, a tag).

python scripts/accept.py palimpsest/diffusion.py HEAD "the same bytes, faster: compared on church, all methods"
"""

import getpass
import subprocess
from datetime import UTC, datetime

import yaml

from palimpsest.files import write_text
from palimpsest.workflow import code, stage

HEAD = "# Changes of code that leave results standing; written by scripts/accept.py, read by palimpsest/workflow/code.py.\n"


def main(job: stage.Stage) -> None:
    shown = subprocess.run(["git", "show", f"{job.revision}:{job.file}"], cwd=code.TOP, capture_output=True, text=True)
    if shown.returncode or not (code.TOP / job.file).is_file():
        raise FileNotFoundError(f"{job.file} in {job.revision}: {shown.stderr.strip() or 'it is no longer there'}")
    was = code.counts_as(job.file, code.meaning(shown.stdout, job.file))
    now = code.meaning((code.TOP / job.file).read_text(), job.file)
    if code.counts_as(job.file, now) == was:
        raise ValueError(f"{job.file} does what it did in {job.revision}; there is nothing to accept")
    row = {"file": job.file, "was": was, "now": now, "why": job.why, "who": getpass.getuser(), "when": f"{datetime.now(UTC):%Y-%m-%d}"}
    rows = yaml.safe_load(code.ACCEPTED.read_text()) or []
    write_text(code.ACCEPTED, HEAD + yaml.safe_dump([*rows, row], sort_keys=False, allow_unicode=True))
    print(f"accepted: {job.file} counts as {was}")


if __name__ == "__main__":
    stage.run(__doc__, "file revision why", main)
