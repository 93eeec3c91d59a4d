"""`settle` and `keep` over a temporary tree: what counts as up to date, and which time stamp says so."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from palimpsest.files import md5
from palimpsest.workflow import keep, memory, plan, record, settle
from palimpsest.workflow.jobs import Job


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two jobs in a row, made and stated: plan a -> a.json + a.safetensors -> b.json."""
    monkeypatch.chdir(tmp_path)
    for cached in (memory.lock, keep.cache_folder):
        cached.cache_clear()
    put("results/plan/a.json", {"settings": {"lr": 1}, "code": {"palimpsest/x.py": "one"}})
    put("results/plan/b.json", {})
    first, second = chain()
    for job in (first, second):
        begun = memory.begun(job)
        for out in job.outs:
            put(out, {"made by": job.name, "file": out})
        memory.ended(job, begun)
    return tmp_path


def chain() -> Sequence[Job]:
    first = Job("a", {"concept": "c"}, "python a c", ("results/plan/a.json",), ("results/a.json", "results/a.safetensors"), {})
    second = Job(
        "b", {"concept": "c"}, "python b c", ("results/plan/b.json", "results/a.json", "results/a.safetensors"), ("results/b.json",), {}
    )
    return first, second


def put(file: str, value: object, seconds: int = 0) -> None:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    if seconds:
        os.utime(path, (seconds, seconds))


def age(file: str) -> int:
    return Path(file).stat().st_mtime_ns


def test_what_agrees_is_no_older_than_its_inputs(tree: Path) -> None:
    os.utime("results/a.json", (5, 5))
    os.utime("results/b.json", (4, 4))
    found = settle.settle(chain())
    assert not found.stale and not found.below and not found.edited
    assert age("results/plan/a.json") <= age("results/a.json") <= age("results/b.json")


def test_a_changed_plan_makes_stale_what_reads_it_and_what_follows(tree: Path) -> None:
    put("results/plan/a.json", {"settings": {"lr": 2}, "code": {"palimpsest/x.py": "one"}})
    found = settle.settle(chain())
    assert list(found.stale) == ["a@c"] and found.below == ["b@c"]
    assert age("results/a.json") == age("results/b.json") == settle.LONG_AGO


def test_changed_back_is_fresh_again(tree: Path) -> None:
    before = Path("results/plan/a.json").read_text()
    put("results/plan/a.json", {"settings": {"lr": 2}})
    settle.settle(chain())
    Path("results/plan/a.json").write_text(before)
    assert not settle.settle(chain()).stale
    assert age("results/a.json") <= age("results/b.json") and age("results/b.json") != settle.LONG_AGO


def test_absent_inputs_count_as_unchanged_and_do_not_hide_what_lies_above(tree: Path) -> None:
    for file in ("results/a.json", "results/a.safetensors"):
        Path(file).unlink()
    os.utime("results/b.json", (4, 4))
    assert not settle.settle(chain()).stale
    assert age("results/b.json") >= age("results/plan/a.json")
    put("results/plan/a.json", {"settings": {"lr": 2}})
    found = settle.settle(chain())
    assert list(found.stale) == ["a@c"] and found.below == ["b@c"] and age("results/b.json") == settle.LONG_AGO


def test_an_edited_result_is_named_and_not_touched(tree: Path) -> None:
    put("results/a.json", {"edited": True}, seconds=7)
    found = settle.settle(chain())
    assert found.edited == ["results/a.json"] and age("results/a.json") == 7 * 10**9


def test_a_result_of_a_killed_job_is_not_taken_for_an_edited_one(tree: Path) -> None:
    memory.started(chain()[0]).touch()
    put("results/a.json", {"half": "done"})
    found = settle.settle(chain())
    assert not found.edited and list(found.stale) == ["a@c"]


def test_tensors_that_are_gone_are_named(tree: Path) -> None:
    Path("results/a.safetensors").unlink()
    assert settle.settle(chain()).gone == ["results/a.safetensors"]


def test_a_result_without_record_is_made_again(tree: Path) -> None:
    memory.receipt(chain()[0]).unlink()
    assert settle.settle(chain()).stale == {"a@c": ["no record of how it was made"]}


def test_small_files_that_snakemake_deleted_come_back(tree: Path) -> None:
    first, _ = chain()
    Path("results/a.json").unlink()
    assert keep.keep(first)
    assert json.loads(Path("results/a.json").read_text())["made by"] == "a@c"


def test_a_result_is_kept_only_if_all_of_it_is_there(tree: Path) -> None:
    first, _ = chain()
    assert keep.keep(first)
    put("results/a.safetensors", "of another version")
    assert not keep.keep(first)


def test_what_was_made_once_comes_back_from_the_cache(tree: Path) -> None:
    first, _ = chain()
    for out in first.outs:
        value = md5(Path(out))
        put(f".dvc/cache/files/md5/{value[:2]}/{value[2:]}", json.loads(Path(out).read_text()))
        put(out, "of another version")
    assert keep.keep(first)
    assert [json.loads(Path(out).read_text())["file"] for out in first.outs] == list(first.outs)


def test_only_what_ran_outside_the_grid_is_hidden_from_dvc(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "outside", lambda _: [])
    memory.hide({})
    assert not memory.HIDDEN.exists()
    monkeypatch.setattr(memory, "outside", lambda _: chain()[:1])
    memory.hide({})
    assert memory.HIDDEN.read_text().splitlines()[1:] == ["/a.json", "/a.safetensors"]
    monkeypatch.setattr(memory, "outside", lambda _: [])
    memory.hide({})
    assert not memory.HIDDEN.exists()


def test_the_latest_statements_are_remembered_each_once(tree: Path) -> None:
    first, _ = chain()
    for n in (*range(7), 5):
        memory.state(first, memory.Statement("python a c", {"x": str(n)}, {}))
    assert [one.deps["x"] for one in memory.receipts(first)] == ["5", "6", "4", "3", "2"]


def test_differences_between_plans_name_key_and_file() -> None:
    old = {"settings": {"lr": 1, "steps": 2}, "code": {"palimpsest/x.py": "one"}, "files": {}}
    new = {"settings": {"lr": 3, "steps": 2}, "code": {"palimpsest/x.py": "two"}, "files": {"data/w": "h"}}
    assert list(plan.compare(old, new)) == ["settings.lr: 1 -> 3", "palimpsest/x.py changed", "data/w changed"]


def test_folders_are_hashed_as_dvc_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo
    from dvc_data.hashfile.build import build

    monkeypatch.chdir(tmp_path)
    for name in ("b/2.json", "b/10.json", "a.json", "b.json"):
        put(f"folder/{name}", name)
    repo = Repo.init(str(tmp_path), no_scm=True)
    _, _, found = build(repo.cache.local, str(tmp_path / "folder"), repo.cache.local.fs, "md5")
    assert memory.Hashes().everything("folder") == found.hash_info.value


def test_a_lock_that_cannot_be_read_says_what_to_do(tree: Path) -> None:
    Path("dvc.lock").write_text("<<<<<<< HEAD\nschema: '2.0'\n=======\n")
    with pytest.raises(Exception, match=r"dvc\.lock cannot be read.*git checkout --ours"):
        settle.settle(chain())


def test_stages_of_dvc_lock_are_replaced_where_they_stand() -> None:
    old = "schema: '2.0'\nstages:\n  a@1:\n    cmd: one\n  b@1:\n    cmd: two\n    deps:\n    - path: x\n  c@1:\n    cmd: three\n"
    new = "schema: '2.0'\nstages:\n  b@1:\n    cmd: else\n  d@1:\n    cmd: four\n"
    expected = "schema: '2.0'\nstages:\n  a@1:\n    cmd: one\n  b@1:\n    cmd: else\n  c@1:\n    cmd: three\n  d@1:\n    cmd: four\n"
    assert record.merged(old, new) == expected
