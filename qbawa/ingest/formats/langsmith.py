"""LangSmith: runs as its API lists them, as bulk exports hold them, and as clients post and patch them."""

from collections.abc import Iterator
from typing import Any

from qbawa.ingest.formats.content import Unread, answered, asked, inputs_of, json_value, message_output
from qbawa.ingest.formats.step_names import Node
from qbawa.ingest.formats.step_rows import BadRecordError, Origin, feedback_row, moment, step_row
from qbawa.ingest.journal_lines import Feedback, Step
from qbawa.model_apis.any_form import question_in
from qbawa.model_apis.shapes import ACCOUNTING, TRANSPORT

_CALLS = ("llm", "chat_model", "embedding")
_WRAPPINGS = ("output", "outputs", "result", "response")


def is_langsmith(record: dict[str, Any]) -> bool:
    if any(isinstance(record.get(name), list) for name in ("post", "patch")):
        return any(_is_run(run) for name in ("post", "patch") for run in record.get(name) or [])
    return _is_run(record) or (isinstance(record.get("runs"), list) and any(_is_run(run) for run in record["runs"]))


def _is_run(run: Any) -> bool:
    if not isinstance(run, dict):
        return False
    return "run_type" in run or ("dotted_order" in run and "trace_id" in run)


def nodes_of(record: dict[str, Any]) -> Iterator[Node]:
    """The runs of a record as a tree, for the names of their steps."""
    for run in _runs(record):
        if isinstance(run.get("id"), str):
            metadata = _object(_object(run, "extra"), "metadata")
            kind, task = str(run.get("run_type") or "run"), metadata.get("langgraph_node")
            yield Node(
                run["id"], _parent(run), str(run.get("name") or kind), "call" if kind in _CALLS else kind, None,
                task if isinstance(task, str) else None,
            )  # fmt: skip


def read_langsmith(record: dict[str, Any], origin: Origin) -> Iterator[Step | Feedback | BadRecordError]:
    """Each run as a step; what people and evaluators thought of it as feedback."""
    for run in _runs(record):
        try:
            yield from _run(run, origin)
        except BadRecordError as error:
            yield error


def _runs(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that a record holds, what was patched put into what was posted, children after their parents."""
    listed = record.get("runs") if isinstance(record.get("runs"), list) else None
    if listed is None and not any(isinstance(record.get(name), list) for name in ("post", "patch")):
        listed = [record]
    if listed is None:
        merged: dict[str, dict[str, Any]] = {}
        for name in ("post", "patch"):
            for run in record[name] if isinstance(record.get(name), list) else []:
                if isinstance(run, dict):
                    known = merged.setdefault(_id(run), {})
                    known |= {key: value for key, value in run.items() if value not in (None, "", {}, [])}
        listed = [{"id": id, **run} for id, run in merged.items()]
    found: list[dict[str, Any]] = []
    waiting = [run for run in listed if isinstance(run, dict)]
    while waiting:
        run = waiting.pop(0)
        found.append(run)
        children = run.get("child_runs")
        for child in children if isinstance(children, list) else []:
            if isinstance(child, dict):
                waiting.append(
                    {"parent_run_id": run.get("id"), "trace_id": run.get("trace_id") or run.get("id"), **child}
                )
    return found


def _id(run: dict[str, Any]) -> str:
    """A run's id; a patch may name it as the last part of `dotted_order` alone."""
    order = run.get("dotted_order")
    last = order.rpartition(".")[2].partition("Z")[2] if isinstance(order, str) else None
    return str(run.get("id") or last or run.get("trace_id"))


def _parent(run: dict[str, Any]) -> str | None:
    if isinstance(run.get("parent_run_id"), str):
        return str(run["parent_run_id"])
    order = run.get("dotted_order")
    above = order.split(".")[-2:-1] if isinstance(order, str) else []
    return above[0].partition("Z")[2] or None if above else None


def _run(run: dict[str, Any], origin: Origin) -> Iterator[Step | Feedback | BadRecordError]:
    id = _id(run)
    extra = _object(run, "extra")
    metadata = _object(extra, "metadata")
    is_call = run.get("run_type") in _CALLS or ("run_type" not in run and "ls_model_type" in metadata)
    unread = Unread(f"run '{run.get('name')}' ({id[:64]})")
    inputs, outputs = json_value(run.get("inputs")), json_value(run.get("outputs"))
    content, said = _call(inputs, outputs, extra, unread) if is_call else (_work(inputs, outputs), None)
    usage = _object(outputs if isinstance(outputs, dict) else {}, "usage_metadata")
    tokens: dict[str, Any] = {
        side: next(
            (v for v in (run.get(own), usage.get(side), getattr(said, side, None)) if isinstance(v, int) and v), None
        )
        for side, own in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))
    }
    invocation = _object(extra, "invocation_params")
    names = (
        invocation.get("model"),
        invocation.get("model_name"),
        metadata.get("ls_model_name"),
        content.pop("model", None),
    )
    model = getattr(said, "model", None) or next((name for name in names if isinstance(name, str) and name), None)
    request = str(run.get("trace_id") or id)
    labels = run.get("tags")
    yield step_row(
        origin,
        step=origin.names.get(id) or str(run.get("name") or run.get("run_type") or "run"),
        recording_id=id,
        request_id=request,
        parent_id=_parent(run),
        pipeline=run.get("session_name") if isinstance(run.get("session_name"), str) else None,
        started_at=run.get("start_time"),
        ended_at=run.get("end_time"),
        model=model if is_call else None,
        **(tokens if is_call else {}),
        cost_usd=run.get("total_cost") if is_call else None,
        error=_error(run.get("error")),
        tags={
            **{key: value for key, value in metadata.items() if not key.startswith("ls_")},
            **{str(label): True for label in (labels if isinstance(labels, list) else [])},
        },
        user=metadata.get("user_id") if isinstance(metadata.get("user_id"), str | int) else None,
        **content,
    )
    yield from unread.errors()
    yield from _feedback(run, request)


def _call(inputs: Any, outputs: Any, extra: dict[str, Any], unread: Unread) -> tuple[dict[str, Any], Any]:
    invocation = _object(extra, "invocation_params")
    body = inputs
    if isinstance(inputs, dict):
        kept = {k: v for k, v in invocation.items() if k not in TRANSPORT | ACCOUNTING and not k.startswith("_")}
        body = {**kept, **{key: value for key, value in inputs.items() if value is not None}}
        prompts = body.pop("prompts", None)
        if isinstance(prompts, list) and len(prompts) == 1 and "prompt" not in body:
            body["prompt"] = prompts[0]
    if question_in(body) is None and isinstance(inputs, dict) and len(inputs) == 1:
        body = next(iter(inputs.values()))
    said_at = outputs
    if isinstance(outputs, dict):
        rest = {key: value for key, value in outputs.items() if key != "usage_metadata"}
        only = next(iter(rest)) if len(rest) == 1 else None
        said_at = rest[only] if only in _WRAPPINGS else outputs
    said, answer = answered(said_at, unread)
    found = asked(body, unread)
    model = inputs.get("model") if isinstance(inputs, dict) else None
    return {**found, **said, "model": model}, answer


def _work(inputs: Any, outputs: Any) -> dict[str, Any]:
    only = next(iter(outputs.values())) if isinstance(outputs, dict) and len(outputs) == 1 else outputs
    if isinstance(outputs, dict) and not outputs.keys() & set(_WRAPPINGS):
        only = outputs
    said = message_output(only) if isinstance(only, dict) and "role" in only else only
    return {"inputs": inputs_of(inputs), "output": said if said not in ({}, "") else None}


def _feedback(run: dict[str, Any], request: str) -> Iterator[Feedback | BadRecordError]:
    stats = json_value(run.get("feedback_stats"))
    for name, stat in stats.items() if isinstance(stats, dict) else ():
        mean = stat.get("avg") if isinstance(stat, dict) else None
        if isinstance(mean, int | float):
            yield feedback_row(request, moment(run.get("end_time") or run.get("start_time")), mean, str(name))


def _error(error: Any) -> dict[str, Any] | None:
    """LangSmith keeps `repr(error)` and the traceback below it."""
    if not error:
        return None
    first, _, rest = str(error).partition("\n")
    kind = first.partition("(")[0].partition(":")[0].strip()
    return {"type": kind if kind.isidentifier() else "error", "message": first, "traceback": rest}


def _object(record: dict[str, Any], name: str) -> dict[str, Any]:
    value = json_value(record.get(name))
    return value if isinstance(value, dict) else {}
