"""What a provider's failure means: try again, give this call up, or stop asking this model.

Reasons are short stable words that are stored with the cell. Codes: OpenAI's error reference and what vLLM, Ollama,
Azure, Anthropic and litellm send in its place.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from typing import Any

from qbawa.errors import Billing, FinalError, ModelStoppedError, ProviderError, TransientError

SHOWN = 300
"""Characters of a provider's message that are kept."""
REFUSALS = frozenset({"refused", "unsupported", "context_too_long", "cut_off", "empty", "unfaithful"})
"""Reasons that lie in the call itself: asked again as it is, it would end the same way, and may cost as much again."""
MODEL_UNUSABLE = frozenset({"wrong_key", "quota_exhausted", "no_permission", "unknown_model", "unpriced", "connection"})
"""Reasons that lie in the model's settings, key or server, whatever was asked."""
MODEL_FAULTS = MODEL_UNUSABLE | {
    "timeout", "rate_limited", "overloaded", "server_error", "malformed", "http_500", "http_502", "http_503", "http_504",
}  # fmt: skip
"""Those that a long or odd prompt may bring about too: they speak against the model only where they are many."""

# Looked for in the error's code and type, in this order.
_CODES: tuple[tuple[str, type[ProviderError], str], ...] = (
    (r"insufficient_quota|billing|credit_balance|exceeded_current_quota", ModelStoppedError, "quota_exhausted"),
    (r"invalid_api_key|authentication|account_deactivated|invalid_issuer", ModelStoppedError, "wrong_key"),
    (r"permission", ModelStoppedError, "no_permission"),
    (r"context_length|context_window|string_above_max_length|max_tokens_exceeded", FinalError, "context_too_long"),
    (r"content_filter|content_policy|responsible_ai|safety|moderation", FinalError, "refused"),
    (r"unsupported", FinalError, "unsupported"),
    (r"model_not_found|unknown_model|model_not_available|deployment_?not_?found", FinalError, "unknown_model"),
    (r"rate_limit|too_many_requests|tokens_per_min|requests_per_min", TransientError, "rate_limited"),
    (r"overloaded|server_error|internal_error|engine_overloaded|timeout", TransientError, "server_error"),
)
# Looked for in the message, only where code and type say nothing: words are weaker evidence than codes.
_WORDS: tuple[tuple[str, type[ProviderError], str], ...] = (
    (r"exceeded your current quota|credit balance is too low|insufficient (quota|funds|balance)", ModelStoppedError,
     "quota_exhausted"),
    (r"(incorrect|invalid) (api|x-api)[- ]?key|api key not valid", ModelStoppedError, "wrong_key"),
    (r"maximum context length|context (length|window)|prompt is too long|too many (input )?tokens", FinalError,
     "context_too_long"),
    (r"unsupported (parameter|value|content)|(parameter|value).{0,80}(is|are) not supported", FinalError, "unsupported"),
    (r"content (management|filter|policy)|flagged", FinalError, "refused"),
    (r"model .{0,80}(does not exist|not found|not supported)|no such model|unknown model", FinalError, "unknown_model"),
)  # fmt: skip
_STATUSES: dict[int, tuple[type[ProviderError], str]] = {
    400: (FinalError, "bad_request"),
    401: (ModelStoppedError, "wrong_key"),
    402: (ModelStoppedError, "quota_exhausted"),
    403: (ModelStoppedError, "no_permission"),
    404: (FinalError, "unknown_model"),
    405: (FinalError, "bad_request"),
    408: (TransientError, "timeout"),
    409: (TransientError, "conflict"),
    413: (FinalError, "context_too_long"),
    422: (FinalError, "bad_request"),
    425: (TransientError, "server_error"),
    429: (TransientError, "rate_limited"),
    529: (TransientError, "overloaded"),
}
# The server, or a gateway before it, lost sight of the work or says that it failed; 429, 503 and 529 never began it.
_MAY_HAVE_WORKED = frozenset({408, 499, 502, 504, 520, 521, 522, 523, 524})
_NEVER_BEGUN = frozenset({503, 529})
# A wrong word must not turn a server's fault into a final one, nor a bad request into a retry.
_MAY_SAY: dict[type[ProviderError], tuple[int, ...]] = {
    ModelStoppedError: (200, 400, 401, 402, 403, 404, 429),
    FinalError: (200, 400, 403, 404, 413, 422),
    TransientError: (200, 400, 408, 409, 429),
}


def classify(status: int, error: Any, headers: Mapping[str, str] | None = None) -> ProviderError:
    """The error to raise for an HTTP status and the error object in its body (any shape, or the body's text).

    A status of 200 with an error object is judged by its code alone, and is transient where that says nothing.
    """
    code, words = _code_and_words(error)
    kind, reason = _kind(status, code, words)
    shown = words or code or "no message"
    message = (
        f"{reason.replace('_', ' ')} (HTTP {status}{f', {code}' if code else ''}): {' '.join(shown.split())[:SHOWN]}"
    )
    message = readable(message)
    if kind is TransientError:
        return TransientError(reason, message, retry_after_s(headers or {}), billing=billing_of(status))
    return kind(reason, message, billing=billing_of(status))


def billing_of(status: int) -> Billing:
    """Whether an answer of this HTTP status that brought no usable reply may cost something."""
    if status == 200 or status in _MAY_HAVE_WORKED:
        return "unknown"
    return "unlikely" if status >= 500 and status not in _NEVER_BEGUN else "no"


def readable(text: str) -> str:
    """The text without lone surrogates, which no journal or table can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks us to wait, from `retry-after-ms` or `retry-after` (seconds or a date)."""
    milliseconds = _float(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _float(value)
    if seconds is not None:
        return max(0.0, seconds)
    if value:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except (TypeError, ValueError, OverflowError):
            return None
    return None


def malformed(what: str, body: bytes | str = b"") -> TransientError:
    """The error for an answer that is not what the wire format promises; the next attempt often brings a whole one.

    Whoever sent it has done its work, so it may be billed.
    """
    shown = body[:SHOWN].decode("utf-8", "replace") if isinstance(body, bytes) else body[:SHOWN]
    return TransientError(
        "malformed", readable(f"malformed answer: {what}{f', got {shown!r}' if shown else ''}"), billing="unknown"
    )


def redirected(status: int) -> FinalError:
    """The error for an answer that names another address, which must get neither the key nor the prompt."""
    return FinalError(
        f"http_{status}", f"The server redirects (HTTP {status}); base_url should name its final address."
    )


def _kind(status: int, code: str, words: str) -> tuple[type[ProviderError], str]:
    for patterns, text in ((_CODES, code), (_WORDS, words)):
        for pattern, kind, reason in patterns:
            if text and status in _MAY_SAY[kind] and re.search(pattern, text, re.IGNORECASE):
                return kind, reason
    if status in _STATUSES:
        return _STATUSES[status]
    if status >= 500:
        return TransientError, f"http_{status}"
    if status == 200:
        return TransientError, "malformed"
    return FinalError, f"http_{status}"


def _code_and_words(error: Any) -> tuple[str, str]:
    if isinstance(error, dict) and "error" in error:
        error = error["error"]
    if isinstance(error, dict):
        named = [_shown(error[key]) for key in ("code", "type", "status") if error.get(key) is not None]
        code = " ".join(dict.fromkeys(named))
        words = error.get("message") or error.get("detail") or error.get("msg") or ""
        return code[:100], _shown(words)
    return "", "" if error is None else _shown(error)


def _shown(value: Any) -> str:
    """Any JSON value as text, at most SHOWN characters of what is no text itself."""
    if isinstance(value, str):
        return value
    try:
        return repr(value)[:SHOWN]
    except (RecursionError, ValueError):  # nested without end; an integer of thousands of digits
        return f"a {type(value).__name__} that cannot be shown"


def _float(value: str | None) -> float | None:
    try:
        number = float(value) if value else None
    except ValueError:
        return None
    return number if number is not None and number == number and number < 1e9 else None
