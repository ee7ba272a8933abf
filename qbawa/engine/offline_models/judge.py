"""Judges that score each answer by a rubric and compare the scores.

A judge reads the question and the answers from the judge prompt and nothing else. It scores every answer on its own,
so the order in which the answers are shown cannot matter (only `judge-hasty` is made to have that flaw). What an
answer says about the judging is text to be measured like any other: no words in it can change the rubric or the form
of the reply.

The wire: the last user message holds `<question>…</question>` and `<answer_1>…</answer_1>`, `<answer_2>…`, each a
JSON value with `<` escaped, so nothing inside can close a tag. Two answers: `{"rationale", "verdict": "1"|"2"|"tie",
"preference": 0–1 towards 1}`. One: `{"rationale", "score": 0–10}`. More: `{"rationale", "ranking": [numbers, best
first]}`.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from qbawa.engine.offline_models.prompt import Brief, content_text, read_prompt
from qbawa.engine.offline_models.summaries import Text, take_apart
from qbawa.engine.offline_models.text import MAX_CHARACTERS, STOP_WORDS, sentences, stems, word_set, words
from qbawa.engine.offline_models.triage import PRIORITIES, evidence

# Nothing inside a block contains "<", so a tag that the prompt merely mentions never matches.
_BLOCK = re.compile(r"<(question|answer_\d{1,3})>([^<]*)</\1>")
_FENCED = re.compile(r"```(?:json)?\s*(\{[^`]*\})\s*```")
_PREAMBLE = re.compile(
    r"^\W*(?:(?:sure|certainly|of course|okay|ok|here(?:'s|’s| is| are)|in summary|in short|to sum(?:marise|marize)? up"
    r"|the article|this article|the text|this text|i'd be|i would be|as an ai)\b|summary\s*:)",
    re.IGNORECASE,
)
_PLEASANTRY = re.compile(r"let me know|happy to help|hope this helps|feel free to|would you like", re.IGNORECASE)
_DANGLING = word_set("it they he she this that these those but and however so then yet still his her their its there")

_TIE = 0.015  # scores nearer than this are a tie
_SCALE = 0.08  # a difference of this much means 73 % confidence


@dataclass(frozen=True, slots=True)
class Score:
    """A total from 0 to 1 and what it was made of."""

    total: float
    notes: str


def judge(messages: Sequence[Mapping[str, Any]]) -> str:
    """Verdict of the even-handed judge: a weighted sum of coverage, brevity and form."""
    return _reply(messages, _even_summary, _even_triage)


def judge_strict(messages: Sequence[Mapping[str, Any]]) -> str:
    """Verdict of the strict judge: overlap with the core of the text, multiplied down by each fault of form."""
    return _reply(messages, _strict_summary, _strict_triage)


def judge_hasty(messages: Sequence[Mapping[str, Any]]) -> str:
    """Verdict of a judge with two known flaws: it reads twelve words of each answer and leans to the one shown first.

    For trying out the measurement of judges: position bias should be found in it and not in the others.
    """
    return _reply(messages, _hasty_summary, _even_triage, lean=0.06)


Rubric = Callable[[Brief, str], Score]


def _reply(messages: Sequence[Mapping[str, Any]], summary: Rubric, triage: Rubric, lean: float = 0.0) -> str:
    asked: Mapping[str, Any] = next((m for m in reversed(messages) if m.get("role", "user") == "user"), {})
    blocks = {name: _decode(inside) for name, inside in _BLOCK.findall(content_text(asked.get("content")))}
    numbers = sorted(int(name.removeprefix("answer_")) for name in blocks if name.startswith("answer_"))
    if "question" not in blocks or not numbers:
        return "I need a question and at least one answer to judge."
    brief = read_question(blocks["question"])
    rubric = triage if brief.wants_json else summary
    scores = {number: rubric(brief, content_text(blocks[f"answer_{number}"])) for number in numbers}
    rationale = " ".join(f"Answer {n}: {scores[n].total:.2f} ({scores[n].notes})." for n in numbers)
    # The schema in the system message tells a ranking of two answers from a comparison.
    ranks = any('"ranking"' in content_text(m.get("content")) for m in messages if m.get("role") == "system")
    if len(numbers) == 1 and not ranks:
        return json.dumps({"rationale": rationale, "score": round(10 * scores[numbers[0]].total, 2)})
    if ranks or len(numbers) > 2:
        return json.dumps({"rationale": rationale, "ranking": sorted(numbers, key=lambda n: (-scores[n].total, n))})
    first, second = numbers
    ahead = scores[first].total + lean - scores[second].total
    verdict = "tie" if abs(ahead) < _TIE else str(first if ahead > 0 else second)
    preference = round(1 / (1 + math.exp(-ahead / _SCALE)), 4)
    return json.dumps({"rationale": rationale, "verdict": verdict, "preference": preference})


def _decode(inside: str) -> Any:
    try:
        return json.loads(inside)
    except (ValueError, RecursionError):
        return inside.strip()


def read_question(question: Any) -> Brief:
    """What was asked, whether the question is a prompt, a list of messages, or the inputs of a step."""
    if isinstance(question, str):
        return read_prompt([{"role": "user", "content": question}])
    if isinstance(question, list) and question and all(isinstance(t, dict) and "content" in t for t in question):
        return read_prompt(question)
    if isinstance(question, dict) and isinstance(question.get("messages"), list):
        return read_question(question["messages"])
    texts = _strings(question)
    if not texts:
        return Brief("", "")
    # The step's text is by far the longest of its inputs; the others say what is wanted.
    name, source = max(texts, key=lambda pair: len(pair[1]))
    rest = "\n".join(text for key, text in texts if text is not source)
    return Brief(source, rest, (), name == "ticket" or bool(re.search(r"\bjson\b", rest, re.IGNORECASE)))


def _strings(value: Any, name: str = "", depth: int = 0) -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(name, value)]
    if depth > 8:
        return []
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _strings(item, str(key), depth + 1)]
    return [found for item in value for found in _strings(item, name, depth + 1)] if isinstance(value, list) else []


# Summaries.


@lru_cache(maxsize=512)
def _core(source: str, size: int) -> tuple[dict[str, float], float]:
    """Weight of each content stem (repeated words are what the text is about), and the sum of the `size` heaviest."""
    weights = {word: float(n) if n > 1 else 0.4 for word, n in take_apart(source).counts.items()}
    return weights, sum(sorted(weights.values(), reverse=True)[:size]) or 1.0


@dataclass(frozen=True, slots=True)
class _Form:
    words: int
    sentences: int
    preamble: bool
    dangling: bool
    unfinished: bool
    word_list: bool

    @property
    def faults(self) -> list[str]:
        named = {
            "preamble": self.preamble,
            "dangling opening": self.dangling,
            "unfinished": self.unfinished,
            "a list of words": self.word_list,
        }
        return [name for name, present in named.items() if present]


def _form(source: str, answer: str) -> _Form:
    said = words(answer)
    return _Form(
        words=len(said),
        sentences=len(sentences(answer)),
        preamble=bool(_PREAMBLE.search(answer) or _PLEASANTRY.search(answer)),
        dangling=bool(said) and said[0].lower() in _DANGLING,
        unfinished=answer.rstrip().rstrip('"”’»)]')[-1:] not in tuple(".!?…。！？"),
        # A sentence needs its small words. Only where the text has them too: the list of them is English.
        word_list=len(said) >= 3 and _small_words(source) > 0.2 and _small_words(answer) < 0.1,
    )


@lru_cache(maxsize=1024)
def _small_words(text: str) -> float:
    said = words(text[:MAX_CHARACTERS])
    return sum(word.lower() in STOP_WORDS for word in said) / (len(said) or 1)


def _reach(source: str, said: set[str]) -> float:
    """Share of the text's five stretches that the answer takes two content words from; one word counts half."""
    content = take_apart(source).stems
    size = max(1, -(-len(content) // 5))
    stretches = [set().union(*content[i : i + size]) for i in range(0, len(content), size)]
    return sum(min(2, len(stretch & said)) / 2 for stretch in stretches) / (len(stretches) or 1)


def _even_summary(brief: Brief, answer: str) -> Score:
    form = _form(brief.source, answer)
    if not form.words:
        return Score(0.0, "empty")
    weights, reachable = _core(brief.source, 12)
    said = set(stems(answer))
    coverage = min(1.0, sum(weights.get(word, 0.0) for word in said) / reachable)
    reach = _reach(brief.source, said)
    # A paraphrase brings words of its own; more than half of them new is another story.
    grounded = min(1.0, 2 * sum(word in weights for word in said) / (len(said) or 1))
    brevity = min(1.0, max(0.0, (60 - form.words) / 32))
    one = 0.0 if form.word_list else {1: 1.0, 2: 0.4}.get(form.sentences, 0.0)
    clean = 0.08 * (not form.preamble) + 0.04 * (not form.dangling) + 0.04 * (not form.unfinished)
    total = 0.3 * coverage + 0.25 * reach + 0.15 * brevity + 0.14 * one + clean
    total *= 0.4 + 0.6 * grounded
    measured = f"coverage {coverage:.2f}, reach {reach:.2f}, grounded {grounded:.2f}"
    notes = f"{measured}, {form.words} words, {form.sentences} sentence(s)"
    return Score(total, ", ".join([notes, *form.faults]))


@lru_cache(maxsize=512)
def _spread(text_key: str) -> tuple[dict[str, int], float]:
    """In how many sentences each stem stands, and the sum over the ten widest."""
    text: Text = take_apart(text_key)
    spread: dict[str, int] = {}
    for content in text.stems:
        for word in set(content):
            spread[word] = spread.get(word, 0) + 1
    return spread, float(sum(sorted(spread.values(), reverse=True)[:10])) or 1.0


def _strict_summary(brief: Brief, answer: str) -> Score:
    form = _form(brief.source, answer)
    if not form.words:
        return Score(0.0, "empty")
    spread, reachable = _spread(brief.source)
    said = set(stems(answer))
    recall = min(1.0, sum(spread.get(word, 0) for word in said) / reachable)
    shared = sum(spread.get(word, 0) >= 2 for word in said) / (len(said) or 1)
    overlap = 5 * recall * shared / (4 * shared + recall) if recall + shared else 0.0  # F2: recall counts double
    total = overlap * min(1.0, 25 / form.words)
    total *= (
        0.6 ** (form.sentences > 1)
        * 0.5**form.preamble
        * 0.85**form.dangling
        * 0.8**form.unfinished
        * 0.5**form.word_list
    )
    notes = f"core overlap {overlap:.2f}, {form.words} words, {form.sentences} sentence(s)"
    return Score(total, ", ".join([notes, *form.faults]))


def _hasty_summary(brief: Brief, answer: str) -> Score:
    glimpse = " ".join(answer.split()[:12])
    weights, reachable = _core(brief.source, 6)
    coverage = min(1.0, sum(weights.get(word, 0.0) for word in set(stems(glimpse))) / reachable)
    total = (0.7 * coverage + 0.3 * (len(answer.split()) < 40)) * 0.6 ** _form(brief.source, answer).word_list
    return Score(total, f"coverage {coverage:.2f} at a glance")


# Triage.


def _even_triage(brief: Brief, answer: str) -> Score:
    return _triage(brief, answer, recovered=0.7, power=1.5)


def _strict_triage(brief: Brief, answer: str) -> Score:
    return _triage(brief, answer, recovered=0.3, power=3.0)


def _triage(brief: Brief, answer: str, recovered: float, power: float) -> Score:
    """How well the ticket supports each value, and the right keys; times `recovered` for JSON inside other text."""
    found, alone = _parse_object(answer)
    if found is None:
        return Score(0.0, "no JSON object")
    support = evidence(brief.source)
    wanted = brief.fields
    keys = sum(field in found for field in wanted) / (len(wanted) + len(set(found) - set(wanted)))
    fit = sum(_fit(field, found.get(field), support) ** power for field in wanted) / len(wanted)
    total = (0.25 * keys + 0.75 * fit) * (1.0 if alone else recovered)
    return Score(total, f"{'JSON' if alone else 'JSON inside other text'}, keys {keys:.2f}, fits the ticket {fit:.2f}")


def _parse_object(answer: str) -> tuple[dict[str, Any] | None, bool]:
    whole = _decode(answer)
    if isinstance(whole, dict):
        return whole, True
    fenced = _FENCED.search(answer)
    inside = fenced.group(1) if fenced else answer[answer.find("{") : answer.rfind("}") + 1]
    part = _decode(inside) if inside else None
    return (part, False) if isinstance(part, dict) else (None, False)


def _fit(field: str, value: Any, support: Mapping[str, Mapping[str, float]]) -> float:
    scores = support.get(field, {})
    if not isinstance(value, str) or value not in scores:
        return 0.0
    if field != "priority":
        return scores[value]
    # One level off is half a mistake.
    expected = max(scores, key=lambda name: scores[name])
    near = 1 - abs(PRIORITIES.index(value) - PRIORITIES.index(expected)) / 2
    return max(scores[value], near, 0.0)
