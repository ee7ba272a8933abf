"""Questions that hardly differ, found by their own words."""

from __future__ import annotations

import polars as pl

from qbawa.replay.replay_set.near_duplicates import first_of_groups

# Jaccard similarity of word triples from which two questions count as the same.
NEAR = 0.7
# A triple that more than this share of all texts has belongs to the prompt, not to the question.
_TEMPLATE_SHARE = 0.2
_TEMPLATE_FROM = 20


def near_duplicates(texts: pl.Series, threshold: float = NEAR) -> list[tuple[int, int, float]]:
    """Places (first < second) of texts that share at least `threshold` of their word triples, with that share, sorted.

    Of texts that are equal but for case and punctuation only the first is compared with the others, and paired with
    each of them. Prefix filtering (Chaudhuri, Ganti & Kaushik 2006, ICDE): two texts can only reach the threshold if they
    share one of their rarest triples, so few are compared and none that qualifies is missed.
    """
    rows = (
        pl.DataFrame({"text": texts})
        .with_row_index("place")
        .with_columns(text=normalised(pl.col("text").fill_null("")))
    )
    first = rows.group_by("text").agg(first=pl.col("place").min())
    rows = rows.join(first, on="text", how="left", maintain_order="left")
    equal = [(a, b, 1.0) for a, b in rows.filter(pl.col("place") != pl.col("first")).select("first", "place").rows()]
    triples = _triples(rows.filter(pl.col("place") == pl.col("first")).select("place", "text"))
    size = triples.group_by("place").agg(size=pl.len())
    need = (pl.col("size") * threshold).ceil()
    rare = (
        triples.join(size, on="place")
        .sort("place", "texts", "triple")
        .filter(pl.int_range(pl.len()).over("place") <= pl.col("size") - need)
        .select("place", "triple")
    )
    met = (
        rare.join(rare, on="triple", suffix="_b")
        .filter(pl.col("place") < pl.col("place_b"))
        .select("place", "place_b")
        .unique()
    )
    shared = (
        met.join(triples.select("place", "triple"), on="place")
        .join(triples.select(place_b="place", triple="triple"), on=["place_b", "triple"])
        .group_by("place", "place_b")
        .agg(shared=pl.len())
        .join(size, on="place")
        .join(size.rename({"place": "place_b", "size": "size_b"}), on="place_b")
        .with_columns(alike=pl.col("shared") / (pl.col("size") + pl.col("size_b") - pl.col("shared")))
        .filter(pl.col("alike") >= threshold)
    )
    return sorted(equal + shared.select("place", "place_b", "alike").rows())


def groups(texts: pl.Series, threshold: float = NEAR) -> list[int]:
    """For each text the place of the first text of its group; groups join whatever is near-duplicate, even indirectly."""
    return first_of_groups(len(texts), ((a, b) for a, b, _ in near_duplicates(texts, threshold)))


def normalised(text: pl.Expr) -> pl.Expr:
    """The text as it is compared: NFKC, lower case, runs of anything but letters and digits as one blank.

    A text without a letter or digit stays as it is, stripped.
    """
    return _or_itself(_words(text.str.normalize("NFKC")), text)


def normalised_texts(texts: pl.Series) -> pl.Series:
    """As `normalised`, four times as fast where texts are mostly ASCII, which NFKC leaves as it is."""
    rows = pl.DataFrame({"text": texts}).with_row_index("place")
    plain = pl.col("text").str.contains(r"[^\x00-\x7f]").not_().fill_null(True)
    parts = [
        rows.filter(plain).with_columns(words=_words(pl.col("text"))),
        rows.filter(~plain).with_columns(words=_words(pl.col("text").str.normalize("NFKC"))),
    ]
    return pl.concat(parts).sort("place").select(_or_itself(pl.col("words"), pl.col("text")))["words"]


def _words(text: pl.Expr) -> pl.Expr:
    return text.str.to_lowercase().str.replace_all(r"[\W_]+", " ").str.strip_chars()


def _or_itself(words: pl.Expr, text: pl.Expr) -> pl.Expr:
    return pl.when(words != "").then(words).otherwise(text.str.strip_chars())


def _triples(rows: pl.DataFrame) -> pl.DataFrame:
    """place, triple (hash), texts (how many have it); a text of fewer than three words is its own triple."""
    words = rows.select("place", word=pl.col("text").str.split(" ")).explode("word")
    following = [pl.col("word").shift(-k).over("place") for k in (1, 2)]
    runs = words.select("place", triple=pl.concat_str("word", *following, separator=" ")).drop_nulls()
    whole = rows.select("place", triple=pl.lit("\0") + pl.col("text"))
    runs = runs.unique()
    common = _TEMPLATE_SHARE * rows.height if rows.height >= _TEMPLATE_FROM else rows.height
    runs = runs.with_columns(texts=pl.len().over("triple")).filter(pl.col("texts") <= common)
    short = whole.join(runs, on="place", how="anti").with_columns(texts=pl.lit(1, dtype=pl.UInt32))
    return pl.concat([runs.with_columns(pl.col("texts").cast(pl.UInt32)), short]).with_columns(pl.col("triple").hash(0))
