"""One line of the journal, read: a step, a request, a piece of feedback, or the reason why it is none.

Format 1 is described in docs/recording.md. Unknown fields are let pass, so that an older qbawa reads what a newer one
wrote as long as `v` stays 1.
"""

import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Raw

VERSION = 1
MAX_LINE_BYTES = 64 << 20
MAX_DEPTH = 200
"""Of nested lists and objects; Python's own JSON reader gives up before 1,000."""

REASONS = {
    "empty": "nothing but white space",
    "too_large": f"longer than {MAX_LINE_BYTES >> 20} MiB",
    "nul": "holds a NUL byte, as a file does after a power loss",
    "not_utf8": "not UTF-8",
    "truncated": "ends in the middle",
    "malformed": "not JSON",
    "too_deep": f"nested deeper than {MAX_DEPTH}",
    "not_an_object": "JSON, but not an object",
    "missing_field": "lacks a field that it must have",
    "wrong_type": "a field holds something of the wrong type or out of range",
    "unknown_kind": "neither step nor request nor feedback nor span",
    "future_version": "written by a newer qbawa; upgrade, then ingest the batch again",
    "duplicate": "an earlier line has this recording_id, or says the same feedback",
    "unreadable_call": "the row is kept, but what its model call asked or answered could not be read",
}
"""Why a line goes to quarantine. The column `reason` holds the word, then a colon and what was found."""


class BadLine(NamedTuple):
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


Id = Annotated[str, Meta(min_length=1, max_length=256)]
Name = Annotated[str, Meta(min_length=1, max_length=1024)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Amount = Annotated[float, Meta(ge=0)]
NULL = Raw(b"null")


class Step(msgspec.Struct, tag_field="kind", tag="step", gc=False):
    """One execution of a step. JSON values stay the text that they were."""

    v: int
    recording_id: Id
    request_id: Id
    step: Name
    started_at: datetime | float
    parent_id: Id | None = None
    pipeline: str | None = None
    inputs: Raw = NULL
    messages: Raw = NULL
    output: Raw = NULL
    model: str | None = None
    parameters: Raw = NULL
    strategy_id: Id | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cost_usd: Amount | None = None
    latency_s: Amount | None = None
    error: Raw = NULL
    tags: Raw = NULL
    user: str | int | None = None
    call: Raw = NULL
    api: str | None = None
    request: Raw = NULL
    reasoning: str | None = None


class Request(msgspec.Struct, tag_field="kind", tag="request", gc=False):
    """The end of a request. It makes no row of its own; its final tags go to the rows of its steps."""

    v: int
    request_id: Id
    tags: Raw = NULL


class Feedback(msgspec.Struct, tag_field="kind", tag="feedback", gc=False):
    v: int
    request_id: Id
    at: datetime | float
    score: float | bool | None = None
    comment: str | None = None


class Span(msgspec.Struct, tag_field="kind", tag="span", gc=False):
    """A span of OpenTelemetry, as it was received. Which steps a trace makes is seen once its spans are together."""

    v: int
    recording_id: Id
    request_id: Id
    name: str
    parent_id: Id | None = None
    started_ns: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    ended_ns: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    edge: bool = False
    failed: bool = False
    message: str = ""
    service: str | None = None
    scope: str | None = None
    attributes: Raw = NULL
    events: Raw = NULL


class _Head(msgspec.Struct):
    v: Any = None
    kind: Any = None


class _Object(msgspec.Struct):
    pass


Row = Step | Request | Feedback
Line = Row | Span
_decode = msgspec.json.Decoder(Line).decode
_head = msgspec.json.Decoder(_Head).decode
_messages = msgspec.json.Decoder(list[_Object]).decode
_text = msgspec.json.Decoder(str).decode
_object = msgspec.json.Decoder(dict[str, Any]).decode
# An integer that Python's json refuses to read (4,300 digits) must not reach those who trust the lake.
_LONG = b"0" * 4_301
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_strings = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_brackets = re.compile(rb"[\[\]{}]")
_lone_surrogate = re.compile(rb"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|[c-fC-F])")


def read_line(line: bytes) -> Line | BadLine:
    """What a journal line says; never raises. `line` comes without its newline."""
    if _suspicious(line):
        bad = _inspect(line)
        if bad:
            return bad
    try:
        item = _decode(line)
        if item.v != VERSION:
            return _wrong_version(item.v)
        if type(item) is Step:
            _check_step(item)
        elif type(item) is Feedback:
            _check_finite(item, "score")
            when(item.at)
        elif type(item) is Span:
            _check_span(item)
        else:
            _check_shape(item, "tags", "{", "an object")
        return item
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        return _explain(line, error)


def read_object(line: bytes) -> dict[str, Any] | BadLine:
    """A line of any other format, which must be a JSON object; never raises."""
    if _suspicious(line):
        bad = _inspect(line)
        if bad:
            return bad
    try:
        value: dict[str, Any] = _object(line)
        return value
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        return _explain(line, error)


def text(value: Raw) -> str | None:
    """The JSON text of a value; None for null."""
    if value == NULL:
        return None
    return str(memoryview(value), "utf-8")


def listed(value: Raw) -> str | None:
    """The JSON text of a list; anything else as a list of one."""
    found = text(value)
    return found if found is None or found[0] == "[" else f"[{found}]"


def plain(value: Raw) -> str | None:
    """A JSON string as the text that it holds, any other value as JSON; None for null."""
    if value == NULL:
        return None
    data = memoryview(value)
    return _text(data) if data[0] == 0x22 else str(data, "utf-8")


def when(value: datetime | float) -> datetime:
    """A point in time in UTC; numbers are seconds since 1970, a time without a zone is UTC."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return datetime.fromtimestamp(value, UTC)


def shown(line: bytes, limit: int = 64 << 10) -> str:
    """A line as text for the quarantine, cut; bytes that are not UTF-8, and NUL, as \\xNN."""
    return line[:limit].decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def _suspicious(line: bytes) -> bool:
    return (
        len(line) > MAX_LINE_BYTES
        or line.count(b"[") + line.count(b"{") > MAX_DEPTH
        or not line.isascii()
        or _LONG in line.translate(_DIGITS)  # ten times as fast as a regular expression
    )


def _inspect(line: bytes) -> BadLine | None:
    """What is wrong with a line that the JSON reader might let pass."""
    if len(line) > MAX_LINE_BYTES:
        return BadLine("too_large", f"{len(line):,} bytes")
    try:
        str(line, "utf-8")
    except UnicodeDecodeError as error:
        return BadLine("not_utf8", f"byte 0x{line[error.start]:02x} at {error.start}")
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH or _LONG in line.translate(_DIGITS):
        bare = _strings.sub(b"", line)
        depth = deepest = 0
        for bracket in _brackets.findall(bare):
            depth += 1 if bracket in b"[{" else -1
            deepest = max(deepest, depth)
        if deepest > MAX_DEPTH:
            return BadLine("too_deep", f"{deepest} levels")
        if _LONG in bare.translate(_DIGITS):
            return BadLine("wrong_type", "a number of more than 4,300 digits")
    return None


def _check_step(step: Step) -> None:
    """Raises ValueError where a value is not of the kind that its field needs."""
    for name in ("inputs", "parameters", "error", "tags"):
        _check_shape(step, name, "{", "an object")
    _check_shape(step, "messages", "[{", "a list")
    if step.messages != NULL and memoryview(step.messages)[0] == ord("["):
        _messages(step.messages)
    _check_finite(step, "cost_usd")
    _check_finite(step, "latency_s")
    when(step.started_at)


def _check_span(span: Span) -> None:
    """Raises ValueError where a value is not of the kind that its field needs."""
    _check_shape(span, "attributes", "{", "an object")
    _check_shape(span, "events", "[", "a list")
    if span.events != NULL:
        _messages(span.events)
    if not span.recording_id.startswith(f"{span.request_id}."):
        raise ValueError("recording_id must be the trace's id, a dot and the span's")


def _check_shape(item: Line, field: str, opening: str, needed: str) -> None:
    value: Raw = getattr(item, field)
    if value is not NULL and value != NULL and chr(memoryview(value)[0]) not in opening:
        raise ValueError(f"{field} must be {needed}")


def _check_finite(item: Line, field: str) -> None:
    value: float | None = getattr(item, field)
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{field} must be finite")


def _wrong_version(version: object) -> BadLine:
    if isinstance(version, int) and version > VERSION:
        return BadLine("future_version", f"v is {version}, this qbawa reads up to {VERSION}")
    return BadLine("wrong_type", f"v is {version!r:.40}, not {VERSION}")


def _explain(line: bytes, error: Exception) -> BadLine:
    """The most telling reason for a line that could not be read."""
    message = str(error)
    if not line.strip():
        return BadLine("empty", "")
    if b"\0" in line:
        return BadLine("nul", f"at byte {line.index(0)}")
    if isinstance(error, RecursionError):
        return BadLine("too_deep", "")
    try:
        head = _head(line)
    except msgspec.ValidationError:
        return BadLine("not_an_object", message)
    except (msgspec.DecodeError, UnicodeDecodeError):
        cut = "truncated" in message and not _lone_surrogate.search(line)
        return BadLine("truncated" if cut else "malformed", message)
    # Before anything else: a newer format may differ in any field.
    if head.v != VERSION or isinstance(head.v, bool):
        return _wrong_version(head.v) if head.v is not None else BadLine("missing_field", "v")
    if head.kind not in ("step", "request", "feedback", "span"):
        return (
            BadLine("unknown_kind", f"{head.kind!r:.60}") if head.kind is not None else BadLine("missing_field", "kind")
        )
    return BadLine("missing_field" if "missing required" in message else "wrong_type", message)
