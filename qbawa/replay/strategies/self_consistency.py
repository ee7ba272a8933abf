"""Which of several answers the others agree with most: self-consistency without another call.

Wang et al. 2023, "Self-Consistency Improves Chain of Thought Reasoning in Language Models", for short answers; for
free text the medoid, as in Chen et al. 2023, "Universal Self-Consistency", but by shared words instead of a model.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence


def most_consistent(answers: Sequence[str]) -> int:
    """Index of the answer to keep: the first of the strictly largest group of equal answers, else the medoid.

    Equal means equal after `normalised`. The medoid shares most words with all others; of several the first.
    """
    if not answers:
        raise ValueError("there is no answer to choose from")
    forms = [normalised(answer) for answer in answers]
    ranked = Counter(forms).most_common(2)
    if ranked[0][1] > 1 and (len(ranked) == 1 or ranked[0][1] > ranked[1][1]):
        return forms.index(ranked[0][0])
    words = [Counter(re.findall(r"\w+", form)) for form in forms]
    closeness = [sum(_overlap(one, other) for other in words) for one in words]
    # Sums of the same floats in another order may differ in the last bits; that must not decide.
    return max(range(len(answers)), key=lambda index: (round(closeness[index], 9), -index))


def normalised(answer: str) -> str:
    """The answer without what makes no difference: case, spacing, punctuation at its ends, the order of JSON's keys."""
    try:
        return json.dumps(json.loads(answer), sort_keys=True)
    except (ValueError, RecursionError):
        text = " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
        return text.strip(" .,;:!?\"'`*_()[]") or text


def word_overlap(one: str, other: str) -> float:
    """F1 of the words of two texts, 0 to 1."""
    return _overlap(*(Counter(re.findall(r"\w+", normalised(text))) for text in (one, other)))


def _overlap(one: Counter[str], other: Counter[str]) -> float:
    """F1 of two bags of words, 0 to 1."""
    size = one.total() + other.total()
    return 2 * (one & other).total() / size if size else 1.0
