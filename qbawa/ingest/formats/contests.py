"""Questions with several answers and what was said of them: what preference data and evaluations come to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from qbawa.ingest.formats.step_rows import BadRecordError
from qbawa.model_apis.answers import answer_of
from qbawa.model_apis.any_form import answer_in, conversation, question_in
from qbawa.model_apis.frameworks import role_of
from qbawa.model_apis.shapes import shown

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|User|Assistant|System): ?")
_WHO = ("role", "sender", "speaker", "author", "from", "who", "participant", "type")
_SAID = ("content", "text", "value", "message", "body", "utterance", "msg")
_SPEAKERS = {
    "customer": "user", "client": "user", "visitor": "user", "prompter": "user", "q": "user", "question": "user",
    "agent": "assistant", "chatbot": "assistant", "support": "assistant", "answer": "assistant", "a": "assistant",
}  # fmt: skip
_ROLES = {"Human": "user", "User": "user", "Assistant": "assistant", "System": "system"}


@dataclass(frozen=True, slots=True)
class Given:
    """One answer, canonical, and the strategy that it is of."""

    strategy: str
    answer: Any
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a judge said of two answers of a contest, by their places in it."""

    a: int
    b: int
    preference: float | None
    """0 to 1 towards a; None: the judge spoke, but not so that it could be read."""
    judge: str
    rationale: str | None = None
    shown_first: str | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Contest:
    """A question, answers to it, and opinions on these. Without `messages` only the id says what was asked."""

    messages: list[dict[str, Any]] | None
    answers: Sequence[Given]
    opinions: Sequence[Opinion] = ()
    request: str | None = None
    """None: named after its content."""
    step: str | None = None
    inputs: dict[str, Any] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    at: datetime | None = None


class Pair(NamedTuple):
    messages: list[dict[str, Any]]
    parameters: dict[str, Any]
    first: Any
    second: Any


def pair(question: Any, first: Any, second: Any) -> Pair:
    """A question and two answers to it.

    Answers may be texts, objects, messages, or whole conversations (lists, transcripts), whose shared beginning is the
    question then. Raises BadRecordError where they differ in more than the last answer.
    """
    asked = question_in(question) if question not in (None, "", [], {}) else None
    if asked is None and question not in (None, "", [], {}):
        raise BadRecordError("wrong_type", f"the question is {shown(question)}")
    messages = asked.asked.messages if asked else []
    if isinstance(question, str):
        messages = transcript(question) or messages
    parameters = asked.asked.parameters if asked else {}
    talks = [talk_of(first), talk_of(second)]
    if all(talks):
        one, two = (talk or [] for talk in talks)
        shared = 0
        while shared < min(len(one), len(two)) and one[shared] == two[shared]:
            shared += 1
        # Two equal answers are shared too; the question ends before them.
        shared = min(shared, len(one) - 1, len(two) - 1)
        if len(one) != shared + 1 or len(two) != shared + 1:
            what = f"the conversations differ in more than their last answer (message {shared + 1} of {len(one)} and {len(two)})"
            raise BadRecordError("unreadable_pair", what)
        if any(talk[-1].get("role") != "assistant" for talk in (one, two)):
            raise BadRecordError("unreadable_pair", "a conversation does not end with an answer")
        if shared:
            beginning = one[:shared]
            messages = (
                beginning if beginning[: len(messages)] == messages or not messages else _joined(messages, beginning)
            )
        answers = [answer_of(one[-1]), answer_of(two[-1])]
    else:
        answers = [canonical(first), canonical(second)]
    if any(answer is None for answer in answers):
        raise BadRecordError("missing_field", "an answer is null")
    if not messages:
        raise BadRecordError("missing_field", "the question")
    return Pair(messages, parameters, answers[0], answers[1])


def _joined(messages: list[dict[str, Any]], beginning: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation that holds the question has all of it; else it goes on from there."""
    if beginning[0].get("role") in ("system", "user"):
        systems = [message for message in messages if message.get("role") == "system"]
        return beginning if beginning[0].get("role") == "system" else [*systems, *beginning]
    return [*messages, *beginning]


def talk_of(value: Any) -> list[dict[str, Any]] | None:
    """The messages of a conversation, a message or a transcript; None for anything else."""
    if isinstance(value, str):
        return transcript(value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        return None
    found = conversation(value)
    return found.messages if found else _loose(value)


def _loose(items: list[Any]) -> list[dict[str, Any]] | None:
    """Messages whose speaker and text are called otherwise than any API calls them."""
    found = []
    for item in items:
        if not isinstance(item, dict):
            return None
        who = next((item[name] for name in _WHO if isinstance(item.get(name), str)), None)
        said = next((item[name] for name in _SAID if isinstance(item.get(name), str)), None)
        role = _SPEAKERS.get(who.lower()) or role_of(who) if who else None
        if role is None or said is None:
            return None
        found.append({"role": role, "content": said})
    return found


def transcript(text: str) -> list[dict[str, Any]] | None:
    """Messages of a text such as `Human: … Assistant: …`, blank lines between them; None where it is none."""
    parts = _SPEAKER.split(text)
    if len(parts) < 3 or parts[0].strip():
        return None
    said = [{"role": _ROLES[who], "content": what.strip()} for who, what in zip(parts[1::2], parts[2::2], strict=True)]
    # "Assistant:" at the end of a prompt asks for the answer.
    return said[:-1] if said[-1] == {"role": "assistant", "content": ""} and len(said) > 1 else said


def canonical(value: Any) -> Any:
    """An answer of any form; an object that is no answer of a model stays as it is."""
    if value is None or isinstance(value, str):
        return value
    found = answer_in(value)
    return value if found is None or found.output is None else found.output


def ranked(order: Sequence[tuple[int, float]], judge: str, rationale: str | None = None) -> list[Opinion]:
    """Every two of (place, worth): the one of more worth is better, equal worth is a tie."""
    return [
        Opinion(a, b, 0.5 if one == two else float(one > two), judge, rationale)
        for number, (a, one) in enumerate(order)
        for b, two in order[number + 1 :]
    ]
