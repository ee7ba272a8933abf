"""Session logs of coding agents: Claude Code's lines, and Codex' rollouts.

A line alone asks nothing: the question of a model call is the whole conversation before it. So these are read in order.
Each prompt of the user is a request; each answer of the model a step of it; each tool that ran a step below that answer.
What the agent told the model besides (system prompt, definitions of tools) is not in Claude Code's log.
"""

from collections.abc import Iterator
from typing import Any

from qbawa.ingest.formats.content import Unread
from qbawa.ingest.formats.step_rows import Origin, content_text, moment, step_row
from qbawa.ingest.journal_lines import Step
from qbawa.model_apis.any_form import answer_in, conversation
from qbawa.model_apis.shapes import json_text, kind_of

_CLAUDE = (
    "user",
    "assistant",
    "system",
    "summary",
    "file-history-snapshot",
    "queue-operation",
    "attachment",
    "progress",
)
_CODEX = ("session_meta", "response_item", "event_msg", "turn_context", "compacted")
_OF_MODEL = frozenset({"reasoning", "function_call", "custom_tool_call", "local_shell_call", "web_search_call"})
INCOMPLETE = "qbawa.incomplete"
"""Tag of a question of which the log keeps a part alone."""


def is_session(record: dict[str, Any]) -> bool:
    return _is_claude(record) or _is_codex(record)


def _is_claude(record: dict[str, Any]) -> bool:
    kind = record.get("type")
    if kind in ("user", "assistant"):
        return isinstance(record.get("message"), dict) and ("sessionId" in record or "uuid" in record)
    return kind in _CLAUDE and bool(record.keys() & {"sessionId", "leafUuid", "messageId", "uuid"})


def _is_codex(record: dict[str, Any]) -> bool:
    return record.get("type") in _CODEX and isinstance(record.get("payload"), dict)


class Sessions:
    """Reads the lines of one file. `take` yields what is known after each, `end` what was waiting."""

    def __init__(self) -> None:
        self._claude = _Claude()
        self._codex = _Codex()

    def take(self, record: dict[str, Any], origin: Origin) -> Iterator[Any]:
        reader = self._codex if _is_codex(record) else self._claude
        yield from reader.take(record, origin)

    def end(self) -> Iterator[Any]:
        yield from self._claude.end()
        yield from self._codex.end()


class _Claude:
    """One conversation for each session, and one for each of its side chains."""

    def __init__(self) -> None:
        self._talks: dict[str, list[dict[str, Any]]] = {}
        self._requests: dict[str, str] = {}
        self._calls: dict[str, tuple[str, Any, Any, str]] = {}
        self._waiting: dict[str, tuple[dict[str, Any], list[Any], Origin]] = {}

    def take(self, record: dict[str, Any], origin: Origin) -> Iterator[Any]:
        message = record.get("message")
        if record.get("type") not in ("user", "assistant") or not isinstance(message, dict):
            return
        key = f"{record.get('sessionId')}{'/side' if record.get('isSidechain') else ''}"
        content = message.get("content")
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
        if record["type"] == "assistant":
            waiting = self._waiting.get(key)
            # One answer may stand in several lines, a block in each.
            if waiting and message.get("id") and waiting[0]["message"].get("id") == message["id"]:
                first = {name: waiting[0].get(name) for name in ("uuid", "timestamp")}
                self._waiting[key] = ({**record, **first}, waiting[1] + blocks, origin)
                return
            yield from self._finish(key)
            self._waiting[key] = (record, blocks, origin)
            return
        yield from self._finish(key)
        results = [block for block in blocks if isinstance(block, dict) and kind_of(block) == "tool_result"]
        if not results and not record.get("isMeta"):
            self._requests[key] = f"{record.get('sessionId')}.{record.get('uuid')}"
        for block in results:
            yield from self._result(block, record, origin)
        found = conversation([{"role": "user", "content": content if isinstance(content, str) else blocks}])
        if found:
            self._talks.setdefault(key, []).extend(found.messages)

    def end(self) -> Iterator[Any]:
        for key in list(self._waiting):
            yield from self._finish(key)

    def _finish(self, key: str) -> Iterator[Any]:
        """The row of the answer whose lines are complete."""
        waiting = self._waiting.pop(key, None)
        if waiting is None:
            return
        record, blocks, origin = waiting
        message = record["message"]
        talk = self._talks.setdefault(key, [])
        unread = Unread(f"answer {record.get('uuid')}")
        answer = answer_in({"type": "message", **message, "content": blocks})
        if answer is None:
            unread.add("message", message)
        session = str(record.get("sessionId"))
        request = self._requests.get(key, session)
        id = str(record.get("uuid") or message.get("id") or "")
        failed = record.get("isApiErrorMessage")
        yield step_row(
            origin,
            step="claude-code.subagent" if record.get("isSidechain") else "claude-code",
            recording_id=id,
            request_id=request,
            pipeline="claude-code",
            started_at=record.get("timestamp"),
            messages=[*talk] or None,
            output=None if failed else answer.output if answer else blocks,
            reasoning=answer.reasoning if answer else None,
            model=message.get("model"),
            input_tokens=answer.input_tokens if answer else None,
            output_tokens=answer.output_tokens if answer else None,
            error={"type": "api_error", "message": content_text(blocks) or "", "traceback": ""} if failed else None,
            tags=_tags(record),
        )
        yield from unread.errors()
        found = conversation([{"role": "assistant", "content": blocks}])
        talk.extend(found.messages if found else [])
        for block in blocks:
            if isinstance(block, dict) and kind_of(block) == "tool_use":
                self._calls[str(block.get("id"))] = (
                    str(block.get("name")),
                    block.get("input"),
                    record.get("timestamp"),
                    id,
                )

    def _result(self, block: dict[str, Any], record: dict[str, Any], origin: Origin) -> Iterator[Step]:
        own = str(block.get("tool_use_id"))
        call = self._calls.pop(own, None)
        if call is None:
            return
        name, given, began, above = call
        key = f"{record.get('sessionId')}{'/side' if record.get('isSidechain') else ''}"
        yield _tool_row(origin, own, name, given, block.get("content"), began, record.get("timestamp"), above,
                        self._requests.get(key, str(record.get("sessionId"))), bool(block.get("is_error")))  # fmt: skip


class _Codex:
    """The items of one rollout, which are those of the Responses API."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._open: list[Any] = []
        self._about: dict[str, Any] = {}
        self._turn: dict[str, Any] = {}
        self._request = ""
        self._origin: Origin | None = None
        self._at: Any = None
        self._number = 0
        self._usage: dict[str, Any] = {}
        self._calls: dict[str, tuple[str, Any, Any, str]] = {}

    def take(self, record: dict[str, Any], origin: Origin) -> Iterator[Any]:
        payload, kind, at = record["payload"], record["type"], record.get("timestamp")
        self._origin = self._origin or origin
        if kind == "session_meta":
            self._about = payload
        elif kind == "turn_context":
            self._turn = payload
        elif kind == "event_msg" and kind_of(payload) == "token_count":
            info = payload.get("info")
            usage = info.get("last_token_usage") if isinstance(info, dict) else None
            self._usage = usage if isinstance(usage, dict) else {}
            yield from self._finish()
        elif kind == "response_item":
            yield from self._item(payload, at, origin)

    def _item(self, item: dict[str, Any], at: Any, origin: Origin) -> Iterator[Any]:
        kind = kind_of(item)
        if item.get("role") == "assistant" or kind in _OF_MODEL:
            if not self._open:
                self._at = at
            self._open.append(item)
            self._origin = origin
            if kind in ("function_call", "custom_tool_call"):
                given = item.get("arguments", item.get("input"))
                self._calls[str(item.get("call_id"))] = (
                    str(item.get("name")),
                    given,
                    at,
                    f"{self._session()}.{self._number}",
                )
            return
        yield from self._finish()
        if item.get("role") == "user" and not str(content_text(item.get("content")) or "").startswith("<"):
            self._request = f"{self._session()}.{len(self._items)}"
        if kind in ("function_call_output", "custom_tool_call_output"):
            call = self._calls.pop(str(item.get("call_id")), None)
            if call:
                name, given, began, above = call
                yield _tool_row(origin, f"{self._session()}.{item.get('call_id')}", name, given, item.get("output"), began,
                                at, above, self._request or self._session(), False)  # fmt: skip
        self._items.append(item)

    def end(self) -> Iterator[Any]:
        yield from self._finish()

    def _session(self) -> str:
        return str(self._about.get("id") or (self._origin.digest[:32] if self._origin else ""))

    def _finish(self) -> Iterator[Any]:
        if not self._open or self._origin is None:
            return
        items, self._open = self._open, []
        answer = answer_in(items)
        unread = Unread(f"answer {self._number + 1}")
        if answer is None:
            unread.add("response_item", items)
        found = conversation(self._items) if self._items else None
        instructions = self._about.get("base_instructions") or self._about.get("instructions")
        text = instructions.get("text") if isinstance(instructions, dict) else instructions
        system = [{"role": "system", "content": text}] if isinstance(text, str) and text else []
        usage, self._usage = self._usage, {}
        yield step_row(
            self._origin,
            step="codex",
            recording_id=f"{self._session()}.{self._number}",
            request_id=self._request or self._session(),
            pipeline="codex",
            started_at=self._at,
            messages=[*system, *(found.messages if found else [])] or None,
            output=answer.output if answer else items,
            reasoning=answer.reasoning if answer else None,
            model=self._turn.get("model") or self._about.get("model"),
            input_tokens=usage.get("input_tokens"),
            output_tokens=usage.get("output_tokens"),
            tags={"session": self._session(), "cwd": self._about.get("cwd"), INCOMPLETE: "definitions of tools"},
        )
        yield from unread.errors()
        self._items += items
        self._number += 1


def _tool_row(
    origin: Origin,
    id: str,
    name: str,
    given: Any,
    said: Any,
    began: Any,
    ended: Any,
    above: str,
    request: str,
    failed: bool,
) -> Step:
    text = content_text(said) if isinstance(said, list) else said
    said = said if text is None else text
    return step_row(
        origin,
        step=name,
        recording_id=id,
        request_id=request,
        parent_id=above,
        started_at=began or ended,
        latency_s=max((moment(ended) - moment(began)).total_seconds(), 0.0) if began and ended else None,
        inputs=given if isinstance(given, dict) else {"arguments": given},
        output=None if failed else said,
        error={"type": "tool_error", "message": json_text(said), "traceback": ""} if failed else None,
    )


def _tags(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "session": record.get("sessionId"),
        "cwd": record.get("cwd"),
        "branch": record.get("gitBranch"),
        "version": record.get("version"),
        INCOMPLETE: "system prompt and definitions of tools",
    }
