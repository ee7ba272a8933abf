"""Evaluation logs of inspect_ai: the JSON form, and the zip form `.eval` with a file for each sample."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qbawa.errors import InputError
from qbawa.ingest.formats.content import Unread, answered, asked
from qbawa.ingest.formats.records import Record
from qbawa.ingest.formats.step_rows import BadRecordError, Origin, feedback_row, step_row
from qbawa.ingest.journal_lines import BadLine, Feedback, Step
from qbawa.model_apis.any_form import answer_in, conversation, tool_of
from qbawa.model_apis.canonical import detect_request_api, detect_response_api

_ZSTANDARD = 93
_PARAMETERS = {"max_tokens", "temperature", "top_p", "seed", "frequency_penalty", "presence_penalty", "logprobs",
               "top_logprobs", "parallel_tool_calls", "reasoning_effort", "top_k", "logit_bias"}  # fmt: skip
_RENAMED = {"stop_seqs": "stop", "num_choices": "n"}
_GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""Correct, incorrect, partial, no answer: inspect's own values of letters."""


def is_inspect(record: dict[str, Any]) -> bool:
    return (
        isinstance(record.get("eval"), dict)
        and "task" in record["eval"]
        and ("samples" in record or "sample" in record)
    )


def is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def zipped_records(path: Path) -> Iterator[Record]:
    """A record for each sample of a `.eval` file, with what the log says about all. Raises InputError for another zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            head = next((name for name in ("header.json", "_journal/start.json") if name in names), None)
            samples = sorted(name for name in names if name.startswith("samples/") and name.endswith(".json"))
            if head is None:
                raise InputError(f"{path} is a zip, but no log of inspect_ai: it holds no header.json.")
            about = json.loads(_content(archive, head))
            for number, name in enumerate(samples, 1):
                raw = _content(archive, name)
                try:
                    sample = json.loads(raw)
                    value: Any = {"eval": about.get("eval"), "sample": sample, "status": about.get("status")}
                except (ValueError, RecursionError) as error:
                    value = BadLine("malformed", f"{name}: {error}")
                yield Record(number, raw, value)
    except (zipfile.BadZipFile, ValueError, KeyError, AttributeError, OSError, NotImplementedError) as error:
        raise InputError(f"{path} is no readable zip: {error}") from None


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != _ZSTANDARD:
        return archive.read(name)
    import pyarrow

    # Python reads zstandard in zips from 3.14 on; the bytes themselves begin after the local header.
    with open(str(archive.filename), "rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
        packed = file.read(info.compress_size)
    found: bytes = pyarrow.Codec("zstd").decompress(packed, decompressed_size=info.file_size).to_pybytes()
    return found


def read_inspect(record: dict[str, Any], origin: Origin) -> Iterator[Step | Feedback | BadRecordError]:
    """Each sample as a request, each of its model calls as a step named after the task, its scores as feedback."""
    about = record["eval"]
    samples = [record["sample"]] if "sample" in record else record.get("samples")
    for sample in samples if isinstance(samples, list) else []:
        if isinstance(sample, dict):
            try:
                yield from _sample(sample, about, origin)
            except BadRecordError as error:
                yield error


def _sample(
    sample: dict[str, Any], about: dict[str, Any], origin: Origin
) -> Iterator[Step | Feedback | BadRecordError]:
    attachments = sample.get("attachments")
    sample = _resolved(sample, attachments) if isinstance(attachments, dict) and attachments else sample
    task = str(about.get("task") or "task").rpartition("/")[2]
    request = str(
        sample.get("uuid") or f"{about.get('eval_id') or about.get('run_id')}.{sample.get('id')}.{sample.get('epoch')}"
    )
    events = [event for event in sample.get("events") or [] if isinstance(event, dict)]
    calls = [event for event in events if event.get("event") == "model" and not event.get("pending")]
    began = sample.get("started_at") or next(
        (e["timestamp"] for e in events if e.get("timestamp")), about.get("created")
    )
    error = sample.get("error")
    tags = {"eval": about.get("eval_id"), "sample": sample.get("id"), "epoch": sample.get("epoch"), "status": None}
    output = answer_in(sample.get("output"))
    inputs = {
        key: sample.get(key)
        for key in ("input", "target", "choices", "metadata")
        if sample.get(key) not in (None, "", [], {})
    }
    metered = sample.get("total_time")
    yield step_row(
        origin,
        step=f"{task}.sample",
        recording_id=request,
        request_id=request,
        pipeline=task,
        started_at=began,
        latency_s=metered,
        inputs=inputs,
        output=output.output if output else None,
        error=_error(error),
        tags=tags,
    )
    for number, event in enumerate(calls):
        yield from _model_call(event, number, request, task, tags, origin)
    for number, event in enumerate(e for e in events if e.get("event") == "tool"):
        yield _tool(event, number, request, tags, origin)
    if not calls:
        yield from _without_events(sample, request, task, about, tags, origin, began)
    yield from _scores(sample, request, began)


def _model_call(
    event: dict[str, Any], number: int, request: str, task: str, tags: dict[str, Any], origin: Origin
) -> Iterator[Step | BadRecordError]:
    call = event.get("call")
    call = call if isinstance(call, dict) else {}
    body, reply, output = call.get("request"), call.get("response"), event.get("output")
    output = output if isinstance(output, dict) else {}
    unread = Unread(f"model call {number + 1} of sample {tags['sample']}")
    # What went over the wire says more than inspect's own messages, where its API is one that we read.
    content = asked(body, unread) if detect_request_api(body) else asked(_own_body(event), unread)
    error = event.get("error") or output.get("error")
    answer = answer_in(reply) if detect_response_api(reply) else None
    said, found = answered(output, unread, answer) if not error else ({"output": None}, None)
    if answer is not None and not error:
        said, found = {"output": answer.output, "reasoning": answer.reasoning}, answer
    usage = output.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    yield step_row(
        origin,
        step=task,
        recording_id=str(event.get("uuid") or f"{request}.{number}"),
        request_id=request,
        parent_id=request,
        pipeline=task,
        started_at=event.get("timestamp"),
        ended_at=event.get("completed"),
        latency_s=output.get("time") or call.get("time"),
        model=str(event.get("model") or output.get("model") or "") or None,
        input_tokens=_sum(usage, "input_tokens", "input_tokens_cache_read", "input_tokens_cache_write"),
        output_tokens=usage.get("output_tokens"),
        cost_usd=usage.get("total_cost"),
        error=_error(error),
        tags=tags,
        **{"api": detect_response_api(reply), **{k: v for k, v in content.items() if v is not None}},
        **{"reasoning": found.reasoning if found else None, **said},
    )
    yield from unread.errors()


def _sum(usage: dict[str, Any], *names: str) -> int | None:
    found = [usage[name] for name in names if isinstance(usage.get(name), int)]
    return sum(found) if found else None


def _own_body(event: dict[str, Any]) -> dict[str, Any]:
    """The request in inspect's own messages, tools and configuration."""
    config = event.get("config")
    body = {_RENAMED.get(k, k): v for k, v in (config if isinstance(config, dict) else {}).items() if v is not None}
    found: dict[str, Any] = {k: v for k, v in body.items() if k in _PARAMETERS | set(_RENAMED.values())}
    tools = event.get("tools")
    if isinstance(tools, list) and tools:
        found["tools"] = [tool_of(tool) for tool in tools if isinstance(tool, dict)]
        choice = event.get("tool_choice")
        found["tool_choice"] = "required" if choice == "any" else choice
    return {**found, "messages": event.get("input")}


def _tool(event: dict[str, Any], number: int, request: str, tags: dict[str, Any], origin: Origin) -> Step:
    arguments = event.get("arguments")
    return step_row(
        origin,
        step=str(event.get("function") or "tool"),
        recording_id=str(event.get("uuid") or f"{request}.tool.{number}"),
        request_id=request,
        parent_id=request,
        started_at=event.get("timestamp"),
        ended_at=event.get("completed"),
        inputs=arguments if isinstance(arguments, dict) else {"arguments": arguments},
        output=event.get("result"),
        error=_error(event.get("error")),
        tags=tags,
    )


def _without_events(
    sample: dict[str, Any],
    request: str,
    task: str,
    about: dict[str, Any],
    tags: dict[str, Any],
    origin: Origin,
    began: Any,
) -> Iterator[Step]:
    """The last exchange, of a log that keeps no events."""
    messages = sample.get("messages")
    output = answer_in(sample.get("output"))
    found = conversation(messages) if isinstance(messages, list) else None
    if found is None or output is None:
        return
    talk = found.messages[:-1] if found.messages[-1].get("role") == "assistant" else found.messages
    yield step_row(
        origin, step=task, recording_id=f"{request}.0", request_id=request, parent_id=request, pipeline=task,
        started_at=began, messages=talk, output=output.output, reasoning=output.reasoning, model=about.get("model"),
        input_tokens=output.input_tokens, output_tokens=output.output_tokens, tags=tags,
    )  # fmt: skip


def _scores(sample: dict[str, Any], request: str, began: Any) -> Iterator[Feedback | BadRecordError]:
    scores = sample.get("scores")
    for name, score in scores.items() if isinstance(scores, dict) else ():
        value = score.get("value") if isinstance(score, dict) else score
        number = _GRADES.get(value) if isinstance(value, str) else value
        about = score.get("explanation") if isinstance(score, dict) else None
        said = f"{name} = {value}" if not isinstance(value, int | float) else str(name)
        try:
            number = number if isinstance(number, int | float) else None
            yield feedback_row(
                request, sample.get("completed_at") or began, number, f"{said}: {about}" if about else said
            )
        except BadRecordError as error:
            yield error


def _resolved(value: Any, attachments: dict[str, Any]) -> Any:
    """The value with the texts that inspect has put aside, back in their places."""
    if isinstance(value, str) and value.startswith("attachment://"):
        return attachments.get(value.removeprefix("attachment://"), value)
    if isinstance(value, list):
        return [_resolved(item, attachments) for item in value]
    if isinstance(value, dict):
        return {key: inner if key == "attachments" else _resolved(inner, attachments) for key, inner in value.items()}
    return value


def _error(error: Any) -> dict[str, Any] | None:
    if not error:
        return None
    if isinstance(error, dict):
        return {
            "type": str(error.get("type") or "error"),
            "message": str(error.get("message") or ""),
            "traceback": str(error.get("traceback") or ""),
        }
    return {"type": "error", "message": str(error), "traceback": ""}
