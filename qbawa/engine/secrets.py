"""Keeps API keys out of everything that is stored, logged or shown."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

_KEY_LIKE = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|key|hf|AIza|ghp)[-_][A-Za-z0-9_\-*.]{8,}|\bAIza[A-Za-z0-9_\-]{20,}"
    r"|(?i:bearer)\s+[A-Za-z0-9_\-.=+/]{8,}|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)"
)
HIDDEN = "[secret]"
LEAST_LENGTH = 12
SHOWN_LENGTH = 8
"""Characters from a secret's beginning that give nothing away: providers' keys begin alike."""


class Secrets:
    """The keys in use. `hide` removes them, `scrub` also whatever merely looks like a key."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def add(self, secret: str) -> None:
        # What people give servers that need no key (`none`, `EMPTY`, `ollama`) is a word that answers may contain.
        if len(secret) >= LEAST_LENGTH:
            self._known |= {secret, quote(secret, safe="")}  # as it stands in an address

    def add_environment(self) -> None:
        """Every key in the environment, since litellm finds its providers' there by itself."""
        for name, value in os.environ.items():
            if name.upper().endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")):
                self.add(value.strip())

    def hide(self, text: str) -> str:
        """A model's own words without our keys; everything else stays as it came."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text

    def scrub(self, text: str) -> str:
        """A message for people, without our keys and without what looks like one (providers echo them in part)."""
        for secret in self._known:
            text = _without_beginnings(self.hide(text), secret)
        return _KEY_LIKE.sub(HIDDEN, text)


def _without_beginnings(text: str, secret: str) -> str:
    """The text without the beginning of a secret: messages are cut at any place."""
    start = secret[:SHOWN_LENGTH]
    place = text.find(start)
    while place >= 0:
        end = place + len(start)
        while end < len(text) and text[end] == secret[end - place]:
            end += 1
        text = f"{text[:place]}{HIDDEN}{text[end:]}"
        place = text.find(start, place + len(HIDDEN))
    return text
