"""What a jury's verdicts are worth: the probability that answer a is better, learnt from people's verdicts.

Verdicts are rows of the `verdicts` table. People enter as labels, judges as features; what was not scored is not there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from qbawa.errors import InputError
from qbawa.tournaments.agreement.stratification import effective_number, strata, weigh
from qbawa.tournaments.ratings.newton import ONE_BLAS_THREAD
from qbawa.tournaments.scores import PREFERENCE, scored_verdicts, sign_of, winner

Floats = NDArray[np.float64]

MIN_HUMAN_VERDICTS = 50
"""Below this the best single judge decides. With fewer labels the weights are mostly prior (docs/ratings.md)."""

# Below 55 % for either side a calibrated jury names no winner: on judgebench it was right in 46 % of such pairs.
UNDECIDED = 0.05
# Matches whose features are held at once.
CHUNK = 50_000
# What a judge's verdicts on one match say: its mean verdict; the same again where both orders were asked (those that
# agree are right far more often); and which answer it saw first, so that a liking for a place is not taken for quality.
Signal = Literal["verdict", "both_orders", "shown_first", "length"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Logistic weights of a jury. Features change sign with a and b and there is no intercept: p becomes 1 − p."""

    features: tuple[tuple[str, Signal], ...]
    """(judge, signal), one per weight; the judge is '' for the length gap."""
    weights: Floats
    """Log-odds per unit of each feature."""
    covariance: Floats
    """Of the weights (Laplace), shape (weights, weights)."""
    prior_sd: float
    """Standard deviation of the weights before the data, estimated from the data."""
    length_scale: float
    """Characters that count as one length gap; 0 where lengths were not used."""
    labels: int
    """Labelled matches it was fitted on."""

    def p_a(self, verdicts: pl.DataFrame) -> pl.DataFrame:
        """One row per match with a scored judge's verdict: match_id, p_a, sure.

        p_a averages over the uncertainty of the weights (MacKay 1992), so that few labels give modest probabilities.
        `sure` is false where p_a is within UNDECIDED of ½: the jury has not decided.
        """
        opinions = opinions_of_models(verdicts)
        matches = opinions["match_id"].unique(maintain_order=True)
        logit, spread = np.zeros(len(matches)), np.zeros(len(matches))
        for start in range(0, len(matches), CHUNK):
            some = matches.slice(start, CHUNK)
            x = _matrix(opinions, some, self.features, self.length_scale)
            logit[start : start + len(some)] = x @ self.weights
            spread[start : start + len(some)] = np.sqrt(((x @ self.covariance) * x).sum(1))
        moderated = logit / np.sqrt(1 + math.pi * spread**2 / 8)
        return pl.DataFrame(
            {"match_id": matches, "p_a": _logistic(moderated), "sure": np.abs(_logistic(moderated) - 0.5) >= UNDECIDED},
            schema={"match_id": pl.String, "p_a": pl.Float64, "sure": pl.Boolean},
        )


def fit(verdicts: pl.DataFrame, labels: pl.DataFrame | None = None, *, use_length: bool = False) -> Calibration:
    """Weights that turn a jury's verdicts into P(a is better).

    `verdicts`: match_id, judge, judge_kind, shown_first, verdict, preference; for `use_length` also length_a, length_b.
    `labels`: match_id and label ('a', 'b' or 'tie'); by default the majority of the rows of kind 'human'.
    Penalised logistic regression; the penalty is the one under which the data are likeliest (MacKay's evidence).
    Labels are weighted by stratum (`stratification`), as if drawn at random from all matches that the jury judged; the
    weights sum to the labels' effective number.
    Raises InputError where no labelled match has a judge's verdict.
    """
    labels = human_labels(verdicts) if labels is None else labels
    everywhere = strata(_of_models(verdicts))
    opinions = opinions_of_models(verdicts).join(labels.select("match_id").unique(), on="match_id", how="semi")
    known = labels.join(opinions, on="match_id", how="semi").unique("match_id").sort("match_id")
    if known.is_empty():
        raise InputError(
            f"None of the {labels.height} labelled matches has a scored verdict of a judge: nothing to calibrate on. "
            "Let the jury judge the matches that people judged."
        )
    scale = 0.0
    if use_length:
        gaps = opinions.unique("match_id").select(gap=pl.col("length_a") - pl.col("length_b"))["gap"].drop_nulls()
        scale = float(np.sqrt(np.mean(gaps.cast(pl.Float64).to_numpy() ** 2))) if len(gaps) else 0.0
    judges = opinions["judge"].unique().sort().to_list()
    signals: tuple[Signal, ...] = ("verdict", "both_orders", "shown_first")
    features: list[tuple[str, Signal]] = [(judge, signal) for judge in judges for signal in signals]
    if scale > 0:
        features.append(("", "length"))
    x = _matrix(opinions, known["match_id"], features, scale)
    used = _informative(x, features)
    x, features = x[:, used], [features[k] for k in used]
    outcome = known["label"].replace_strict(PREFERENCE, return_dtype=pl.Float64).to_numpy()
    weighed = known.join(weigh(everywhere, known).weights, on="match_id", maintain_order="left")["weight"].to_numpy()
    counts = weighed * effective_number(weighed) / known.height
    with ONE_BLAS_THREAD.limit(limits=1, user_api="blas"):
        weights, covariance, precision = _evidence(x, outcome, counts)
    return Calibration(tuple(features), weights, covariance, precision**-0.5, scale, known.height)


def calibrate(verdicts: pl.DataFrame, *, use_length: bool = False) -> Calibration | None:
    """`fit` where people gave at least MIN_HUMAN_VERDICTS verdicts on matches that the jury judged; else None.

    None too where people judged split matches alone, or unanimous ones alone, though the step has its share of both:
    what such labels teach does not hold for the others.
    """
    judged = strata(_of_models(verdicts))
    people = scored_verdicts(verdicts).filter(pl.col("judge_kind") == "human").join(judged, on="match_id", how="semi")
    if people.height < MIN_HUMAN_VERDICTS or weigh(judged, people).one_sided:
        return None
    return fit(verdicts, use_length=use_length)


def human_labels(verdicts: pl.DataFrame) -> pl.DataFrame:
    """People's majority: one row per match with match_id, label ('a', 'b', 'tie') and votes. Even votes are a tie."""
    people = scored_verdicts(verdicts).filter(pl.col("judge_kind") == "human")
    votes = people.group_by("match_id", maintain_order=True).agg(
        side=pl.col("score").sum(), votes=pl.len().cast(pl.Int64)
    )
    return votes.select("match_id", "votes", label=winner(pl.col("side")))


def _of_models(verdicts: pl.DataFrame) -> pl.DataFrame:
    return scored_verdicts(verdicts).filter(pl.col("judge_kind") != "human")


def opinions_of_models(verdicts: pl.DataFrame) -> pl.DataFrame:
    """One row per match and judge (people left out): the signals of the features, and the lengths where present."""
    lengths = [name for name in ("length_a", "length_b") if name in verdicts.columns]
    both = pl.col("shown_first").drop_nulls().n_unique() == 2
    return (
        _of_models(verdicts)
        .group_by("match_id", "judge", maintain_order=True)
        .agg(
            *[pl.col(name).first() for name in lengths],
            verdict=pl.col("score").mean(),
            both_orders=pl.when(both).then(pl.col("score").mean()).otherwise(0.0),
            shown_first=sign_of("shown_first").mean().fill_null(0.0),
        )
    )


def _matrix(
    opinions: pl.DataFrame, matches: pl.Series, features: Sequence[tuple[str, Signal]], length_scale: float
) -> Floats:
    """Features of each match, shape (matches, features). A judge without a verdict on a match is 0 there."""
    x = np.zeros((len(matches), len(features)))
    row = pl.DataFrame({"match_id": matches, "row": np.arange(len(matches))})
    there = opinions.join(row, on="match_id")
    for (judge,), some in there.group_by("judge"):
        for column, (name, signal) in enumerate(features):
            if name == judge and signal != "length":
                x[some["row"].to_numpy(), column] = some[signal].to_numpy()
    if ("", "length") in features:
        gap = there.unique("row").select(
            "row", gap=(pl.col("length_a") - pl.col("length_b")).cast(pl.Float64).fill_null(0.0)
        )
        x[gap["row"].to_numpy(), list(features).index(("", "length"))] = np.tanh(gap["gap"].to_numpy() / length_scale)
    return x


def _informative(x: Floats, features: Sequence[tuple[str, Signal]]) -> list[int]:
    """Features that vary and are no copy of the one before: a judge always asked in both orders has its signal once."""
    return [
        k
        for k in range(len(features))
        if x[:, k].any() and not (features[k][1] == "both_orders" and np.array_equal(x[:, k], x[:, k - 1]))
    ]


def _evidence(x: Floats, outcome: Floats, counts: Floats) -> tuple[Floats, Floats, float]:
    """Weights, their covariance, and the prior precision that the data make likeliest (weak hyperprior at 1).

    Row k of x and outcome was seen counts[k] times.
    """
    weights, precision = np.zeros(x.shape[1]), 1.0
    for _ in range(100):
        weights, covariance = _penalised(x, outcome, counts, precision, weights)
        squares = float(np.sum(weights**2) + np.trace(covariance))
        following = (len(weights) + 1) / (squares + 1)
        if abs(math.log(following / precision)) < 1e-4:
            break
        precision = following
    return weights, covariance, precision


def _penalised(x: Floats, outcome: Floats, counts: Floats, precision: float, weights: Floats) -> tuple[Floats, Floats]:
    """Newton on the penalised log-likelihood; the covariance is the inverse Hessian at its maximum."""
    ridge = precision * np.eye(x.shape[1])
    for _ in range(100):
        p = _logistic(x @ weights)
        covariance = np.linalg.inv((x.T * (counts * p * (1 - p))) @ x + ridge)
        step = covariance @ (x.T @ (counts * (outcome - p)) - precision * weights)
        longest = float(np.abs(step).max(initial=0.0))
        weights = weights + step * min(1.0, 2.0 / max(longest, 2.0))
        if longest < 1e-8:
            break
    return weights, covariance.astype(np.float64)


def _logistic(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)), dtype=np.float64)
