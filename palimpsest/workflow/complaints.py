"""What is said of a mistake in params.yaml: one line that names the key, what is allowed, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class ParamsError(Exception):
    """Something in params.yaml or a concept file is wrong; the message is one line for the person who wrote it."""


def near(name: object, allowed: Iterable[object]) -> str:
    """The end of a complaint: the likeliest meaning and what is allowed."""
    names = [str(a) for a in allowed]
    close = difflib.get_close_matches(str(name), names, 1)
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" allowed: {', '.join(names)}"


def known(key: str, names: Iterable[object], allowed: Iterable[object]) -> None:
    allowed = list(allowed)
    for name in names:
        if name not in allowed:
            raise ParamsError(f"params.yaml: {key}: unknown {name!r}{near(name, allowed)}")


def typed(key: str, value: Any, kind: type) -> None:
    whole = kind is float and isinstance(value, int) and not isinstance(value, bool)
    if not whole and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise ParamsError(f"params.yaml: {key}: {value!r} is not of type {kind.__name__}; write a {kind.__name__} there")


def mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ParamsError(f"params.yaml: {key}: {value!r} is no mapping; write `key: value` lines below it")
    return value


def listed(key: str, said: Any, allowed: Iterable[object]) -> None:
    """A list of names, each of them known."""
    if not isinstance(said, list) or not said:
        raise ParamsError(f"params.yaml: {key} is no list of names; write `{key.rpartition('.')[2]}: [...]` with at least one")
    known(key, said, allowed)


def least(key: str, value: Any, lowest: int, highest: float = float("inf")) -> None:
    """A whole number that is not below the lowest, nor above the highest."""
    typed(key, value, int)
    if value < lowest:
        raise ParamsError(f"params.yaml: {key}: {value} is too small; write {lowest} or more")
    if value > highest:
        raise ParamsError(f"params.yaml: {key}: {value} is too large; write {highest} or less")
