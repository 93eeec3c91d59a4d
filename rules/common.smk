import os
import re

LOOKING = any(re.fullmatch(r"-[a-zA-Z]*n[a-zA-Z]*|--dry-?run", arg) for arg in sys.argv)
try:
    SETTINGS = params.load()
    OTHER = config != SETTINGS  # --configfile or --config
    if OTHER and not LOOKING:
        sys.exit(
            "palimpsest: --config and --configfile go round dvc.lock, they are for looking (-n); write the setting into params.yaml"
        )
    if OTHER:  # nothing of it stands in dvc.lock
        params.check(config)
        SETTINGS = {**config, "recorded": {axis: [] for axis in params.GRID}}
except params.ParamsError as error:
    sys.exit(f"palimpsest: {error}")

GRID = SETTINGS["grid"]


wildcard_constraints:
    **params.NAMES,


def known(axis, name):
    """A name from a target, or one line that says which there are."""
    allowed = sheets.concepts() if axis == "concept" else SETTINGS.get(f"{axis}s", ())
    if axis != "seed" and name not in allowed:
        raise params.ParamsError(
            f"unknown {axis} {name!r}{complaints.near(name, allowed)}"
        )
    return name


def pattern(verb, **bound):
    """The job of a stage as dvc.yaml states it, with wildcards for the names that are not bound."""
    wildcards = {axis: f"{{{axis}}}" for axis in jobs.AXES}
    return jobs.job(verb, {**wildcards, **bound}, SETTINGS)


def needs(verb, **bound):
    """The small files that a job depends on, its plan among them; a plan outside the grid is written here."""

    def files(wildcards):
        given = {**wildcards, **bound}
        names = {axis: known(axis, given[axis]) for axis in jobs.AXES if axis in given}
        job = jobs.job(verb, names, SETTINGS)
        outside = str(plan.place(job)).startswith(paths.OTHER_PLAN)
        # settle brings those of the grid; a job elsewhere must not go over to settings changed since
        if outside and workflow.is_main_process:
            # Snakemake looks into a folder once; of what comes later it must be told
            workflow.iocache.exists_local[str(plan.bring(job, SETTINGS))] = True
        # its plan says what is to be fetched, whenever it came
        return [*job.files, *map(ancient, plan.fetched(job, SETTINGS))]

    def told(wildcards):
        try:
            return files(wildcards)
        except params.ParamsError as error:  # raised, Snakemake would show where
            sys.exit(f"palimpsest: {error}")

    return told


def makes(verb, **bound):
    """The small files that a job makes; pictures and tensors lie beside them."""
    return pattern(verb, **bound).small


def parts(verb, **bound):
    """Markers of the parts in which a job is made side by side; none where params.yaml does not ask for any."""
    count = demands.parts(SETTINGS, verb, bound)
    return [
        marker(verb, f"{k}of{count}", **bound) for k in range(1, count + 1) if count > 1
    ]


def marker(verb, part, **bound):
    """Says that a part is made; Snakemake deletes it behind the job that takes the parts up."""
    return f"work/parts/{pattern(verb, **bound).name}/{part}"


def asks(verb, **bound):
    """gpu, mem_mb and runtime of a job; the locks of palimpsest/workflow/gpu.py say which GPU it is."""
    return demands.asks(SETTINGS, verb, bound)


def command(verb, **bound):
    return pattern(verb, **bound).cmd


def measured(cells, attacks):
    """What a page over cells (concept, method, base, seed) reads: their scores and costs, and those of the real pictures."""
    return [
        *[paths.scores(*cell, attack) for cell in cells for attack in attacks],
        *[paths.cost(*cell) for cell in cells],
        paths.reference_scores("mini"),
    ]
