"""Code counts by what it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest.workflow import code

PLAIN = "from x import y\n\n\ndef f(a, b=2):\n    return y(a) + b\n\n\nclass C:\n    n: int = 1\n"


@pytest.mark.parametrize(
    "same",
    [
        '"""Words."""\n' + PLAIN,
        PLAIN.replace("    return", "    # why\n    return"),
        PLAIN.replace("    return", '    """What."""\n    return'),
        PLAIN.replace("f(a, b=2):", "f(a: int, b: float = 2) -> float:"),
        PLAIN.replace("y(a) + b", "(\n        y(\n            a,\n        )\n        + b\n    )"),
        PLAIN.replace("class C:\n", 'class C:\n    """A class."""\n\n'),
    ],
)
def test_words_and_layout_change_nothing(same: str) -> None:
    assert code.meaning(same, "a.py") == code.meaning(PLAIN, "a.py")


@pytest.mark.parametrize(
    "other",
    [
        PLAIN.replace("b=2", "b=3"),
        PLAIN.replace("+ b", "- b"),
        PLAIN.replace("y(a)", "y(b)"),
        PLAIN.replace("n: int = 1", "n: int = 2"),
        PLAIN.replace("from x import y", "from z import y"),
        PLAIN.replace("f(a, b=2)", "f(b, a=2)"),
        PLAIN + "f(1)\n",
        '"a string that is"\n"two statements"\n' + PLAIN,
    ],
)
def test_what_runs_differently_counts(other: str) -> None:
    assert code.meaning(other, "a.py") != code.meaning(PLAIN, "a.py")


def test_what_is_no_python_counts_by_its_characters() -> None:
    assert code.meaning("<p>a</p>", "a.html") != code.meaning("<p>a </p>", "a.html")


def test_an_accepted_change_counts_as_what_it_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "- {file: a.py, was: one, now: two}\n- {file: a.py, was: two, now: three}\n- {file: b.py, was: x, now: two}\n"
    (tmp_path / "accepted.yaml").write_text(rows)
    monkeypatch.setattr(code, "ACCEPTED", tmp_path / "accepted.yaml")
    code.accepted.cache_clear()
    try:
        assert [code.counts_as("a.py", now) for now in ("one", "two", "three", "four")] == ["one", "one", "one", "four"]
        assert code.counts_as("b.py", "two") == "x"
    finally:
        code.accepted.cache_clear()
