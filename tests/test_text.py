"""Text from models and users can neither drive a terminal nor hide what stands there."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbawa.text import printable, shorten

HARMFUL = ("Cc", "Cf", "Cs", "Co", "Cn")


@given(st.text() | st.text(st.characters(categories=HARMFUL)))
def test_nothing_harmful_is_left_and_the_rest_stands_as_it_was(text: str) -> None:
    shown = printable(text)
    assert not [c for c in shown if c not in "\n\t" and unicodedata.category(c) in HARMFUL]
    assert (
        "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in HARMFUL) in (shown, text)
        or "\\u{" in shown
    )
    assert printable(shown) == shown
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, naïve, 汉字, 🙂\n\tand lines", "plain, naïve, 汉字, 🙂\n\tand lines"),
        ("\x1b[2J\x07", "\\u{1b}[2J\\u{7}"),
        ("over\rwritten", "over\\u{d}written"),
        ("a\u202egnp.exe", "a\\u{202e}gnp.exe"),
        ("zero\u200bwidth\ufeff", "zero\\u{200b}width\\u{feff}"),
        ("tag\U000e0041", "tag\\u{e0041}"),
        ("\x9b31m\x00", "\\u{9b}31m\\u{0}"),
        ("half \ud800", "half \\u{d800}"),
        ("", ""),
    ],
)
def test_what_is_shown_instead(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(), st.integers(1, 40))
def test_a_shortened_text_is_one_line_of_at_most_so_many_characters(text: str, length: int) -> None:
    shown = shorten(text, length)
    assert len(shown) <= length and len(shown.splitlines()) <= 1
    assert shown == shown.strip() or shown.endswith("…")
    assert shown.endswith("…") or shown == " ".join(printable(text).split())
