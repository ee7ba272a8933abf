"""What a foreign log holds at the places for question and answer, as arguments of `step_row`."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from qbawa.ingest.formats.step_rows import BadRecordError
from qbawa.model_apis.answers import answer_of
from qbawa.model_apis.any_form import Question, answer_in, question_in, tool_of
from qbawa.model_apis.shapes import Answered, shown

UNREADABLE = "unreadable_call"


class Unread:
    """Notes what of a record was not understood: it is kept as it is, and counted."""

    def __init__(self, what: str) -> None:
        self._what, self._found = what, list[str]()

    def add(self, place: str, value: Any) -> None:
        self._found.append(f"{place} is {shown(value)}")

    def errors(self) -> Iterable[BadRecordError]:
        """One error a record, none where all was understood."""
        if self._found:
            yield BadRecordError(UNREADABLE, f"{self._what}: {'; '.join(self._found)}")


def json_value(value: Any, *, quoted: bool = False) -> Any:
    """The value, read where it is the JSON text of an object or list; of a text too where all of it is `quoted`."""
    opening = ("{", "[", '"') if quoted else ("{", "[")
    for _ in range(3):
        if not isinstance(value, str) or not value.startswith(opening):
            return value
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def asked(value: Any, unread: Unread, also: Question | None = None) -> dict[str, Any]:
    """messages, parameters, api and request of what a call asked; `also` is what the log says of it elsewhere.

    What is no question becomes the inputs.
    """
    value = json_value(value)
    found = question_in(value)
    if found is None or (isinstance(value, str) and also is not None):
        found = also
    if found is None:
        if value not in (None, "", [], {}):
            unread.add("input", value)
        return {"inputs": inputs_of(value)}
    return {
        "messages": found.asked.messages,
        "parameters": found.asked.parameters,
        "api": found.api,
        "request": found.request,
        "inputs": None if found is not also or value in (None, "") else inputs_of(value),
    }


def answered(value: Any, unread: Unread, also: Answered | None = None) -> tuple[dict[str, Any], Answered]:
    """output and reasoning of what a call answered, and all else that the answer says."""
    value = json_value(value)
    found = answer_in(value) if value not in (None, {}, []) else None
    # A text may be what an instrumentation prints of an answer; messages among its attributes are the answer itself.
    if (
        also is not None
        and also.output is not None
        and (found is None or found.output is None or isinstance(value, str))
    ):
        found = also
    if found is None:
        if value not in (None, "", {}, []):
            unread.add("output", value)
            return {"output": value}, Answered()
        return {"output": None}, Answered()
    return {"output": found.output, "reasoning": found.reasoning}, found


def inputs_of(value: Any) -> dict[str, Any] | None:
    """What a function was called with, as an object."""
    if value in (None, ""):
        return None
    return value if isinstance(value, dict) else {"input": value}


def message_output(message: Any) -> Any:
    """The canonical answer of an assistant's message; anything else as it is."""
    return answer_of(message) if isinstance(message, dict) else message


def tools_in(value: Any) -> list[dict[str, Any]]:
    """Definitions of tools in a list, or in an object by their names; each may be JSON text."""
    value = json_value(value)
    if isinstance(value, Mapping):
        named = ((name, json_value(tool)) for name, tool in value.items())
        value = [{"name": name, **tool} for name, tool in named if isinstance(tool, dict)]
    listed = [json_value(tool) for tool in value] if isinstance(value, list) else []
    return [tool_of(tool) for tool in listed if isinstance(tool, dict)]
