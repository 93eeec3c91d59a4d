import os

from snakemake.exceptions import WorkflowError

try:
    SETTINGS = params.load()
except params.ParamsError as error:
    sys.exit(f"palimpsest: {error}")

GRID = SETTINGS["grid"]


wildcard_constraints:
    concept="[a-z0-9_]+",
    method="[a-z0-9.-]+",
    attack="[a-z0-9_.-]+",
    base="[a-z0-9-]+",
    seed="[0-9]+",


def known(axis, name):
    """A name from a target, or one line that says which there are."""
    allowed = params.concepts() if axis == "concepts" else SETTINGS[axis]
    if name not in allowed:
        raise WorkflowError(f"unknown {axis[:-1]} {name!r}{params.near(name, allowed)}")
    return name


def tracked(*keys):
    """Settings that a job reads, by their dotted keys in params.yaml."""
    found = {}
    for key in keys:
        value = SETTINGS
        for part in key.split("."):
            value = value[part]
        found[key.replace(".", "_").replace("-", "_")] = value
    return found


def script(verb, plugin=""):
    """The files that a script and its plug-in run, the script first."""
    files = code.closure(f"scripts/{verb}.py", *([plugin] if plugin else []))
    return [
        f"scripts/{verb}.py",
        *(file for file in files if file != f"scripts/{verb}.py"),
    ]


def of(section, name):
    """The file of an entry of params.yaml."""
    return f"palimpsest/{section}/{SETTINGS[section][name].get('of', name)}.py"


def base_entry(wildcards):
    return SETTINGS["bases"][known("bases", wildcards.base)]


def weights(wildcards):
    """What stands for the base's weights: the list of their hashes, where the base is a folder of ours."""
    entry = base_entry(wildcards)
    folders = [
        os.path.dirname(entry[key])
        for key in ("path", "unet")
        if entry.get(key, "").startswith("data/mini")
    ]
    return [f"{folder}/manifest.json" for folder in folders]


def pool(wildcards):
    """Pictures of the concept: the base's own, or those of the base that `pool_from` names."""
    return paths.pool(
        wildcards.concept, base_entry(wildcards).get("pool_from", wildcards.base)
    )


def concept_file(wildcards):
    return paths.concept(known("concepts", wildcards.concept))


JOB = ("{concept}", "{method}", "{base}", "{seed}")
