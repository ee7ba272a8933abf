"""Classic extractive summarisers, plus some models with the manners of a chat model.

Each takes a brief and the call's parameters and returns text. Sources: Luhn 1958 (The automatic creation of
literature abstracts); Mihalcea and Tarau 2004 (TextRank); Radev et al. 2004 (centroid); Nenkova and Vanderwende 2005
(SumBasic).
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from qbawa.engine.offline_models.prompt import Brief
from qbawa.engine.offline_models.text import MAX_CHARACTERS, STOP_WORDS, sentences, stem, stems, word_set, words

NOTHING = "There is no text to sum up."
_DEFAULT_WORDS = 28  # what the models that mind their length take for "one sentence" when the prompt names no number


@dataclass(frozen=True, slots=True)
class Text:
    """A text taken apart once: its full sentences, the content stems of each, and how often each stem occurs."""

    sentences: tuple[str, ...]
    stems: tuple[tuple[str, ...], ...]
    counts: Counter[str]


@lru_cache(maxsize=512)
def take_apart(source: str) -> Text:
    """The full sentences of a text; list items and headings count only where there is nothing better."""
    every = sentences(source)
    full = tuple(s for s in every if len(s.split()) >= 5 and s.rstrip('"”’»)] ')[-1:] in tuple(".!?…。！？"))
    kept = full or every
    content = tuple(tuple(stems(sentence)) for sentence in kept)
    return Text(kept, content, Counter(stems(source[:MAX_CHARACTERS])))


# One score per sentence.


def by_keyword(text: Text) -> list[float]:
    """Mass of frequent words: favours long sentences."""
    return [float(sum(text.counts[s] for s in set(content))) for content in text.stems]


def by_mean_frequency(text: Text) -> list[float]:
    """Mean frequency of the words (SumBasic): favours short sentences."""
    return [sum(text.counts[s] for s in content) / (len(content) or 1) for content in text.stems]


def by_luhn(text: Text) -> list[float]:
    """Densest cluster of significant words: squared count over span, gaps of at most four words."""
    scores = []
    for content in text.stems:
        best, first, last, count = 0.0, -1, -9, 0
        for position, word in enumerate(content):
            if text.counts[word] < 2:
                continue
            if position - last > 5:
                first, count = position, 0
            last, count = position, count + 1
            best = max(best, count * count / (last - first + 1))
        scores.append(best)
    return scores


def by_centroid(text: Text) -> list[float]:
    """Cosine with the mean tf-idf vector of the text, each sentence taken as a document."""
    spread = Counter(word for content in text.stems for word in set(content))
    total = len(text.stems)
    weight = {word: text.counts[word] * math.log(1 + total / spread[word]) for word in spread}
    norm = math.sqrt(sum(w * w for w in weight.values())) or 1.0
    scores = []
    for content in text.stems:
        mine = {word: n * math.log(1 + total / spread[word]) for word, n in Counter(content).items()}
        length = math.sqrt(sum(w * w for w in mine.values())) or 1.0
        scores.append(sum(w * weight[word] for word, w in mine.items()) / (length * norm))
    return scores


def by_textrank(text: Text) -> list[float]:
    """PageRank over sentences linked by the words that they share; damping 0.85, 20 rounds."""
    sets = [set(content) for content in text.stems]
    n = len(sets)
    links = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i):
            shared = len(sets[i] & sets[j])
            if shared:
                links[i][j] = links[j][i] = shared / (math.log(1 + len(sets[i])) + math.log(1 + len(sets[j])))
    out = [sum(row) or 1.0 for row in links]
    neighbours = [[(j, link / out[j]) for j, link in enumerate(row) if link] for row in links]
    rank = [1.0] * n
    for _ in range(20):
        rank = [0.15 + 0.85 * sum(rank[j] * share for j, share in near) for near in neighbours]
    return rank


Scorer = Callable[[Text], list[float]]


def best(source: str, scorer: Scorer, count: int = 1) -> list[str]:
    """The highest-scoring sentences of a text, best first; the earlier one of equals."""
    text = take_apart(source)
    scores = scorer(text)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [text.sentences[i] for i in order[:count]]


# Shortening.

_POINTS_BACK = word_set(
    "it they he she this that these those but and however so then yet still his her their its there both such none"
)
_ASIDE = re.compile(r"\s*\([^()]*\)|\s*\[[^\[\]]*\]|\s+[–—]\s[^–—]{1,120}\s[–—](?=\s)")
_TRAILING = re.compile(
    r",\s+(?:which|who|whose|where|while|although|though|as|because|since|so that|according to|said|says|adding|noting"
    r"|(?:and|but) (?:it|they|he|she|we|the|an?|in|there|nobody|every|each))\b[^,;]*?(?=[.!?]?$)"
)
_OPENING = re.compile(
    r"^(?:While|Although|Though|After|Before|When|As|Since|Because|If|On|In|At|By|With|For|Until|Despite|Instead|However|But|And|So|Still"
    r"|Then|Yet|Even|That said|Meanwhile|Now|Last|This)\b[^,]{0,80},\s+(?=\w)"
)


def trim(sentence: str, max_words: int) -> str:
    """The sentence without asides, then without opening and trailing clauses as far as `max_words` demands."""
    sentence = _ASIDE.sub("", sentence).strip()
    for pattern in (_OPENING, _TRAILING, _TRAILING):
        if len(sentence.split()) <= max_words:
            break
        shorter = pattern.sub("", sentence, count=1)
        if len(shorter.split()) >= 6:
            sentence = shorter
    return sentence[:1].upper() + sentence[1:]


def shorten(sentence: str, max_words: int) -> str:
    """At most `max_words` words of a sentence: trimmed if that is enough, else cut, at a comma where there is one."""
    kept = trim(sentence, max_words).split()
    if len(kept) <= max_words:
        return " ".join(kept)
    kept = kept[:max_words]
    commas = [i for i, word in enumerate(kept) if word[-1] in ",;:" and i >= max_words // 2]
    kept = kept[: commas[-1] + 1] if commas else kept
    while len(kept) > 3 and kept[-1].lower().strip(",;:") in STOP_WORDS:
        kept.pop()
    return " ".join(kept).rstrip(",;:–— ") + "."


def _fitting(text: Text, max_words: int) -> list[tuple[int, str]]:
    """Number and trimmed form of the sentences that fit and stand alone, or just fit where none stands alone."""
    trimmed = [(i, trim(sentence, max_words)) for i, sentence in enumerate(text.sentences)]
    fits = [(i, sentence) for i, sentence in trimmed if len(sentence.split()) <= max_words]
    return [(i, s) for i, s in fits if _stands_alone(s)] or fits


def _stands_alone(sentence: str) -> bool:
    first = (sentence.split(None, 1) or [""])[0].strip("\"“‘'«(").lower()
    return first not in _POINTS_BACK and "?" not in sentence and sum(sentence.count(mark) for mark in '"“”«»') == 0


def _room(brief: Brief) -> int:
    """Words to spend: what the prompt says, else what its examples look like, else the default."""
    if brief.max_words:
        return brief.max_words
    if brief.examples:
        lengths = sorted(len(example.split()) for example in brief.examples)
        return max(5, lengths[len(lengths) // 2])
    return _DEFAULT_WORDS


# The models.

Params = Mapping[str, Any]
Model = Callable[[Brief, Params], str]


def lead(brief: Brief, params: Params) -> str:
    return (take_apart(brief.source).sentences or (NOTHING,))[0]


def lead_two(brief: Brief, params: Params) -> str:
    return " ".join(take_apart(brief.source).sentences[:2]) or NOTHING


def last(brief: Brief, params: Params) -> str:
    return (take_apart(brief.source).sentences or (NOTHING,))[-1]


def extract(scorer: Scorer) -> Model:
    """The model that answers with the best sentence, word for word, whatever the prompt says about length."""

    def model(brief: Brief, params: Params) -> str:
        return " ".join(best(brief.source, scorer)) or NOTHING

    return model


def compress(brief: Brief, params: Params) -> str:
    """The most central sentence that can be trimmed to the length asked for; else the central sentence, cut."""
    text = take_apart(brief.source)
    if not text.sentences:
        return NOTHING
    scores = by_centroid(text)
    fitting = _fitting(text, _room(brief))
    if fitting:
        return max(fitting, key=lambda pair: scores[pair[0]])[1]
    return shorten(best(brief.source, by_centroid)[0], _room(brief))


def fuse(brief: Brief, params: Params) -> str:
    """A central sentence joined with the one that adds most to it, both trimmed to fit the length asked for."""
    text = take_apart(brief.source)
    if not text.sentences:
        return NOTHING
    room = _room(brief)
    heads = _fitting(text, max(6, room * 2 // 3))
    if not heads:
        return shorten(best(brief.source, by_textrank)[0], room)
    scores = by_textrank(text)
    chosen, head = max(heads, key=lambda pair: scores[pair[0]])
    known = set(stems(head))
    tails = {i: tail for i, tail in _fitting(text, room - len(head.split())) if i != chosen and len(tail.split()) >= 4}
    if not tails:
        return head
    added = max(tails, key=lambda i: sum(text.counts[word] for word in set(stems(tails[i])) - known))
    # What the text says first comes first.
    first, second = (head, tails[added]) if chosen < added else (tails[added], head)
    # After a semicolon a capital is right only for a name, which never stands without one elsewhere.
    common = {stem(word) for word in words(brief.source[:MAX_CHARACTERS]) if word.islower()}
    if second.split()[0].lower() in STOP_WORDS or stem(second.split()[0]) in common:
        second = second[:1].lower() + second[1:]
    return f"{first.rstrip('.!?…')}; {second}"


def sampler(brief: Brief, params: Params) -> str:
    """One of the five best sentences, shortened: the best at temperature 0, else drawn by seed and sample number."""
    text = take_apart(brief.source)
    scores = by_centroid(text)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:5]
    if not order:
        return NOTHING
    temperature = _number(params.get("temperature"), 1.0)
    if temperature > 0:
        weights = [math.exp(max(-60.0, (scores[i] - scores[order[0]]) / (0.25 * temperature))) for i in order]
        chance = _chance(brief.source, brief.instruction, params.get("seed", 0), params.get("sample", 0)) * sum(weights)
        for i, weight in zip(order, weights, strict=True):
            chance -= weight
            if chance < 0:
                return shorten(text.sentences[i], _room(brief))
    return shorten(text.sentences[order[0]], _room(brief))


def chatty(brief: Brief, params: Params) -> str:
    """A good sentence between pleasantries, of which it drops half when the prompt forbids them."""
    found = best(brief.source, by_textrank)
    if not found:
        return "I'd be happy to help! Could you share the text?"
    if brief.bare:
        return f"In summary: {found[0]}"
    opening, closing = "Sure! Here's a one-sentence summary of the article:", "Let me know if you'd like more detail!"
    return f"{opening}\n\n{found[0]}\n\n{closing}"


def verbose(brief: Brief, params: Params) -> str:
    """The three most central sentences in their order, however many were asked for."""
    chosen = set(best(brief.source, by_textrank, 3))
    return " ".join(s for s in take_apart(brief.source).sentences if s in chosen) or NOTHING


def title(brief: Brief, params: Params) -> str:
    """A headline without a verb: six of the most frequent words, in the order in which the text brings them."""
    text = take_apart(brief.source)
    frequent = {word for word, n in text.counts.most_common(8)}
    written: dict[str, str] = {}
    for word in words(brief.source[:MAX_CHARACTERS]):
        for key in stems(word)[:1]:
            written.setdefault(key, word)
    order = [word for word in text.counts if word in frequent]
    return " ".join(written.get(word, word) for word in order[:6]).capitalize() or NOTHING


def _number(value: Any, otherwise: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return otherwise
    return number if math.isfinite(number) else otherwise


def _chance(*parts: Any) -> float:
    """A number in [0, 1) that depends on nothing but `parts`."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


SUMMARISERS: Mapping[str, tuple[Model, str]] = {
    "lead": (lead, "first sentence"),
    "lead-2": (lead_two, "first two sentences"),
    "last": (last, "last sentence"),
    "keyword": (extract(by_keyword), "sentence with most frequent words (long ones win)"),
    "sumbasic": (extract(by_mean_frequency), "sentence of highest mean word frequency (short ones win)"),
    "luhn": (extract(by_luhn), "sentence with the densest cluster of significant words"),
    "centroid": (extract(by_centroid), "sentence nearest to the whole text by tf-idf"),
    "textrank": (extract(by_textrank), "sentence that shares most with the others"),
    "compress": (compress, "central sentence shortened; keeps to a word limit in the prompt"),
    "fuse": (fuse, "two central sentences shortened into one; keeps to a word limit in the prompt"),
    "sampler": (sampler, "draws among the five best sentences; temperature, seed and sample count"),
    "chatty": (chatty, "good sentence between pleasantries; fewer when asked for the answer alone"),
    "verbose": (verbose, "three sentences, however many were asked for"),
    "title": (title, "headline of frequent words without a verb"),
}
