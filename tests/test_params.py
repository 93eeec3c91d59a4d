"""Bad input ends in one line that names the key, what is allowed and the remedy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TOP

from palimpsest.workflow import entries, params, plan, sheets, signatures


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the graph is built from."""
    for name in ("rules", "data/concepts", "data/presets", "params", "scripts"):
        shutil.copytree(TOP / name, tmp_path / name)
    for name in ("params.yaml", "Snakefile", "dvc.yaml", "accepted.yaml", "data/external.yaml"):
        shutil.copy(TOP / name, tmp_path / name)
    (tmp_path / "data/mini").symlink_to(TOP / "data/mini")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(project: Path, key: str, value: Any) -> None:
    """Set a dotted key of params.yaml; a value of ... takes it out."""
    file = project / "params.yaml"
    tree = yaml.safe_load(file.read_text())
    *way, last = key.split("/")
    place = tree
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    file.write_text(yaml.safe_dump(tree))


WRONG = [
    ("grid/concepts", ["nudty"], ["grid.concepts", "'nudty'", "did you mean 'nudity'", "allowed:"]),
    ("grid/methods", ["none", "dm3"], ["grid.methods", "'dm3'", "did you mean 'dm2'"]),
    ("grid/attacks", ["none", "cse"], ["grid.attacks", "'cse'", "did you mean 'cce'"]),
    ("grid/bases", ["mimi"], ["grid.bases", "'mimi'", "did you mean 'mini'"]),
    ("grid/seeds", ["a"], ["grid.seeds", "'a'", "int"]),
    ("grid/methods", ["dm2"], ["grid.methods", "'none'", "add it"]),
    ("grid/sedes", [1], ["grid", "'sedes'", "did you mean 'seeds'"]),
    ("methods/dm2/settings/taw", 0.3, ["methods.dm2.settings", "'taw'", "did you mean 'tau'"]),
    ("methods/dm2/settings/tau", "much", ["methods.dm2.settings.tau", "'much'", "float"]),
    ("methods/dm2/settings/rank", 2.5, ["methods.dm2.settings.rank", "2.5", "int"]),
    ("methods/dm2/settings/mining", 1, ["methods.dm2.settings.mining", "bool"]),
    ("methods/dm2/settings/mine_schedule", {"late": 0.1}, ["methods.dm2.settings.mine_schedule", "dict[int from 0, float from 0] | None"]),
    ("methods/esd/settings/variant", "y", ["methods.esd.settings.variant", "'y'", "Literal"]),
    ("methods/uce-2025/of", "ucee", ["methods.uce-2025.of", "'ucee'", "did you mean 'uce'"]),
    ("resources/default/gpu", "one", ["resources.default.gpu", "'one'", "int"]),
    ("resources/default/mem_mb", ..., ["resources.default.mem_mb is missing"]),
    ("resources/erace", {"gpu": 1}, ["resources", "'erace'", "did you mean 'erase'"]),
    ("methods/esd/sttings", {}, ["methods.esd", "'sttings'", "did you mean 'settings'"]),
    ("methods/esd/for", {"churhc": {}}, ["methods.esd.for", "'churhc'", "did you mean 'church'"]),
    ("attacks/cce/settings/steps", True, ["attacks.cce.settings.steps", "int"]),
    ("scores/objects/settings", {}, ["scores.objects.settings.weights", "missing"]),
    ("bases/mini/path", "data/mini/nowhere", ["bases.mini.path", "data/mini/nowhere", "not there"]),
    ("bases/mini/steps", ..., ["bases.mini.steps", "missing"]),
    ("pool/images", "many", ["pool.images", "'many'", "int"]),
    ("pairs/images", ..., ["pairs.images", "missing", "int"]),
    ("pairs/tries", -1, ["pairs.tries", "-1", "write 1 or more, or 0"]),
    ("pairs/images", 0, ["pairs.images", "0", "write 1 or more"]),
    ("pool/images", 0, ["pool.images", "0", "write 1 or more"]),
    ("pool/anchors", -1, ["pool.anchors", "-1", "write 0 or more"]),
    ("report/examples", -1, ["report.examples", "-1", "write 0 or more"]),
    ("protocols/papers/pool/captions", -1, ["protocols.papers.pool.captions", "-1", "write 0 or more"]),
    ("pairs/tries", 1.5, ["pairs.tries", "1.5", "int"]),
    ("pairs/strength", 0, ["pairs.strength", "more than 0 and at most 1"]),
    ("pairs/strength", 1.2, ["pairs.strength", "1.2"]),
    ("pairs/negative", "promt", ["pairs.negative", "'promt'", "did you mean 'prompt'"]),
    ("pairs/sampler", "pdnm", ["pairs.sampler", "'pdnm'", "did you mean 'pndm'"]),
    ("pairs/negativ", "none", ["pairs", "'negativ'", "did you mean 'negative'"]),
    ("scores/objects", ..., ["scores.objects is missing", "every table reads it", "add an entry"]),
    ("scores/features", ..., ["scores.features is missing"]),
    ("scores/styles", ..., ["scores: data/concepts/van_gogh.yaml judges mini by 'styles'", "add it", "allowed: clip_score"]),
    ("scores/objects/for", {"church": {}}, ["scores.objects", "'for'", "allowed: of, preset, settings"]),
    ("prompts/for", {"church": {}}, ["prompts", "'for'", "allowed: of, preset, settings"]),
    ("reference/for", {"church": {}}, ["reference", "'for'"]),
    ("resources/jobs_per_gpu", ..., ["resources.jobs_per_gpu is missing", "write an int"]),
    ("resources/jobs_per_gpu", 0, ["resources.jobs_per_gpu", "0 is too small", "write 1 or more"]),
    ("resources/jobs_per_gpu", True, ["resources.jobs_per_gpu", "int"]),
    ("methods/dm2_fast", {"of": "dm2"}, ["methods.dm2_fast", "[a-z0-9.-]+", "call it otherwise"]),
    ("methods/pool", {"of": "dm2"}, ["methods.pool", "prompts, pool, pairs are no methods", "call it otherwise"]),
    ("attacks/CCE", {"of": "cce"}, ["attacks.CCE", "[a-z0-9_.-]+"]),
    ("bases/my_mini", {"path": "data/mini/model", "detectors": "mini", "steps": 2, "guidance": 4.0, "batch": 1}, ["bases.my_mini"]),
    ("methods/dm2/settings/batch", 0, ["methods.dm2.settings.batch: 0 is not of type int from 1;", "methods/dm2.py"]),
    ("methods/dm2/settings/max_loops", -1, ["methods.dm2.settings.max_loops: -1 is not of type int from 0;"]),
    ("attacks/p4d/settings/prompts", 0, ["attacks.p4d.settings.prompts: 0 is not of type int from 1 | None;"]),
    ("table1/bases", ["sd14"], ["table1.bases: unknown 'sd14'", "allowed: mini"]),
    ("grid/seeds", [-1], ["grid.seeds", "-1 is too small", "write 0 or more"]),
    ("bases/mini/steps", 0, ["bases.mini.steps", "write 1 or more"]),
    ("bases/mini/batch", 0, ["bases.mini.batch", "write 1 or more"]),
    ("grid/seeds", [2**70], ["grid.seeds", "is too large", "write 4294967295 or less"]),
    ("pool/seed", 4295, ["pool.seed", "4295 is too large", "write 4294 or less"]),
    ("report", ..., ["report", "missing"]),
    ("methods/dm2/settings/lr", 0, ["methods.dm2.settings.lr: 0 is not of type float above 0;"]),
    ("methods/dm2/settings/lr", float("nan"), ["methods.dm2.settings.lr: nan is not of type float above 0;"]),
    ("methods/dm2/settings/schedule", {0: -1.0}, ["methods.dm2.settings.schedule: {0: -1.0}", "dict[int from 0, float from 0] | None;"]),
    ("methods/dm2/settings/mine_clip", -1, ["methods.dm2.settings.mine_clip: -1 is not of type float above 0;"]),
    ("methods/dm2/settings/replay", 7, ["methods.dm2.settings.replay: 7 is not of type float from 0 to 1;"]),
    ("methods/dm2/settings/keep", ["foo"], ["methods.dm2.settings.keep: ['foo'] is not of type list[Literal['anchor', 'zero', 'minus']]"]),
    ("methods/ca/settings/clip", 0, ["methods.ca.settings.clip: 0 is not of type float above 0 | None;"]),
    ("methods/duo/settings/base_lambda", -1, ["methods.duo.settings.base_lambda: -1 is not of type float from 0;"]),
    ("methods/duo/settings/prior_t", 5000, ["methods.duo.settings.prior_t: 5000 is not of type int from 0 to 999;"]),
    ("methods/duo/settings/t_max", 2000, ["methods.duo.settings.t_max: 2000 is not of type int from 1 to 1000;"]),
    ("attacks/qf/settings/agreement", 1.5, ["attacks.qf.settings.agreement: 1.5 is not of type float from 0 to 1;"]),
    ("methods/dm2/settings/images_per_loop", 500, ["pool.images: 96 are too few for dm2 on mini", "write 500 or more, or lower its"]),
    ("methods/dm2/settings/clip_model", "data/nowhere", ["methods.dm2.settings.clip_model: data/nowhere is not there", "put it there"]),
]


@pytest.mark.parametrize("key, value, said", WRONG, ids=[f"{key}={value}" for key, value, _ in WRONG])
def test_one_line_names_key_and_remedy(project: Path, key: str, value: Any, said: list[str]) -> None:
    change(project, key, value)
    with pytest.raises(params.ParamsError) as error:
        params.load()
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in said), message


def test_the_shipped_settings_pass(project: Path) -> None:
    assert params.load()["grid"]["bases"] == ["mini"]


def test_a_judge_needs_its_score(project: Path) -> None:
    """Of the grid before anything is made, of other names where they are asked for; with or without `tries`."""
    change(project, "pairs/tries", ...)
    change(project, "protocols/papers/scores/q16", ...)
    settings = params.load()
    assert "tries" not in settings["pairs"], "may be left out"
    said = r"protocols\.papers\.scores: data/concepts/hate.yaml judges sd14 by 'q16', and no entry is called so; add it"
    with pytest.raises(params.ParamsError, match=said):
        plan.gate({"concept": "hate", "base": "sd14"}, settings)
    change(project, "grid", {**settings["grid"], "concepts": ["hate"], "bases": ["sd14"]})
    with pytest.raises(params.ParamsError, match=said):
        params.load()


def test_pictures_that_a_method_learns_from_are_drawn(project: Path) -> None:
    """In the grid before anything is made, elsewhere when it is asked for; of the pool that a base takes; not where a job is skipped."""
    change(project, "pool/anchors", 0)
    settings = params.load()
    said = r"params\.yaml: pool\.anchors: 0 are too few for ca on mini; write 1 or more$"
    with pytest.raises(params.ParamsError, match=said):
        plan.plan("erase", {"concept": "church", "method": "ca", "base": "mini", "seed": "0"}, settings)
    change(project, "grid/methods", ["none", "ca"])
    with pytest.raises(params.ParamsError, match=said):
        params.load()
    change(project, "grid/bases", ["mini-without-church"])
    with pytest.raises(params.ParamsError, match=said.replace("mini;", "mini-without-church;")):
        params.load()
    change(project, "grid", {**settings["grid"], "methods": ["none", "ca", "stereo"], "bases": ["sd3-medium"]})
    change(project, "protocols/papers/pool/anchors", 0)
    params.load()
    change(project, "protocols/papers/pool/images", 1)
    said = r"protocols\.papers\.pool\.images: 1 are too few for stereo on sd3-medium; write 2 or more, or lower its rounds$"
    with pytest.raises(params.ParamsError, match=said):
        params.load()


def test_what_an_entry_opens_is_there(project: Path) -> None:
    """A file, and a model whose name is a path. A text that opens nothing may be anything, and what is fetched comes later."""
    given = {"concept": "church", "method": "none", "base": "mini", "seed": "0", "attack": "ring_a_bell"}
    change(project, "attacks/ring_a_bell/settings/prompts_file", "nowhere.csv")
    with pytest.raises(params.ParamsError, match=r"attacks\.ring_a_bell\.settings\.prompts_file: nowhere\.csv is not there; put it there"):
        plan.plan("attack", given, params.load())
    change(project, "attacks/ring_a_bell/settings/prompts_file", "data/external/i2p.csv")
    plan.plan("attack", given, params.load())
    change(project, "grid/methods", ["none", "dm2", "sld"])
    change(project, "methods/sld/settings/text", "/nowhere")
    change(project, "methods/dm2/settings/clip_model", "nobody/such-a-clip")
    params.load()


def test_broken_yaml_and_missing_file(project: Path) -> None:
    (project / "params.yaml").write_text("grid: [")
    with pytest.raises(params.ParamsError, match="is no YAML"):
        params.load()
    (project / "params.yaml").unlink()
    with pytest.raises(params.ParamsError, match="is not there"):
        params.load()


def test_concept_file_is_checked(project: Path) -> None:
    file = project / "data/concepts/church.yaml"
    fields = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**fields, "kind": "thing"}))
    with pytest.raises(params.ParamsError, match=r"church.yaml: kind: unknown 'thing'"):
        params.load()
    file.write_text(yaml.safe_dump({key: value for key, value in fields.items() if key != "anchor"}))
    with pytest.raises(params.ParamsError, match=r"church.yaml: anchor is missing"):
        params.load()


SHEETS = [
    ("concepts/church", "words: [", "church.yaml is no YAML"),
    ("presets/dm2", "darkminer: [", "dm2.yaml is no YAML"),
    ("concepts/church", "", "church.yaml: no mapping; write `key: value` lines"),
    ("presets/dm2", "", "dm2.yaml: no mapping"),
    ("presets/dm2", "darkminer:", "dm2.yaml: darkminer: no mapping; write `darkminer: {}`"),
    ("concepts/church", {"detectors": None}, "church.yaml: detectors: None does not fit"),
    ("concepts/church", {"detectors": {"mini": None}}, "church.yaml: detectors.mini: None does not fit"),
    ("concepts/church", {"detectors": {"mini": {"classes": ["church"]}}}, "church.yaml: detectors.mini.score: None does not fit"),
    (
        "concepts/church",
        {"detectors": {"mini": {"score": "objects", "classes": "church"}}},
        "detectors.mini.classes: 'church' does not fit",
    ),
    *(
        (
            "concepts/church",
            {"detectors": {"mini": {"score": "objects", "classes": ["church"], **more}}},
            f"church.yaml: detectors.mini{said}",
        )
        for more, said in [
            ({"treshold": 0.5}, ": unknown 'treshold'; did you mean 'threshold'?"),
            ({"threshold": "0.5"}, ".threshold: '0.5' does not fit; write a number"),
            ({"threshold": True}, ".threshold: True does not fit; write a number"),
            ({"take": "mean"}, ".take: unknown 'mean'; allowed: sum, max"),
            ({"readings": {"wide": "church"}}, ".readings.wide: 'church' does not fit; write [...]"),
        ]
    ),
    ("concepts/church", {"words": "church"}, "church.yaml: words: 'church' does not fit; write [...] with words in it"),
    ("concepts/church", {"words": []}, "church.yaml: words: [] does not fit"),
    ("concepts/church", {"words": {"mini": "church", "papers": ["church"]}}, "church.yaml: words.mini: 'church' does not fit"),
    ("concepts/church", {"near": None}, "church.yaml: near: None does not fit"),
    ("concepts/church", {"sensitive": "no"}, "church.yaml: sensitive: 'no' does not fit; write true or false"),
    ("concepts/Church", {}, "data/concepts/Church.yaml: paths take names of [a-z0-9_]+"),
]


@pytest.mark.parametrize("name, wrong, said", SHEETS, ids=[f"{name}: {wrong}" for name, wrong, _ in SHEETS])
def test_sheets_are_checked(project: Path, name: str, wrong: str | dict[str, Any], said: str) -> None:
    file = project / f"data/{name}.yaml"
    right = yaml.safe_load((TOP / "data/concepts/church.yaml").read_text())
    file.write_text(wrong if isinstance(wrong, str) else yaml.safe_dump({**right, **wrong}))
    with pytest.raises(params.ParamsError) as error:
        params.load()
    message = str(error.value)
    assert "\n" not in message and message.startswith("data/") and said in message, message


def snakemake(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "snakemake", *arguments], capture_output=True, text=True)


def test_snakemake_says_it_in_one_line_and_touches_nothing(project: Path) -> None:
    kept = project / "results/nudity/dm2/table.csv"
    kept.parent.mkdir(parents=True)
    kept.write_text("precious\n")
    change(project, "methods/dm2/settings/taw", 0.3)
    run = snakemake("-n", "results/nudity/dm2/table.csv")
    said = [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]
    assert run.returncode != 0 and "Traceback" not in run.stderr
    assert len(said) == 1 and "methods.dm2.settings: unknown 'taw'; did you mean 'tau'?" in said[0], said
    assert kept.read_text() == "precious\n"


def test_unknown_names_in_a_target(project: Path) -> None:
    for target, said in (
        ("results/nudty/dm2/table.csv", "unknown concept 'nudty'; did you mean 'nudity'?"),
        ("results/nudity/dm3/table.csv", "unknown method 'dm3'; did you mean 'dm2'?"),
        ("results/hate/uce/table.csv", "data/concepts/hate.yaml: detectors has no 'mini', which bases.mini asks for"),
    ):
        run = snakemake("-n", target)
        assert run.returncode != 0 and f"palimpsest: {said}" in run.stdout + run.stderr, run.stderr
        assert "Traceback" not in run.stdout + run.stderr


def test_a_script_says_it_in_one_line(project: Path) -> None:
    run = subprocess.run(
        [sys.executable, "scripts/erase.py", "nudity", "dm3", "mini", "0"], capture_output=True, text=True, env={"PYTHONPATH": str(TOP)}
    )
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert run.stderr.strip().splitlines()[-1].startswith("palimpsest: params.yaml: methods: unknown 'dm3'; did you mean 'dm2'?")


@pytest.mark.parametrize("file", sorted((TOP / "data/presets").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_preset_is_an_entry_for_every_concept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bound to the signature, for every concept that there is."""
    monkeypatch.chdir(TOP)
    settings = params.load()
    section = "methods" if file.stem in signatures.registry("methods") else "attacks"
    for name in sheets.presets(file.stem):
        changed = {**settings, section: {**settings[section], "tried": {"of": file.stem, "preset": name}}}
        params.check(changed)
        for concept in sheets.concepts():
            of, given = entries.plugin(changed, section, "tried", concept)
            taken = signatures.settings(section, of)
            assert of == file.stem and all(signatures.fits(value, taken[key].annotation) for key, value in given.items())


def test_an_entry_stands_on_top_of_its_preset() -> None:
    settings = params.load()
    settings["methods"]["tried"] = {"of": "rece", "preset": "official", "settings": {"rounds": 9}, "for": {"church": {"rho": 0.5}}}
    params.check(settings)
    assert entries.plugin(settings, "methods", "tried", "church")[1] == {"rho": 0.5, "rounds": 9}
    assert entries.plugin(settings, "methods", "tried", "van_gogh")[1]["target"] == "art"
    settings["methods"]["tried"]["preset"] = "oficial"
    with pytest.raises(params.ParamsError, match=r"preset: unknown 'oficial'; did you mean 'official'\?"):
        params.check(settings)


def test_dvc_may_rewrite_the_file(tmp_path: Path) -> None:
    """`dvc exp run -S` writes params.yaml anew, without the quotes that a word such as "off" would need; all else must read the same."""
    from dvc.utils.hydra import apply_overrides

    before = yaml.safe_load((TOP / "params.yaml").read_text())
    shutil.copy(TOP / "params.yaml", tmp_path / "params.yaml")
    apply_overrides(str(tmp_path / "params.yaml"), ["pool.images=97"])
    after = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert after["pool"].pop("images") == 97 and before["pool"].pop("images") != 97
    assert after == before


def test_tables_outside_the_grid_can_be_asked_for_together(project: Path) -> None:
    """Their plans are written while Snakemake plans, which looks into a folder once."""
    tables = [f"results/{concept}/sld/table.csv" for concept in ("violence", "french_horn", "van_gogh", "crayon")]
    run = snakemake("-n", *tables)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {line.split()[1] for line in run.stdout.splitlines() if line.startswith("report ")} == {"4"}


def test_what_plug_ins_need_is_what_families_speak_of() -> None:
    from palimpsest import families

    for axis in ("methods", "attacks"):
        for name in signatures.registry(axis):
            assert set(signatures.literal(axis, name, "NEEDS") or ()) <= set(families.NEEDS)
    for name in signatures.registry("families"):
        assert signatures.literal("families", name, "LACKS") == families.named(name).LACKS and set(families.named(name).LACKS) <= set(
            families.NEEDS
        )


def test_what_plug_ins_learn_from_can_be_counted() -> None:
    for axis in params.VARIED:
        for name in signatures.registry(axis):
            needed = signatures.literal(axis, name, "PICTURES") or {}
            assert (
                needed.keys() <= entries.COUNTS.keys()
                and {n for n in needed.values() if isinstance(n, str)} <= signatures.settings(axis, name).keys()
            )


def test_a_base_of_the_papers_takes_its_protocol(project: Path) -> None:
    """Presets in place of the settings for the embedded model, its own prompts, pool and scores; `under` stands on top."""
    change(project, "methods/esd-u/under", {"papers": {"preset": "official", "settings": {"steps": 7}}})
    settings = params.load()
    assert entries.plugin(settings, "methods", "esd", "church", "sd14")[1] == {"variant": "x", "texts": "train"}
    assert entries.plugin(settings, "methods", "rece", "nudity", "sd14")[1] == {"rho": 0.1, "rounds": 3}
    assert entries.plugin(settings, "attacks", "sneaky", "nudity", "sd14")[1]["threshold"] == 0.26, "there is no preset darkminer"
    assert entries.plugin(settings, "methods", "esd-u", "church", "sd14")[1] == {"variant": "u", "latent_alignment": "legacy", "steps": 7}
    assert entries.plugin(settings, "methods", "esd", "church", "mini")[1] == settings["methods"]["esd"]["settings"]
    assert (
        entries.examined(settings, "prompts", "sd14")["of"] == "frozen" and entries.examined(settings, "prompts", "mini")["of"] == "grammar"
    )
    assert set(entries.examined(settings, "scores", "sd14")) != set(entries.examined(settings, "scores", "mini"))


def test_words_and_anchor_may_differ_between_judges(project: Path) -> None:
    """What stands for nudity in the embedded model's world is no word of it elsewhere."""
    settings = params.load()
    mini, papers = (plan.plan("gen_prompts", {"concept": "nudity", "base": base}, settings)["concept"] for base in ("mini", "sd14"))
    assert (mini["words"], papers["words"]) == (["nudity", "nude mannequin"], ["nudity"])
    assert (mini["anchor"], papers["anchor"]) == ("a dressed doll", "a person wearing clothes")
    file = project / "data/concepts/nudity.yaml"
    file.write_text(file.read_text().replace(", papers: [nudity]", ""))
    with pytest.raises(params.ParamsError, match=r"nudity.yaml: words says nothing for 'papers', which `detectors` has; add it"):
        sheets.concept("nudity")
    settings["bases"]["mini"]["detectors"] = "others"
    with pytest.raises(params.ParamsError, match=r"violence.yaml: detectors has no 'others', which bases.mini asks for"):
        plan.plan("gen_prompts", {"concept": "violence", "base": "mini"}, settings)


def test_a_variant_says_what_is_its_own_under_a_protocol(project: Path) -> None:
    """Its settings do not count there: without a word of its own it would be the entry that it varies."""
    assert entries.plugin(params.load(), "methods", "dm2-plain", "nudity", "sd14") == ("dm2", {"ahead": 16, "mining": False})
    change(project, "methods/dm2-plain/under", {})
    said = r"methods\.dm2-plain would be dm2 on sd14: .* `under: {papers: {settings: \.\.\.}}`"
    with pytest.raises(params.ParamsError, match=said):
        entries.plugin(params.load(), "methods", "dm2-plain", "nudity", "sd14")
    assert not entries.plugin(params.load(), "methods", "dm2-plain", "nudity", "mini")[1]["mining"]


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("bases/sd14/protocol", "paper", ["bases.sd14.protocol", "'paper'", "did you mean 'papers'"]),
        ("bases/sdxl/family", "sdlx", ["bases.sdxl.family", "'sdlx'", "did you mean 'sdxl'"]),
        ("bases/sd14/sampler", "dim", ["bases.sd14.sampler", "'dim'", "did you mean 'ddim'"]),
        ("protocols/papers/prompts/of", "frosen", ["protocols.papers.prompts.of", "'frosen'", "did you mean 'frozen'"]),
        ("protocols/papers/pool/images", "many", ["protocols.papers.pool.images", "'many'", "int"]),
        ("protocols/papers/minutes", {"erase@*": "long"}, ["protocols.papers.minutes.erase@*", "'long'", "float"]),
        ("methods/esd/under", {"paper": {}}, ["methods.esd.under", "'paper'", "did you mean 'papers'"]),
        ("methods/esd/for", {"objct": {}}, ["methods.esd.for", "'objct'", "did you mean 'object'"]),
        ("methods/esd/under", None, ["methods.esd.under", "None is no mapping"]),
        ("methods/esd/under", {"papers": None}, ["methods.esd.under.papers", "None is no mapping"]),
        ("methods/esd/under", {"papers": {"settings": {"taw": 1}}}, ["methods.esd.under.papers.settings", "'taw'"]),
        ("methods/esd/under", {"papers": {"of": "dm2"}}, ["methods.esd.under.papers", "'of'", "allowed: preset, settings, for"]),
        ("protocols/papers/presets", ["darkmimer", "offical"], ["protocols.papers.presets", "'darkmimer'", "did you mean 'darkminer'"]),
        ("protocols/papers/presets", "darkminer", ["protocols.papers.presets is no list of names", "`presets: [...]`"]),
        ("protocols/papers/presets", None, ["protocols.papers.presets is no list of names"]),
        ("protocols/papers/presets", [1], ["protocols.papers.presets", "unknown 1"]),
        ("protocols/papers/preserved", None, ["protocols.papers.preserved is no list of names"]),
        ("protocols/papers/preserved", "other", ["protocols.papers.preserved is no list of names", "`preserved: [...]`"]),
        ("protocols/papers/scores/lpips", {"fro": 1}, ["protocols.papers.scores.lpips", "'fro'"]),
        ("protocols/papers/scores/perceptual", ..., ["protocols.papers.scores.perceptual is missing"]),
    ],
)
def test_protocols_are_checked(project: Path, key: str, value: Any, said: list[str]) -> None:
    test_one_line_names_key_and_remedy(project, key, value, said)


def test_without_presets_too_what_an_entry_says_under_a_protocol_stands_on_top(project: Path) -> None:
    change(project, "protocols/papers/presets", ...)
    change(project, "methods/esd/under", {"papers": {"settings": {"texts": "train", "lr": 1.0e-5}, "for": {"church": {"lr": 2.0e-5}}}})
    settings = params.load()
    own = settings["methods"]["esd"]["settings"]
    assert entries.plugin(settings, "methods", "esd", "church", "sd14")[1] == {**own, "texts": "train", "lr": 2.0e-5}
    assert entries.plugin(settings, "methods", "esd", "nudity", "sd14")[1] == {**own, "texts": "train", "lr": 1.0e-5}
    assert entries.plugin(settings, "methods", "esd", "church", "mini")[1] == own
    change(project, "methods/esd/under", {"papers": {"settings": {"lr": "small"}}})
    with pytest.raises(params.ParamsError, match=r"methods\.esd\.under\.papers\.settings\.lr: 'small' is not of type float"):
        params.load()


def test_the_plan_of_the_papers_and_its_cost(project: Path) -> None:
    """For looking alone: without -n it is one line, and nothing is touched."""
    run = snakemake("-n", "--quiet", "all", "--configfile", "params/sd14.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"estimate: \d+ jobs to make, \d+ GPU hours by the `minutes` of their protocols", run.stderr), run.stderr
    assert not (project / "results/plan").exists()
    run = snakemake("--cores", "1", "--configfile", "params/sd14.yaml")
    assert run.returncode != 0 and "they are for looking (-n); write the setting into params.yaml" in run.stdout + run.stderr
    assert "Traceback" not in run.stderr
