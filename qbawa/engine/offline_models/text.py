"""Words, stems and sentences of plain text, with the standard library alone.

Every function is pure and linear in its input, and takes any string: empty, binary-looking, or a megabyte long.
"""

import re
from functools import lru_cache

# A model reads no further than this; it keeps a hostile input from costing more than a few milliseconds.
MAX_CHARACTERS = 20_000
MAX_SENTENCES = 120

_WORD = re.compile(r"[^\W_]+(?:['’.\-][^\W_]+)*")
_STOP = re.compile(r"[.!?…]+[\"”’»)\]]*(?=\s)|[。！？]+[」』”]*")
_BULLET = re.compile(r"^\s*(?:[-*•–]|\d{1,2}[.)])\s+")


def word_set(text: str) -> frozenset[str]:
    """The words of a list written as plain text."""
    return frozenset(text.split())


_ABBREVIATIONS = word_set(
    "mr mrs ms dr prof st no vs etc e.g i.e approx fig jan feb mar apr jun jul aug sep sept oct nov dec inc ltd co"
)

STOP_WORDS = word_set(
    """a about above after again against all almost also although always am among an and another any are around as at
    away back be became because become been before began being below between both but by came can cannot come
    could did do does doing done down during each either else enough even ever every few first for found from
    further gave get gets give go goes going gone got had has have having he her here hers herself him himself his
    how however i if in instead into is it its itself just keep kept knew know last later least less let like long
    made make makes many may maybe me might mine more most much must my myself near never new next no nor not
    nothing now of off often on once one only or other our ours out over own part people perhaps put quite rather
    really said same say says see seen several shall she should since so some something soon still such take taken
    than that the their theirs them themselves then there these they thing things this those though three through
    thus to together told too took two under until up upon us use used very was way we well went were what when
    where whether which while who whom whose why will with within without would year years yes yet you your yours
    it's that's don't doesn't didn't isn't wasn't i'm i've can't won't couldn't he's she's they're we're you're
    there's"""
)


def words(text: str) -> list[str]:
    """Words as written, in order; numbers and hyphenated words are words too."""
    return _WORD.findall(text)


def stem(word: str) -> str:
    """A word without case and common English endings: `Ferries` and `ferry` become the same."""
    word = word.lower().replace("’", "'").removesuffix("'s")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    for ending, shortest in (("ing", 7), ("ed", 5), ("es", 5)):
        if len(word) >= shortest and word.endswith(ending) and not word.endswith("eed"):
            return word[: -len(ending)].removesuffix("e")
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


def stems(text: str) -> list[str]:
    """Stems of the words that carry content, in order, repeats included."""
    return [stem(word) for word in words(text) if word.lower().replace("’", "'") not in STOP_WORDS and len(word) > 1]


@lru_cache(maxsize=1024)
def sentences(text: str) -> tuple[str, ...]:
    """Sentences in order, white space collapsed; a line break after a blank line or before a list item ends one too."""
    found: list[str] = []
    for block in _blocks(text[:MAX_CHARACTERS]):
        start = 0
        for stop in _STOP.finditer(block):
            if not _ends_sentence(block, start, stop):
                continue
            found.append(block[start : stop.end()])
            start = stop.end()
        found.append(block[start:])
    tidy = (" ".join(sentence.split()) for sentence in found)
    return tuple(sentence for sentence in tidy if _WORD.search(sentence))[:MAX_SENTENCES]


def _blocks(text: str) -> list[str]:
    blocks: list[str] = [""]
    for line in text.splitlines():
        bullet = _BULLET.match(line)
        if bullet or not line.strip():
            blocks.append("")
        blocks[-1] += " " + (line[bullet.end() :] if bullet else line)
    return blocks


def _ends_sentence(block: str, start: int, stop: re.Match[str]) -> bool:
    if stop.group()[0] in "。！？":
        return True
    following = block[stop.end() :].lstrip()[:2].lstrip("\"“‘'«([")
    if following and following[0].islower():
        return False
    if stop.group()[0] != ".":
        return True
    before = block[max(start, stop.start() - 12) : stop.start()].split()
    last = before[-1].lower().lstrip("(\"“‘'") if before else ""
    # "Dr. Osei", "J. Brand" and "approx. 40" go on; "3 p.m. The doors" ends.
    return last not in _ABBREVIATIONS and not (len(last) == 1 and last.isalpha() and last != "i")
