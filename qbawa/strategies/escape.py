"""Text as data in a prompt: JSON in which every character is visible and none forms a tag.

So a value cannot close the block that it stands in, start a turn (`<|im_start|>`, an empty line and `Human:`), or hide.
"""

import json
import re
import unicodedata
from typing import Any

_SUSPECT = re.compile(r"[<>&]|[^\x00-\x7e]")
# Control, format (joiners, direction marks), lone surrogates, private use, line and paragraph separators. The escape
# is lossless: those that a language needs come back as they were.
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def escaped_json(value: Any) -> str:
    """The value as JSON whose every character is visible and none forms a tag; `json.loads` gives the value back."""
    return _SUSPECT.sub(_escaped, json.dumps(value, ensure_ascii=False, default=str))


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    if character in "<>&\x7f":
        return f"\\u{ord(character):04x}"
    return json.dumps(character)[1:-1] if unicodedata.category(character) in _HIDDEN else character
