"""Output of batch APIs: OpenAI's lines, Anthropic's results, Google's responses by key."""

from collections.abc import Iterator
from typing import Any

from qbawa.ingest.formats.content import Unread, answered
from qbawa.ingest.formats.openai import error_of
from qbawa.ingest.formats.step_rows import Origin, step_row
from qbawa.ingest.journal_lines import Step
from qbawa.model_apis.canonical import detect_response_api


def is_batch(record: dict[str, Any]) -> bool:
    if "request" in record:
        return False
    if "custom_id" in record:
        return isinstance(record.get("result"), dict) or ("response" in record and "messages" not in record)
    response = record.get("response")
    return "key" in record and isinstance(response, dict) and detect_response_api(response) is not None


def read_batch(record: dict[str, Any], origin: Origin) -> Iterator[Step]:
    """The answer, or the failure, under the id that the request was given. The requests stand in a file of their own."""
    own = record.get("custom_id", record.get("key"))
    body, error = _body(record)
    unread = Unread(f"the answer to '{own}'")
    said, answer = answered(body, unread) if error is None else ({"output": None}, None)
    api = detect_response_api(body)
    yield step_row(
        origin,
        step="chat",
        recording_id=record.get("id") or None,
        request_id=None if own is None else str(own),
        started_at=body.get("created", body.get("created_at")) if isinstance(body, dict) else None,
        model=answer.model if answer else None,
        input_tokens=answer.input_tokens if answer else None,
        output_tokens=answer.output_tokens if answer else None,
        error=error,
        api=api,
        **said,
    )
    yield from unread.errors()  # type: ignore[misc]


def _body(record: dict[str, Any]) -> tuple[Any, dict[str, Any] | None]:
    """The response's body, and what went wrong."""
    result = record.get("result")
    if isinstance(result, dict):
        if isinstance(result.get("message"), dict):
            return result["message"], None
        failed = result.get("error")
        inner = failed.get("error") if isinstance(failed, dict) and isinstance(failed.get("error"), dict) else failed
        return None, error_of(
            inner or {"type": str(result.get("type")), "message": f"the request {result.get('type')}"}
        )
    if record.get("error"):
        return None, error_of(record["error"])
    response = record.get("response")
    if not isinstance(response, dict):
        return response, None
    body = response.get("body") if "body" in response else response
    status = response.get("status_code")
    if isinstance(body, dict) and body.get("error"):
        return None, error_of(body["error"])
    if isinstance(status, int) and status >= 400:
        return None, {"type": f"http_{status}", "message": str(body), "traceback": ""}
    return body, None
