# One memory for both engines. Before planning, what ran here and is not yet in dvc.lock goes there, plans are brought up to date, and
# every result gets the time stamp that tells Snakemake the truth; behind a run, failed or not, what it made is recorded.
import shutil
import time
from pathlib import Path

# Of a result, dvc.lock and work/done know all that Snakemake's own records know, by content; here its time stamps alone count.
FORCED = any(re.match(r"--force|-[a-zA-Z]*[FRf]", arg) for arg in sys.argv)
if workflow.is_main_process:
    os.environ[stage.KEEP] = "0" if FORCED else "1"
else:  # a job elsewhere: the command that Snakemake gives it always says --force
    os.environ.setdefault(stage.KEEP, "1")


def told(settled):
    for name, reasons in settled.stale.items():
        print(f"stale: {name}: {'; '.join(reasons)}", file=sys.stderr)
    if settled.below:
        print(
            f"stale: {len(settled.below)} jobs that follow from these", file=sys.stderr
        )
    for place in settled.gone:
        print(
            f"gone: {place} is not here; `dvc checkout {place}` or `dvc pull {place}` brings it back",
            file=sys.stderr,
        )
    if settled.edited:
        sys.exit(
            f"palimpsest: edited by hand, or made elsewhere: {', '.join(settled.edited)}; `dvc checkout <file>` brings the recorded version "
            "back, `rm <file>` has it made again; nothing was touched"
        )


def alone():
    """Whether this process has the folder for itself; the lock is the kernel's and ends with the process."""
    global RUNNING  # held open as long as this process lives
    for _ in range(20):
        RUNNING = locks.taken(Path("work/running.lock"))
        if RUNNING is not None or LOOKING:
            return RUNNING is not None
        time.sleep(0.5)  # the other one may only be looking
    sys.exit(
        "palimpsest: another snakemake is at work in this folder; wait for it, or use a second clone"
    )


def remember():
    os.makedirs("work", exist_ok=True)
    if not alone():
        return print("another snakemake is at work here", file=sys.stderr)
    if not LOOKING:
        shutil.rmtree(".snakemake/locks", ignore_errors=True)  # of one that was killed
    for file in Path("benchmarks/runs").rglob("*.tsv"):
        os.utime(
            file
        )  # to Snakemake a benchmark is an output, and as old as the oldest
    plan.refresh(SETTINGS)
    told(settle.settle(memory.jobs_here(SETTINGS)))
    if LOOKING:
        os.close(RUNNING)
    else:  # what an earlier run could not, because it was killed, say
        record.record(SETTINGS)


if workflow.is_main_process:
    try:
        if not OTHER:
            remember()
        for why in undefined.of_grid(SETTINGS):
            print(f"skipped: {why}", file=sys.stderr)
        if LOOKING and (estimate := demands.estimate(SETTINGS)):
            print(estimate, file=sys.stderr)
    except (params.ParamsError, OSError) as error:
        sys.exit(f"palimpsest: {stage.told(error)}")


onstart:
    # it starts no more than 100 jobs a second, and for that looks at all ready ones once a second, once for every job that has ended (9.27)
    workflow.scheduler.job_rate_limiter = None


onsuccess:
    record.record(SETTINGS)


onerror:
    record.record(SETTINGS)
