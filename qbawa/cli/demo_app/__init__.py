"""The demo's material, written for this project: articles and readers' tickets."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Article:
    id: str
    title: str
    gist: str
    """One sentence by a human editor. No model or judge of the demo sees it; tests hold the judges to it."""
    text: str


@dataclass(frozen=True, slots=True)
class Ticket:
    id: str
    text: str
    category: str
    priority: str
    sentiment: str
    """The three labels were given by hand, and are used by tests alone."""

    @property
    def labels(self) -> Mapping[str, str]:
        return {"category": self.category, "priority": self.priority, "sentiment": self.sentiment}


@cache
def articles() -> tuple[Article, ...]:
    """Thirty short articles, in a fixed order."""
    return tuple(Article(**row) for row in _rows("articles.jsonl"))


@cache
def tickets() -> tuple[Ticket, ...]:
    """Thirty-four tickets to the readers' desk of a newspaper, in a fixed order."""
    return tuple(Ticket(**row) for row in _rows("tickets.jsonl"))


def _rows(name: str) -> list[dict[str, str]]:
    text = (files(__package__) / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]
