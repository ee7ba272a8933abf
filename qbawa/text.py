"""Text from models and users, made safe to show."""

import unicodedata


def printable(text: str) -> str:
    """The text without characters that could drive a terminal or hide what stands there.

    Control, format (bidirectional overrides, zero-width) and surrogate characters become visible escapes; line breaks
    and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") else f"\\u{{{ord(c):x}}}"
        for c in text
    )


def shorten(text: str, length: int) -> str:
    """The text on one line, printable, cut to `length` characters with an ellipsis."""
    line = " ".join(printable(text).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def duration(seconds: float) -> str:
    """A duration in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
