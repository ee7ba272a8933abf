"""What a prompt asks for and the text it is about, for any prompt template.

The offline models have to work with whatever template a strategy brings, so they look for the text the way a reader
would: inside a tag, inside a fence, after a label such as `Article:`, and else in the paragraphs that do not read
like instructions.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from qbawa.engine.offline_models.text import word_set

FIELDS = ("category", "priority", "sentiment")

_TAG = re.compile(r"<([A-Za-z][A-Za-z_]{0,30})>")
_FENCE = re.compile(r'^[ \t]*("""|```|---+|===+)[a-z]*[ \t]*$', re.MULTILINE)
_LABEL = re.compile(
    r"^[ \t]*[#*_]{0,3}[ \t]*(article|ticket|text|message|document|story|input|email)\b[ \t]*[*_]{0,2}[ \t]*:[*_]{0,2}",
    re.IGNORECASE | re.MULTILINE,
)
_CLOSING_LABEL = re.compile(
    r"^[ \t]*[#*_]{0,3}[ \t]*(?:(?:one[- ]sentence )?summary|answer|json|output|triage|sentence|result)\b"
    r"[^\n]{0,30}:[*_ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_ORDERS = word_set(
    """sum summarise summarize write read give answer reply return classify triage you your please in state tell
    using now remember do don't be keep respond output extract what use condense imagine act here below then only"""
)
_ABOUT_THE_TASK = re.compile(
    r"summar|\bsum\b.*\bup\b|sentence|\bjson\b|^\W*(?:answer|reply|respond|write|return)\b|classif|triage|\bkeys\b|article|ticket",
    re.IGNORECASE,
)
_MAX_WORDS = re.compile(
    r"(?:at most|no more than|under|fewer than|less than|below|maximum(?: of)?|max\.?|up to|within|in)\s+"
    r"(?:about\s+)?(\d{1,3})\s+words"
    r"|(\d{1,3})\s+words\s+(?:at most|or fewer|or less|maximum|max)|(\d{1,3})-word\b",
    re.IGNORECASE,
)
_BARE = re.compile(
    r"\bonly\b|\balone\b|nothing else|\bjust the\b|(?:no|without|without any) (?:preamble|introduction)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Brief:
    """One prompt, understood."""

    source: str
    """The text to work on; empty where the prompt has none."""
    instruction: str
    """Everything else that was said, system message included."""
    examples: tuple[str, ...] = ()
    """Earlier answers shown in the conversation: few-shot examples."""
    wants_json: bool = False

    @property
    def max_words(self) -> int | None:
        """The length the prompt asks for, if it names one."""
        found = [int(next(filter(None, groups))) for groups in _MAX_WORDS.findall(self.instruction)]
        return max(1, min(found)) if found else None

    @property
    def bare(self) -> bool:
        """True where the prompt forbids words around the answer."""
        return bool(_BARE.search(self.instruction))

    @property
    def fields(self) -> tuple[str, ...]:
        """The JSON keys asked for, of those the triage models know; all of them where the prompt names none."""
        named = tuple(field for field in FIELDS if re.search(rf"\b{field}\b", self.instruction, re.IGNORECASE))
        return named or FIELDS


def read_prompt(messages: Sequence[Mapping[str, Any]]) -> Brief:
    """The brief in a conversation; the last user message holds the text to work on."""
    return _read(
        tuple((str(message.get("role", "user")), content_text(message.get("content"))) for message in messages)
    )


@lru_cache(maxsize=1024)
def _read(turns: tuple[tuple[str, str], ...]) -> Brief:
    asked = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=len(turns) - 1)
    if asked < 0:
        return Brief("", "")
    source, around = find_source(turns[asked][1])
    system = [text for role, text in turns if role in ("system", "developer")]
    instruction = "\n".join([*system, around])
    examples = tuple(text for role, text in turns[:asked] if role == "assistant")
    return Brief(source, instruction, examples, bool(re.search(r"\bjson\b", instruction, re.IGNORECASE)))


def content_text(content: Any) -> str:
    """A message's content as text, whether it is a string, a list of parts, nothing, or something unforeseen."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list):
        parts = (part.get("text", "") if isinstance(part, dict) else part for part in content)
        return "\n".join(part for part in parts if isinstance(part, str))
    return json.dumps(content, ensure_ascii=False, default=str)


def find_source(text: str) -> tuple[str, str]:
    """The text a prompt is about, and the rest of the prompt."""
    for find in (_tagged, _fenced, _labelled):
        span = find(text)
        if span:
            start, end = span
            return text[start:end].strip(), (text[:start] + "\n" + text[end:]).strip()
    return _paragraphs(text)


def _tagged(text: str) -> tuple[int, int] | None:
    spans: dict[str, list[tuple[int, int]]] = {}
    for opening in list(_TAG.finditer(text))[:64]:
        end = text.find(f"</{opening.group(1)}>", opening.end())
        if end > opening.end():
            spans.setdefault(opening.group(1), []).append((opening.end(), end))
    if not spans:
        return None
    # Examples come before the text itself, so of the most spacious kind of tag the last one counts.
    name = max(spans, key=lambda tag: max(end - start for start, end in spans[tag]))
    return spans[name][-1]


def _fenced(text: str) -> tuple[int, int] | None:
    fences = list(_FENCE.finditer(text))[:64]
    pairs = [
        (opening.end(), closing.start())
        for opening, closing in zip(fences, fences[1:], strict=False)
        if opening.group(1) == closing.group(1)
    ]
    return max(pairs, key=lambda span: span[1] - span[0], default=None)


def _labelled(text: str) -> tuple[int, int] | None:
    labels = list(_LABEL.finditer(text))
    if not labels:
        return None
    name = labels[0].group(1).lower()
    start = [label.end() for label in labels if label.group(1).lower() == name][-1]
    closing = _CLOSING_LABEL.search(text, start)
    end = closing.start() if closing else len(text)
    parts = re.split(r"(\n\s*\n)", text[start:end])
    while len(parts) > 2 and (_is_order(parts[-1]) or not parts[-1].strip()):
        parts = parts[:-2]
    return start, start + len("".join(parts))


def _paragraphs(text: str) -> tuple[str, str]:
    opening, colon, after = text.lstrip().partition(":")
    if colon and "\n" not in opening and after.strip() and _is_order(opening + colon):
        return after.strip(), opening
    parts = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    first, last = 0, len(parts)
    while first < last - 1 and _is_order(parts[first]):
        first += 1
    while last > first + 1 and _is_order(parts[last - 1]):
        last -= 1
    return "\n\n".join(parts[first:last]).strip(), "\n\n".join(parts[:first] + parts[last:])


def _is_order(paragraph: str) -> bool:
    said = paragraph.split()
    if not said or len(said) > 60 or not _ABOUT_THE_TASK.search(paragraph):
        return False
    return paragraph.rstrip().endswith(":") or said[0].strip("\"'*#,.:").lower() in _ORDERS
