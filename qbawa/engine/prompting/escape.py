"""Text as data in a prompt: JSON in which every character is visible and none forms a tag.

So a value cannot close the block that it stands in, start a turn (`<|im_start|>`, an empty line and `Human:`), or hide.
"""

import json
import re
from typing import Any

# What shows nothing or moves other text: controls, joiners and direction marks, fillers, variation selectors, tag
# characters, separators of lines, lone surrogates, private use. Written out, since a prompt must not change with the
# version of Unicode that a Python brings: its hash is what keeps a call from being paid twice.
_HIDDEN = (
    "\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\uf8ff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff"
    "\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U0010ffff"
)
_ESCAPED = re.compile(f"[<>&{_HIDDEN}]")


def escaped_json(value: Any) -> str:
    """The value as JSON whose every character is visible and none forms a tag; `json.loads` gives the value back.

    The escape is lossless: joiners that a language or an emoji needs come back as they were.
    """
    return _ESCAPED.sub(_escape, json.dumps(value, ensure_ascii=False, default=str))


def _escape(match: re.Match[str]) -> str:
    units = match.group().encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))
