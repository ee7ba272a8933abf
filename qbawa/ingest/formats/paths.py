"""Where a value stands in a record: `question`, `conversations[0].value`, `messages[role=user].content`, `$.meta.model`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qbawa.errors import InputError
from qbawa.ingest.formats.content import json_value

_STEP = re.compile(r"""\.?(?:\[(-?\d+)\]|\["([^"]*)"\]|\[([^\]=]+)=([^\]]*)\]|([^.\[\]]+))""")
HELP = 'conversations[0].value, messages[role=user].content, ["a key.with dots"], $.of_the_whole_record, ^.one_up, or =a constant'


@dataclass(frozen=True, slots=True)
class Path:
    """A parsed path. `up` is None for one that starts at the whole record, else how many elements further out it starts."""

    text: str
    constant: str | None
    up: int | None
    steps: tuple[int | str | tuple[str, str], ...]

    def of(self, scopes: Sequence[Any]) -> Any:
        """The value, None where there is none. `scopes`: the record, then the elements within elements, innermost last."""
        if self.constant is not None:
            return self.constant
        if self.up is None:
            value = scopes[0]
        else:
            if self.up >= len(scopes):
                return None
            value = scopes[-1 - self.up]
            # A column may be called `a.b`.
            if isinstance(value, dict) and self.text in value:
                return value[self.text]
        for step in self.steps:
            value = _at(json_value(value), step)
        return value


def parse(text: str) -> Path:
    """The path that a text says. Raises InputError where it is none."""
    if text.startswith("="):
        return Path(text, text[1:], 0, ())
    rest, up = text, 0
    if rest == "$" or rest.startswith(("$.", "$[")):
        return Path(text, None, None, _steps(text, rest[1:]))
    while rest.startswith("^"):
        rest, up = rest[1:].removeprefix("."), up + 1
    return Path(text, None, up, _steps(text, rest))


def _steps(text: str, rest: str) -> tuple[int | str | tuple[str, str], ...]:
    found: list[int | str | tuple[str, str]] = []
    at = 0
    while at < len(rest):
        step = _STEP.match(rest, at)
        if step is None:
            raise InputError(f"'{text}' is no path. Write {HELP}.")
        number, quoted, key, value, name = step.groups()
        found.append(
            int(number) if number else (key, value.strip("\"'")) if key else quoted if quoted is not None else name
        )
        at = step.end()
    return tuple(found)


def _at(value: Any, step: int | str | tuple[str, str]) -> Any:
    if isinstance(step, str):
        return value.get(step) if isinstance(value, dict) else None
    if not isinstance(value, list):
        return None
    if isinstance(step, int):
        return value[step] if -len(value) <= step < len(value) else None
    key, wanted = step
    return next((item for item in value if isinstance(item, dict) and str(item.get(key)) == wanted), None)


def elements(record: Any, each: str | None) -> Iterator[tuple[Any, ...]]:
    """The scopes of each element that `each` (`data[]`, `data[].qas[]`) says; of the record itself without."""
    chains: list[tuple[Any, ...]] = [(record,)]
    for part in [piece for piece in (each or "").split("[]") if piece.strip(".")]:
        path = parse(part.strip("."))
        chains = [
            (*chain, element)
            for chain in chains
            for element in _listed(json_value(path.of(chain)))
        ]  # fmt: skip
    yield from chains


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
