"""Log-probabilities of an answer's tokens, as far as a provider keeps to their form."""

from __future__ import annotations

from qbawa.engine.calls import Json
from qbawa.engine.error_classes import readable


def clean_logprobs(content: Json) -> list[Json] | None:
    """A list of tokens with their log-probabilities and alternatives, each of the promised types; else None."""
    if not isinstance(content, list) or not content:
        return None
    tokens = [_token(entry, alternatives=True) for entry in content]
    return None if None in tokens else tokens


def _token(entry: Json, *, alternatives: bool) -> Json:
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return None
    logprob = entry.get("logprob")
    if not isinstance(logprob, int | float) or isinstance(logprob, bool) or not -1e6 < logprob < 1e6:
        return None
    token: dict[str, Json] = {"token": readable(entry["token"]), "logprob": logprob}
    data = entry.get("bytes")
    if isinstance(data, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in data):
        token["bytes"] = data
    if alternatives and isinstance(entry.get("top_logprobs"), list):
        others = [_token(other, alternatives=False) for other in entry["top_logprobs"]]
        token["top_logprobs"] = [other for other in others if other is not None]
    return token
