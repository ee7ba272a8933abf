"""A file that no format knows, read by a mapping: which of its fields is what."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from qbawa.errors import InputError
from qbawa.ids import content_id
from qbawa.ingest.formats.content import json_value, tools_in
from qbawa.ingest.formats.contests import Contest, Given, Opinion, canonical, pair, ranked, talk_of, transcript
from qbawa.ingest.formats.openai import error_of
from qbawa.ingest.formats.paths import Path, elements, parse
from qbawa.ingest.formats.step_rows import (
    BadRecordError,
    Origin,
    amount,
    count,
    feedback_row,
    moment,
    step_row,
    text_or_none,
)
from qbawa.ingest.journal_lines import Feedback, Step
from qbawa.model_apis.answers import answer_of, reasoning_of
from qbawa.model_apis.any_form import answer_in, question_in
from qbawa.model_apis.shapes import shown

Kind = Literal["recordings", "answers", "matches"]
_QUESTION = ("question", "messages", "system", "tools", "parameters", "inputs", "request_id", "step")
_NUMBERS = ("input_tokens", "output_tokens", "cost_usd", "latency_s", "latency_ms")
FIELDS: dict[Kind, tuple[str, ...]] = {
    "recordings": (
        *_QUESTION, "answer", "reasoning", "model", "recording_id", "parent_id", "started_at", "ended_at", *_NUMBERS,
        "user", "tags", "error", "score", "comment",
    ),
    "answers": (*_QUESTION, "strategy", "answer", "model", *_NUMBERS, "answered_at", "score", "rank", "judge", "rationale"),
    "matches": (
        *_QUESTION, "chosen", "rejected", "answer_a", "answer_b", "strategy_a", "strategy_b", "verdict", "preference",
        "score_a", "score_b", "judge", "rationale", "order_shown", "cost_usd", "judged_at",
    ),
}  # fmt: skip
SIDES = (("chosen", "rejected"), ("answer_a", "answer_b"))
_TIES = {"tie", "draw", "both", "equal", "tie (bothbad)", "both_bad", "both bad", "same"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field's value stands: at the first path, or at several that are joined."""

    paths: tuple[Path, ...]
    values: Mapping[str, str] = field(default_factory=dict)
    """What the file's values mean, such as {"0": "a", "1": "b"}."""
    range: tuple[float, float] | None = None
    """For a preference: the number that says b, and the one that says a."""

    def of(self, scopes: tuple[Any, ...]) -> Any:
        """The value; several texts are joined by a blank line, those that are empty left out."""
        found = [path.of(scopes) for path in self.paths]
        if len(found) == 1:
            value = found[0]
            if self.values:
                word = str(value).lower() if isinstance(value, bool) else str(value)
                return self.values.get(word, value)
            return value
        texts = [str(value) for value in found if value not in (None, "", [], {})]
        return "\n\n".join(texts) or None

    def named(self, scopes: tuple[Any, ...]) -> dict[str, Any]:
        """The values by the last names of their paths."""
        names = [
            next((step for step in reversed(path.steps) if isinstance(step, str)), path.text) for path in self.paths
        ]
        return {
            path.text if names.count(name) > 1 else name: path.of(scopes)
            for name, path in zip(names, self.paths, strict=True)
        }


@dataclass(frozen=True, slots=True)
class FileMapping:
    kind: Kind
    fields: Mapping[str, Place]
    each: str | None = None
    step: str = "chat"
    text: str = ""
    """What it was made of, by which two mappings are told apart."""


def parse_mapping(said: Mapping[str, Any], where: str) -> FileMapping:
    """The mapping that an object says: fields with their paths, and perhaps kind, each, step. Raises InputError."""
    fields = said.get("fields", {key: value for key, value in said.items() if key not in ("kind", "each", "step")})
    if not isinstance(fields, dict) or not fields:
        raise InputError(f"{where} names no fields. Write for example: fields: {{question: prompt, answer: output}}.")
    fields = dict(fields)
    step = said.get("step", "chat")
    if "fields" not in said and isinstance(step, str) and step.startswith(("$", "^", ".")):
        fields["step"], step = step.removeprefix("."), "chat"
    kind = said.get("kind") or _kind_of(fields)
    if kind not in FIELDS:
        raise InputError(f"{where}: there is no kind '{kind}'. Kinds: {', '.join(FIELDS)}.")
    allowed = FIELDS[cast(Kind, kind)]
    strange = [str(name) for name in fields if name not in allowed]
    if strange:
        raise InputError(f"{where}: {kind} have no field {', '.join(strange)}. Fields: {', '.join(allowed)}.")
    _require(cast(Kind, kind), fields, where)
    places = {name: _place(value, f"{where}, {name}") for name, value in fields.items()}
    return FileMapping(cast(Kind, kind), places, said.get("each"), str(step), repr(sorted(said.items(), key=str)))


def _kind_of(fields: Mapping[str, Any]) -> str:
    if any(name in fields for names in SIDES for name in names):
        return "matches"
    return "answers" if "strategy" in fields else "recordings"


def _require(kind: Kind, fields: Mapping[str, Any], where: str) -> None:
    if kind == "matches":
        if not any(all(name in fields for name in names) for names in SIDES):
            raise InputError(f"{where}: matches need chosen and rejected, or answer_a and answer_b.")
    elif kind == "answers" and "answer" not in fields:
        raise InputError(f"{where}: answers need the field answer.")
    elif not any(name in fields for name in ("messages", "answer")):
        raise InputError(f"{where}: recordings need question and answer, or messages.")
    elif "messages" not in fields and "question" not in fields and "inputs" not in fields:
        raise InputError(f"{where}: recordings need question, messages or inputs.")


def _place(said: Any, where: str) -> Place:
    options: Mapping[str, Any] = said if isinstance(said, dict) else {"path": said}
    paths = options.get("path")
    paths = (
        paths
        if isinstance(paths, list)
        else paths.split("+")
        if isinstance(paths, str) and not paths.startswith("=")
        else [paths]
    )
    if not paths or not all(isinstance(path, str | int) for path in paths):
        raise InputError(f"{where}: write a path, a list of paths, or {{path: …, values: {{…}}}}, not {said!r:.60}.")
    values, bounds = options.get("values") or {}, options.get("range")
    if not isinstance(values, dict) or not (bounds is None or isinstance(bounds, list) and len(bounds) == 2):
        raise InputError(f"{where}: values is an object, range a list of two numbers.")
    return Place(
        tuple(parse(str(path).strip()) for path in paths),
        {str(key).lower() if isinstance(key, bool) else str(key): str(value) for key, value in values.items()},
        None if bounds is None else (float(bounds[0]), float(bounds[1])),
    )


def check(mapping: FileMapping, sample: Sequence[dict[str, Any]], where: str) -> None:
    """Raise InputError where a path of the question or of an answer leads nowhere in all of the sample's records."""
    scopes = [chain for record in sample for chain in elements(record, mapping.each)]
    if sample and not scopes:
        raise InputError(f"{where}: `each: {mapping.each}` finds nothing in its first {len(sample)} records.")
    for name in ("question", "messages", "inputs", "answer", *(side for sides in SIDES for side in sides)):
        for path in mapping.fields[name].paths if name in mapping.fields else ():
            if scopes and all(path.of(chain) is None for chain in scopes):
                keys = [str(key) for key in scopes[0][-1]] if isinstance(scopes[0][-1], dict) else []
                raise InputError(
                    f"{where}: {name} is said to be at '{path.text}', which is null or absent in the first "
                    f"{len(scopes)} records. The first has the keys {', '.join(keys)[:200] or 'none'}."
                )


def read_recordings(
    mapping: FileMapping, record: dict[str, Any], origin: Origin
) -> Iterator[Step | Feedback | BadRecordError]:
    """A row an answer: of a conversation, every message of the assistant is one, and all before it its question."""
    for number, scopes in enumerate(elements(record, mapping.each)):
        try:
            yield from _recording(_Read(mapping, scopes), mapping, origin, number)
        except BadRecordError as error:
            yield error


def _recording(
    read: "_Read", mapping: FileMapping, origin: Origin, number: int
) -> Iterator[Step | Feedback | BadRecordError]:
    own = content_id("recording", origin.step, origin.digest, str(number))
    request = text_or_none(read("request_id"), "request_id") or own
    latency = read.latency()
    tags = mapping.fields["tags"].named(read.scopes) if "tags" in mapping.fields else {}
    if len(tags) == 1 and isinstance(inner := json_value(next(iter(tags.values()))), dict):
        tags = inner
    common: dict[str, Any] = {
        "step": text_or_none(read("step"), "step") or mapping.step, "request_id": request, "model": read("model"),
        "started_at": read("started_at"), "ended_at": read("ended_at"), "latency_s": latency, "user": read("user"),
        "input_tokens": read("input_tokens"), "output_tokens": read("output_tokens"), "cost_usd": read("cost_usd"),
        "tags": tags, "parent_id": read("parent_id"), "error": error_of(read("error")) if read("error") else None,
    }  # fmt: skip
    messages, parameters, inputs = read.question()
    common |= {"parameters": parameters, "inputs": inputs}
    id = text_or_none(read("recording_id"), "recording_id")
    if "answer" in mapping.fields:
        value = json_value(read("answer"))
        if read.unread:
            yield BadRecordError("unreadable_call", "; ".join(read.unread))
        found = answer_in(value) if value not in (None, {}, []) else None
        output = value if found is None or found.output is None else found.output
        if not messages and inputs is None and not read.unread:
            yield BadRecordError("missing_field", "the question is null or not there")
        if output is None and not common["error"]:
            yield BadRecordError("no_answer", f"{mapping.fields['answer'].paths[0].text} is null or not there")
        for name in ("messages", "question"):
            body = json_value(read(name))
            if common["model"] is None and isinstance(body, dict) and isinstance(body.get("model"), str):
                common["model"] = body["model"]
        if found:
            # A whole response says more than the answer.
            for name in ("model", "input_tokens", "output_tokens"):
                common[name] = getattr(found, name) if common[name] is None else common[name]
        reasoning = read("reasoning") or (found.reasoning if found else None)
        yield step_row(
            origin, recording_id=id or own, messages=messages, output=output,
            reasoning=reasoning if isinstance(reasoning, str) else None, **common,
        )  # fmt: skip
    else:
        if read.unread or not messages:
            raise BadRecordError("unreadable_call", "; ".join(read.unread) or "no messages")
        turns = [place for place, message in enumerate(messages) if message.get("role") == "assistant" and place]
        if not turns:
            raise BadRecordError("no_answer", "no message of the assistant follows a question")
        for turn, place in enumerate(turns):
            said = messages[place]
            yield step_row(
                origin, recording_id=f"{id or request}/{turn}" if len(turns) > 1 else id or f"{request}/0",
                messages=messages[:place], output=answer_of(said), reasoning=reasoning_of(said), **common,
            )  # fmt: skip
    score, comment = read("score"), read("comment")
    if score is not None or comment:
        yield feedback_row(
            request, read("started_at") or origin.fallback_at, _number(score, "score"), text_or_none(comment, "comment")
        )


def read_contests(mapping: FileMapping, record: dict[str, Any], origin: Origin) -> Iterator[Contest | BadRecordError]:
    """The matches of a record, or its answers; scores and ranks of answers that stand in one record are opinions."""
    groups: dict[str, tuple[Contest, list[Given], list[tuple[int, float]], str]] = {}
    for scopes in elements(record, mapping.each):
        read = _Read(mapping, scopes)
        try:
            if mapping.kind == "matches":
                yield _match(read)
                continue
            contest = read.contest()
            group = groups.setdefault(
                repr((contest.request, contest.step, contest.messages, contest.inputs)),
                (contest, [], [], text_or_none(read("judge"), "judge") or "scores"),
            )
            worth = _number(read("score"), "score")
            if worth is None and (rank := _number(read("rank"), "rank")) is not None:
                worth = -rank
            given = _given(read)
            if worth is not None:
                group[2].append((len(group[1]), worth))
            group[1].append(given)
        except BadRecordError as error:
            yield error
    for contest, answers, order, judge in groups.values():
        yield Contest(
            contest.messages, answers, ranked(order, judge), contest.request, contest.step, contest.inputs,
            contest.parameters, contest.at,
        )  # fmt: skip
        if len(order) == 1 and mapping.each:
            yield BadRecordError("lone_score", f"{order[0][1]:g}: there is nothing to compare it with")


def _given(read: "_Read") -> Given:
    answer = canonical(json_value(read("answer")))
    if answer is None:
        raise BadRecordError("no_answer", "the answer is null or not there")
    strategy = text_or_none(read("strategy"), "strategy") or text_or_none(read("model"), "model")
    return Given(
        strategy or "imported", answer, text_or_none(read("model"), "model"), count(read("input_tokens"), "input tokens"),
        count(read("output_tokens"), "output tokens"), amount(read("cost_usd"), "cost"), amount(read.latency(), "latency"),
    )  # fmt: skip


def _match(read: "_Read") -> Contest:
    sides = next(names for names in SIDES if all(name in read.mapping.fields for name in names))
    first, second = (json_value(read(side)) for side in sides)
    if first in (None, [], {}) or second in (None, [], {}):
        raise BadRecordError("no_answer", f"{sides[0] if first in (None, [], {}) else sides[1]} is null or not there")
    about = read.contest()
    messages, _, first, second = pair(about.messages, first, second)
    names = [text_or_none(read(f"strategy_{side}"), "strategy") for side in "ab"]
    fallback = sides if sides[0] == "chosen" else ("a", "b")
    shown_first = read("order_shown")
    opinion = Opinion(
        0, 1, 1.0 if sides[0] == "chosen" else _preference(read, names),
        text_or_none(read("judge"), "judge") or "preferences",
        text_or_none(read("rationale"), "rationale"), shown_first if shown_first in ("a", "b") else None,
        amount(read("cost_usd"), "cost"),
    )  # fmt: skip
    answers = [
        Given(name or word, answer, name) for name, word, answer in zip(names, fallback, (first, second), strict=True)
    ]
    return Contest(messages, answers, [opinion], about.request, about.step, about.inputs, about.parameters, about.at)


def _preference(read: "_Read", names: list[str | None]) -> float | None:
    said = read("verdict")
    if said not in (None, ""):
        word = str(said).strip().lower()
        if word in ("a", "b", *_TIES):
            return {"a": 1.0, "b": 0.0}.get(word, 0.5)
        if said in names:
            return 1.0 if said == names[0] else 0.0
        known = ", ".join(["a", "b", "tie", *(name for name in names if name)])
        raise BadRecordError(
            "wrong_type", f"verdict is {said!r:.60}, not one of {known}; say what it means in `values`"
        )
    number = _number(read("preference"), "preference")
    if number is not None:
        low, high = read.mapping.fields["preference"].range or (0.0, 1.0)
        share = (number - low) / (high - low) if high != low else math.nan
        if not 0 <= share <= 1:
            raise BadRecordError("wrong_type", f"preference is {number:g}, not between {low:g} (b) and {high:g} (a)")
        return share
    scores = [_number(read(f"score_{side}"), f"score_{side}") for side in "ab"]
    if scores[0] is None or scores[1] is None:
        return None
    return 0.5 if scores[0] == scores[1] else float(scores[0] > scores[1])


class _Read:
    """One element's fields by our names. `unread` collects what of the question was not understood."""

    def __init__(self, mapping: FileMapping, scopes: tuple[Any, ...]) -> None:
        self.mapping, self.scopes, self.unread = mapping, scopes, list[str]()

    def __call__(self, name: str) -> Any:
        place = self.mapping.fields.get(name)
        value = None if place is None else place.of(self.scopes)
        return None if isinstance(value, float) and math.isnan(value) else value

    def latency(self) -> Any:
        ms = amount(self("latency_ms"), "latency")
        return self("latency_s") if ms is None else ms / 1_000

    def question(self) -> tuple[list[dict[str, Any]] | None, dict[str, Any], dict[str, Any] | None]:
        """messages, parameters and inputs."""
        messages: list[dict[str, Any]] | None = None
        parameters = json_value(self("parameters"))
        parameters = dict(parameters) if isinstance(parameters, dict) else {}
        inputs = self._inputs()
        for name in ("messages", "question"):
            value = json_value(self(name))
            if value in (None, "", [], {}) or messages:
                continue
            found = transcript(value) if isinstance(value, str) else talk_of(value)
            asked = None if found else question_in(value)
            if asked:
                found, parameters = asked.asked.messages, {**asked.asked.parameters, **parameters}
            if found:
                messages = found
            elif name == "messages" or not isinstance(value, dict | list | int | float):
                self.unread.append(f"{name} is {shown(value)}")
            else:
                inputs = inputs or (value if isinstance(value, dict) else {"question": value})
        place = self.mapping.fields.get("question")
        if place and len(place.paths) > 1 and inputs is None:
            parts = {name: value for name, value in place.named(self.scopes).items() if value not in (None, "")}
            inputs = {**parts, "question": place.of(self.scopes)} if len(parts) > 1 else None
        system = self("system")
        if isinstance(system, str) and system and messages and messages[0].get("role") != "system":
            messages = [{"role": "system", "content": system}, *messages]
        if tools := tools_in(self("tools")):
            parameters["tools"] = tools
        return messages, parameters, inputs

    def _inputs(self) -> dict[str, Any] | None:
        place = self.mapping.fields.get("inputs")
        if place is None:
            return None
        value = json_value(self("inputs")) if len(place.paths) == 1 else None
        return value if isinstance(value, dict) and value else place.named(self.scopes)

    def contest(self) -> Contest:
        """The question of a contest, without its answers."""
        messages, parameters, inputs = self.question()
        if self.unread:
            raise BadRecordError("unreadable_call", "; ".join(self.unread))
        request = text_or_none(self("request_id"), "request_id")
        if not messages and request is None and inputs is None and self.mapping.kind != "matches":
            raise BadRecordError("missing_field", "the question")
        at = self("judged_at") or self("answered_at")
        step = text_or_none(self("step"), "step") or self.mapping.step
        return Contest(messages, (), (), request, step, inputs, parameters, moment(at) if at else None)


def _number(value: Any, name: str) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return float(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadRecordError("wrong_type", f"{name} is {value!r:.60}, not a number") from None
    return None if math.isnan(number) else number


SHAREGPT = parse_mapping(
    {
        "kind": "recordings",
        "fields": {"messages": "conversations", "request_id": "id", "system": "system", "tools": "tools"},
    },
    "",
)


def is_sharegpt(record: dict[str, Any]) -> bool:
    talk = record.get("conversations")
    return (
        isinstance(talk, list) and bool(talk) and isinstance(talk[0], dict) and "from" in talk[0] and "value" in talk[0]
    )


def read_sharegpt(record: dict[str, Any], origin: Origin) -> Iterator[Step | Feedback | BadRecordError]:
    """Conversations as ShareGPT writes them, a row an answer."""
    yield from read_recordings(SHAREGPT, record, origin)
