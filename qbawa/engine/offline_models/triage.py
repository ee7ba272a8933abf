"""Rule-based triage of a support ticket: category, priority, sentiment.

`evidence` weighs every cue in the ticket; the models differ in how much of it they use and in how tidily they answer.
The judge reads the same evidence, but grades an answer by how well each value is supported instead of picking a
winner.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from qbawa.engine.offline_models.prompt import Brief
from qbawa.engine.offline_models.text import MAX_CHARACTERS, sentences, stem, words

CATEGORIES = ("billing", "login", "bug", "delivery", "correction", "privacy", "feedback", "other")
PRIORITIES = ("low", "normal", "high", "urgent")
SENTIMENTS = ("negative", "neutral", "positive")


def _set(cues: str) -> frozenset[str]:
    return frozenset(stem(word) for word in cues.split())


_CATEGORY_STEMS = {
    "billing": _set(
        """charge charged invoice refund payment paid card price bill billed bank debit renewal cancel
        subscription money euro receipt discount"""
    ),
    "login": _set(
        """login password sign-in log signed locked account reset link e-mail email code username verify
        authentication"""
    ),
    "bug": _set(
        """crash crashes app error page screen button freeze frozen loads loading blank broken update version
        phone browser video player widget tablet"""
    ),
    "delivery": _set(
        """deliver delivery delivered paper print parcel post postman doorstep arrived arrive address copy
        issue carrier magazine"""
    ),
    "correction": _set(
        """wrong mistake error incorrect correction misspelled misquoted typo fact factual article headline
        caption figure quote inaccurate wrote"""
    ),
    "privacy": _set(
        """privacy data delete erase gdpr personal tracking cookies consent comment remove photo name leaked
        published"""
    ),
    "feedback": _set(
        """love loved enjoyed thank thanks great suggestion suggest idea wish wonderful series please more
        column crossword feature"""
    ),
}
_WEAK = _set("error page account article update link issue name paper please more version comment email copy")
_MOOD_STEMS = {
    "negative": _set(
        """angry furious terrible awful disappointed unacceptable annoyed frustrated worst useless ridiculous
        never again third still wrong broken fed ashamed hurt insulting upset sad impossible complaint rude
        nobody ignored lost"""
    ),
    "positive": _set(
        """love loved great thank thanks wonderful enjoyed excellent kind happy brilliant beautiful
        delight delighted good lovely"""
    ),
}
_PRIORITY_STEMS = {
    "urgent": _set(
        """urgent urgently immediately today tonight now asap emergency danger lawyer threatened safety leaked
        stolen fraud hours deadline"""
    ),
    "high": _set(
        """twice third again still cannot can't unable locked charged wrong refund weeks soon overcharged
        misquoted failed every nothing stopped"""
    ),
    "low": _set(
        """suggestion suggest wish idea sometime whenever minor tiny small curious wondering love loved hurry little
        enjoyed"""
    ),
}


@lru_cache(maxsize=512)
def evidence(ticket: str) -> Mapping[str, Mapping[str, float]]:
    """Support from 0 to 1 for each value of each field; 1 is the best supported."""
    said = [stem(word) for word in words(ticket[:MAX_CHARACTERS])]
    # "It is not urgent" is no sign of hurry.
    different = {word for before, word in zip(["", *said], said, strict=False) if before not in ("not", "no")}
    opening = {stem(word) for sentence in sentences(ticket)[:1] for word in words(sentence)}
    category = {
        name: sum((0.4 if cue in _WEAK else 1.0) * (1.5 if cue in opening else 1.0) for cue in cues & different)
        for name, cues in _CATEGORY_STEMS.items()
    }
    category["other"] = 0.7
    shouting = min(2, ticket.count("!")) * 0.5
    bad, good = (len(_MOOD_STEMS[mood] & different) for mood in ("negative", "positive"))
    mood = {"negative": float(bad), "positive": float(good)}
    mood["positive" if good > bad else "negative"] += shouting
    mood["neutral"] = max(0.0, 1.2 - 0.5 * abs(bad - good) - 0.5 * shouting)
    hurry = {name: float(len(cues & different)) for name, cues in _PRIORITY_STEMS.items()}
    priority = {
        "urgent": 1.6 * hurry["urgent"] - 0.5 * hurry["low"],
        "high": 0.8 * hurry["high"] + 0.3 * bad + 0.4 * hurry["urgent"] - 0.5 * hurry["low"],
        "normal": 1.3 - 0.2 * hurry["urgent"],
        "low": 0.9 * hurry["low"] - 0.3 * hurry["high"] + 0.3 * category["feedback"],
    }
    return {"category": _scaled(category), "priority": _scaled(priority), "sentiment": _scaled(mood)}


def _scaled(scores: Mapping[str, float]) -> dict[str, float]:
    top = max(scores.values())
    return {name: max(0.0, score) / top if top > 0 else 1.0 for name, score in scores.items()}


def _strongest(support: Mapping[str, float]) -> str:
    return max(support, key=lambda name: support[name])


def careful(ticket: str) -> dict[str, str]:
    """Best supported category; priority follows from mood and a few plain words."""
    support = evidence(ticket)
    mood = _strongest(support["sentiment"])
    seen = {stem(word) for word in words(ticket[:MAX_CHARACTERS])}
    calm = "high" if mood == "negative" else "low" if mood == "positive" or seen & _PRIORITY_STEMS["low"] else "normal"
    priority = "urgent" if len(seen & _PRIORITY_STEMS["urgent"]) and "!" in ticket else calm
    return {"category": _strongest(support["category"]), "priority": priority, "sentiment": mood}


def counting(ticket: str) -> dict[str, str]:
    """Most cue words, all equal; priority by exclamation marks and a few words; sentiment by mood words."""
    seen = [stem(word) for word in words(ticket[:MAX_CHARACTERS])]
    hits = {name: sum(word in cues for word in seen) for name, cues in _CATEGORY_STEMS.items()}
    category = max(hits, key=lambda name: hits[name])
    mood = sum((word in _MOOD_STEMS["positive"]) - (word in _MOOD_STEMS["negative"]) for word in seen)
    pressing = any(word in _PRIORITY_STEMS["urgent"] for word in seen)
    return {
        "category": category if hits[category] else "other",
        "priority": "urgent" if pressing else "high" if "!" in ticket else "normal",
        "sentiment": "positive" if mood > 0 else "negative" if mood < 0 else "neutral",
    }


def first_match(ticket: str) -> dict[str, str]:
    """Category of the first cue word; everything is of normal priority and neutral."""
    for word in words(ticket[:MAX_CHARACTERS]):
        for name, cues in _CATEGORY_STEMS.items():
            if stem(word) in cues:
                return {"category": name, "priority": "normal", "sentiment": "neutral"}
    return {"category": "other", "priority": "normal", "sentiment": "neutral"}


def null(ticket: str) -> dict[str, str]:
    """The same for every ticket."""
    return {"category": "other", "priority": "normal", "sentiment": "neutral"}


Triage = Callable[[str], dict[str, str]]
Model = Callable[[Brief, Mapping[str, Any]], str]


def obedient(triage: Triage) -> Model:
    """The model that answers in JSON with the fields asked for, or in a plain line when nobody asked for JSON."""

    def model(brief: Brief, params: Mapping[str, Any]) -> str:
        found = triage(brief.source)
        if not brief.wants_json:
            return ", ".join(f"{field}: {found[field]}" for field in brief.fields)
        return json.dumps({field: found[field] for field in brief.fields})

    return model


def sloppy(brief: Brief, params: Mapping[str, Any]) -> str:
    """Right fields inside a code fence, after a sentence of prose unless the prompt wants only the JSON."""
    found = {field: value for field, value in careful(brief.source).items() if field in brief.fields}
    fenced = f"```json\n{json.dumps(found, indent=2)}\n```"
    return fenced if brief.bare else f"Here is the triage you asked for:\n\n{fenced}"


TRIAGERS: Mapping[str, tuple[Model, str]] = {
    "triage-careful": (obedient(careful), "weighs every cue of the ticket"),
    "triage-keywords": (obedient(counting), "counts cue words"),
    "triage-first-match": (obedient(first_match), "category of the first cue word, nothing else looked at"),
    "triage-sloppy": (sloppy, "careful, but answers inside a code fence and chats unless asked not to"),
    "triage-null": (obedient(null), "the same answer to every ticket"),
}
