"""The simulated field and judge that `tournaments.py` and `pairs.py` share: real log-odds, planted truth.

No file holds verdicts between any two models, so preferences are derived as the data's README says: each model's
log-odds against the common baseline, slope 0.72 on the gap of model means plus 0.227 on the gap of the per-request
residuals. What this module adds to that:

- A field is N strategies × 100 requests. Strategies are drawn from the models with stored log-odds, without
  replacement while there are enough. Beyond that (N = 128) by smoothed bootstrap: mean of a random model plus a
  kernel jitter, residuals mixed from two random models on the same request, so that the spread of strengths, the
  size of request effects and their correlation stay what they are in the data.
- `spread` multiplies the strengths (means), not the residuals: 1 is the wide field, 0.25 the close one.
- The truth is about these requests: a strategy's win rate is its mean preference over the other strategies and the
  field's own 100 requests, undisturbed by the judge.
- The judge is position-driven in 13 % of verdicts, 60 % of which go to the answer shown first. Otherwise a *decisive*
  judge names the answer that the preference favours, so that position is its only noise and its verdict in the other
  order mostly the same; a *wavering* one draws the answer with the preference as its probability, anew in each order.
  Either way a verdict is fixed by (pair, request, order): asked again, it answers the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

MEAN_SLOPE = 0.72
RESIDUAL_SLOPE = 0.227
POSITION_DRIVEN = 0.13
FAVOURS_FIRST = 0.60
ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"


@dataclass(frozen=True)
class LogOdds:
    """Log-odds of each model against the common baseline: `values[model, request]`, nothing missing."""

    models: tuple[str, ...]
    requests: tuple[str, ...]
    values: np.ndarray

    @cached_property
    def means(self) -> np.ndarray:
        return self.values.mean(axis=1)

    @cached_property
    def residuals(self) -> np.ndarray:
        return self.values - self.means[:, None]


def load_log_odds(data: Path, annotator: str = ANNOTATOR) -> LogOdds:
    """Log-odds of every model that a soft judge compared with the baseline, models and requests sorted by name.

    A missing cell takes its model's mean (residual 0): under 0.2 % of the anchors. The baseline itself has none.
    """
    rows = (
        pl.read_parquet(data / "preferences.parquet")
        .filter((pl.col("annotator") == annotator) & pl.col("logit_model").is_not_null())
        .sort("model", "request_id")
    )
    table = rows.pivot(on="request_id", index="model", values="logit_model", aggregate_function="first").sort("model")
    requests = tuple(sorted(set(table.columns) - {"model"}))
    values = table.select(requests).to_numpy().astype(float)
    values = np.where(np.isnan(values), np.nanmean(values, axis=1, keepdims=True), values)
    return LogOdds(tuple(table["model"]), requests, values)


@dataclass(frozen=True)
class Field:
    """N strategies on R requests with the truth about them: `theta[strategy, request]` is a log-strength."""

    names: tuple[str, ...]
    requests: tuple[str, ...]
    theta: np.ndarray

    def preference(self, a: np.ndarray, b: np.ndarray, request: np.ndarray) -> np.ndarray:
        """Probability that a's answer is better than b's on the request; arguments are indices, any shape."""
        return 1 / (1 + np.exp(self.theta[b, request] - self.theta[a, request]))

    @cached_property
    def win_rate(self) -> np.ndarray:
        """Mean preference over the other strategies and all requests, shape (strategies,): the truth."""
        n = len(self.theta)
        wins = np.zeros(n)
        for theta in self.theta.T:
            wins += (1 / (1 + np.exp(theta[None, :] - theta[:, None]))).sum(axis=1) - 0.5
        return wins / ((n - 1) * self.theta.shape[1])


def draw_field(log_odds: LogOdds, strategies: int, spread: float, seed: int, requests: int = 100) -> Field:
    """A field drawn from the data: see the module's docstring. Same arguments, same field; names sorted."""
    rng = np.random.default_rng([seed, strategies, requests])
    models = len(log_odds.models)
    available = len(log_odds.requests)
    shown = np.sort(rng.permutation(available)[:requests])
    if strategies <= models:
        chosen = rng.permutation(models)[:strategies]
        means, residuals = log_odds.means[chosen], log_odds.residuals[chosen][:, shown]
    else:
        chosen, other = rng.integers(models, size=(2, strategies))
        # Silverman's bandwidth at a half: enough to tell copies of a model apart, little enough to keep the shape.
        bandwidth = 0.5 * 1.06 * log_odds.means.std() * models**-0.2
        means = log_odds.means[chosen] + bandwidth * rng.standard_normal(strategies)
        mix = np.sqrt(0.5)
        residuals = mix * (log_odds.residuals[chosen] + log_odds.residuals[other])[:, shown]
    names = tuple(f"s{k:03d}-{log_odds.models[model]}" for k, model in enumerate(chosen))
    theta = MEAN_SLOPE * spread * means[:, None] + RESIDUAL_SLOPE * residuals
    return Field(names, tuple(log_odds.requests[r] for r in shown), theta)


@dataclass(frozen=True)
class SimulatedJudge:
    """Verdicts on a field: the probabilities above, each fixed by (pair, request, order) and the seed."""

    field: Field
    seed: int
    decisive: bool = False

    def a_wins(self, a: np.ndarray, b: np.ndarray, request: np.ndarray, a_first: np.ndarray) -> np.ndarray:
        """Whether the verdict goes to a: arrays of equal length. Swapping a and b (and the order) swaps it."""
        swapped = a > b
        low, high = np.where(swapped, b, a), np.where(swapped, a, b)
        low_first = np.where(swapped, ~a_first, a_first)
        n, r = self.field.theta.shape
        call = ((low * n + high) * r + request) * 2 + low_first
        driven = _uniform(call, self.seed, 1) < POSITION_DRIVEN
        to_first = _uniform(call, self.seed, 2) < FAVOURS_FIRST
        preference = self.field.preference(low, high, request)
        follows = preference > (0.5 if self.decisive else _uniform(call, self.seed, 3))
        low_wins = np.where(driven, to_first == low_first, follows)
        return low_wins != swapped

    def verdicts(self, batch: np.ndarray) -> np.ndarray:
        """1.0 where a wins and 0.0 where b does, for rows (a, b, request, swapped) as tournaments ask them.

        Which answer is shown first is drawn from the match's content; `swapped` shows them the other way round.
        """
        a, b, request, swapped = batch.T
        content = (np.minimum(a, b) * len(self.field.theta) + np.maximum(a, b)) * len(self.field.requests) + request
        a_first = (_uniform(content, 0, 0) < 0.5) != (swapped == 1)
        return self.a_wins(a, b, request, a_first).astype(float)


def _uniform(call: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """A uniform number in [0, 1) per call: splitmix64, so that nothing need be stored to be asked again."""
    with np.errstate(over="ignore"):
        x = call.astype(np.uint64) * np.uint64(4) + np.uint64(stream)
        x = x + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
        for _ in range(2):
            x = x + np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / 2**53
