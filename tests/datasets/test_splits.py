"""Splits: by cluster, for good, and checked."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbawa.datasets.near_duplicates import near_duplicates
from qbawa.datasets.splits import assign_splits, leak_check, split_of
from qbawa.errors import LeakError

SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def asked(n: int, **columns: pl.Series) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "request_id": [f"r{k}" for k in range(n)],
            "question": [f"what is number {k} times {k * 7} plus {k % 5}" for k in range(n)],
        }
        | columns
    )


@settings(max_examples=50, deadline=None)
@given(
    st.sets(st.integers(0, 400), min_size=1, max_size=60), st.sets(st.integers(0, 400), max_size=60), st.integers(0, 3)
)
def test_a_request_never_moves_as_data_grow(before: set[int], later: set[int], seed: int) -> None:
    def rows(numbers: set[int]) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "request_id": [f"r{k}" for k in sorted(numbers)],
                "question": "q",
                "cluster": [f"c{k // 3}" for k in sorted(numbers)],
            }
        )

    first = assign_splits(rows(before), SPLITS, seed)
    second = assign_splits(rows(before | later), SPLITS, seed, previous=first)
    moved = first.join(second, on="request_id", suffix="_new").filter(pl.col("split") != pl.col("split_new"))
    assert moved.is_empty()
    assert second.group_by("cluster").agg(pl.col("split").n_unique())["split"].max() == 1


def test_a_request_stays_though_its_cluster_is_renamed_or_the_shares_change() -> None:
    first = assign_splits(asked(200, cluster=pl.Series([f"c{k}" for k in range(200)])), SPLITS)
    renamed = asked(200, cluster=pl.Series([f"d{k}" for k in range(200)]))
    second = assign_splits(renamed, {"train": 0.5, "validation": 0.25, "test": 0.25}, seed=9, previous=first)
    assert second["split"].equals(first["split"])


def test_a_newcomer_to_a_known_cluster_inherits_its_split() -> None:
    old = pl.DataFrame({"request_id": ["r0"], "split": ["test"]})
    rows = asked(2, cluster=pl.Series(["c", "c"]))
    assert assign_splits(rows, SPLITS, previous=old)["split"].to_list() == ["test", "test"]


def test_shares_are_kept() -> None:
    found = pl.Series([split_of(f"cluster {k}", SPLITS) for k in range(5_000)]).value_counts(normalize=True)
    shares = dict(found.rows())
    assert all(abs(shares[name] - share) < 0.02 for name, share in SPLITS.items())
    assert {split_of(f"c{k}", {"train": 1.0, "test": 0.0}) for k in range(200)} == {"train"}


def test_questions_without_a_cluster_are_grouped_by_their_words() -> None:
    questions = [
        "Write a short poem about the old harbour of Marseille at dawn, please",
        "write a short poem about the old harbour of Marseille at dawn please!",
        "List the prime numbers below one hundred in reverse order",
    ]
    rows = assign_splits(pl.DataFrame({"request_id": ["a", "b", "c"], "question": questions}), SPLITS)
    assert rows["cluster"].to_list() == ["q_a", "q_a", "q_c"]


PAIRS = pl.DataFrame(
    {
        "request_id": ["r1", "r2", "r3"],
        "cluster": ["c1", "c2", "c3"],
        "split": ["train", "test", "train"],
        "question": [
            "how do tides follow the moon around the earth",
            "who painted the ceiling of the chapel in Rome",
            "why is the sky blue at noon and red at dusk",
        ],
    }
)


def test_honest_splits_pass() -> None:
    leak_check(PAIRS)


def test_a_planted_leak_of_a_cluster_is_named() -> None:
    with pytest.raises(LeakError, match=r"cluster 'c1' is in test and train \(rows 0, 1\)"):
        leak_check(PAIRS.with_columns(cluster=pl.Series(["c1", "c1", "c3"])))


def test_a_near_duplicate_across_splits_is_caught_though_its_cluster_differs() -> None:
    near = PAIRS.with_columns(
        question=pl.Series([PAIRS["question"][0], PAIRS["question"][0].upper() + "?", "other words entirely"])
    )
    with pytest.raises(LeakError, match="rows 0 .train, request r1. and 1 .test, request r2. are 100% alike"):
        leak_check(near)


WORDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12).map(" ".join)


@settings(max_examples=50, deadline=None)
@given(st.lists(WORDS, min_size=2, max_size=12), st.sampled_from([0.4, 0.7, 0.9]))
def test_near_duplicates_are_those_that_comparing_all_with_all_finds(texts: list[str], threshold: float) -> None:
    def triples(text: str) -> set[str]:
        words = text.split()
        return {" ".join(words[k : k + 3]) for k in range(len(words) - 2)} or {"\0" + text}

    first = {text: texts.index(text) for text in texts}
    expected = {(first[t], k) for k, t in enumerate(texts) if first[t] != k}
    for a in first.values():
        for b in first.values():
            one, two = triples(texts[a]), triples(texts[b])
            if a < b and len(one & two) / len(one | two) >= threshold:
                expected.add((a, b))
    assert {(a, b) for a, b, _ in near_duplicates(pl.Series(texts), threshold)} == expected


def test_a_template_that_all_questions_share_does_not_make_them_alike() -> None:
    template = "You are a careful assistant. Read the following article and write one sentence about it. Article: "
    texts = pl.Series([template + f"topic{k} number{k * 13} word{k * 7} thing{k * 3}" for k in range(40)])
    assert near_duplicates(texts) == []
