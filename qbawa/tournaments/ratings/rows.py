"""Scored matches as arrays, and the designs that are fitted to them."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from qbawa.errors import InputError
from qbawa.tournaments.ratings.design import Design, Floats, Ints, Luck

# Prior of a shared effect, in logits: no pull where the data separate it from the strengths, finite where they do not (one
# strategy always shown first, say), and then its width shows in the intervals.
EFFECT_SD = 10.0


@dataclass(frozen=True, slots=True)
class Rows:
    """One element per scored match."""

    strategies: list[str]
    """Sorted; `a` and `b` count in it."""
    request: Ints
    a: Ints
    b: Ints
    outcome: Floats
    """Share of the match that a won, 0 to 1."""
    order: Floats | None
    """+½ where a was shown first, −½ where b was, between where judges saw different orders, 0 where it is not known;
    None where it is 0 everywhere: not known, or every judge asked in both orders, so that place cancels."""
    length: Floats | None
    """tanh of the gap of lengths, a minus b, over the gaps' root mean square (AlpacaEval-LC's form; Dubois et al. 2024,
    arXiv 2404.04475): a long answer cannot buy more than a fixed advantage. None unless asked for."""

    @staticmethod
    def of(matches: pl.DataFrame, length_effect: bool) -> "Rows":
        """Rows with a null p_a are left out; with `length_effect` so are rows that lack a length.

        Raises InputError for a missing column, a p_a outside 0 to 1, or a strategy matched against itself.
        """
        needed = ["request_id", "strategy_a", "strategy_b", "p_a"] + ["length_a", "length_b"] * length_effect
        if missing := [name for name in needed if name not in matches.columns]:
            raise InputError(f"Matches lack the column(s) {missing}. Present: {matches.columns}.")
        scored = matches.filter(pl.col("p_a").is_not_null() & pl.col("p_a").cast(pl.Float64).is_not_nan())
        if length_effect:
            scored = scored.filter(pl.col("length_a").is_not_null() & pl.col("length_b").is_not_null())
        if nameless := [name for name in needed[:3] if scored[name].null_count()]:
            raise InputError(
                f"Scored matches have no value in {nameless}. Every match names its request and strategies."
            )
        outcome = scored["p_a"].cast(pl.Float64).to_numpy()
        if len(outcome) and (outcome.min() < 0 or outcome.max() > 1):
            raise InputError(f"p_a must lie in 0 to 1, received {outcome.min()} to {outcome.max()}.")
        both = [scored[column].cast(pl.String).unique() for column in ("strategy_a", "strategy_b")]
        names = pl.concat(both).unique().sort()
        a, b = (_codes(scored[column], names) for column in ("strategy_a", "strategy_b"))
        if (a == b).any():
            itself = names[int(a[a == b][0])]
            raise InputError(f"Strategy '{itself}' is matched against itself. Leave such matches out.")
        requests = scored["request_id"].cast(pl.String)
        return Rows(
            names.to_list(),
            _codes(requests, requests.unique().sort()),
            a,
            b,
            outcome,
            _order(scored),
            _length(scored) if length_effect else None,
        )

    @property
    def effects(self) -> dict[str, Floats]:
        """Covariates by name, in the order of their columns after the strategies."""
        both = (("order", self.order), ("length", self.length))
        return {name: values for name, values in both if values is not None}

    def design(self, *, slope_sd: float | None = None, luck_sd: float | None = None) -> Design:
        """One row per match. `slope_sd` lets the length effect differ by strategy, `luck_sd` adds luck by request."""
        shared = list(self.effects.values())
        terms = [(np.full(len(self.a), k, dtype=np.int64), values) for k, values in enumerate(shared)]
        ridge = np.full(len(shared), EFFECT_SD**-2)
        if self.length is not None and slope_sd is not None:
            terms += [(len(shared) + side, self.length) for side in (self.a, self.b)]
            ridge = np.concatenate([ridge, np.full(len(self.strategies), slope_sd**-2)])
        sign = self.shared_opponent() if luck_sd is not None else None
        luck = Luck(sign, luck_sd) if sign is not None and luck_sd is not None else None
        return Design.of_pairs(
            self.a, self.b, len(self.strategies), *terms, ridge=ridge, request=self.request, luck=luck
        )

    def shared_opponent(self) -> Floats | None:
        """+1 (−1) where a (b) alone plays all matches of the request; None where nobody does anywhere."""
        count = np.bincount(self.request)
        first = np.zeros(len(count), dtype=np.int64)
        first[self.request[::-1]] = np.arange(len(self.request))[::-1]
        sign, playing_all = np.zeros(len(self.a)), np.zeros(len(count), dtype=np.int64)
        for candidate in (self.a[first], self.b[first]):
            is_a, is_b = self.a == candidate[self.request], self.b == candidate[self.request]
            in_all = np.bincount(self.request, is_a | is_b) == count
            playing_all += in_all
            sign += np.where(in_all[self.request], is_a.astype(float) - is_b.astype(float), 0.0)
        sign[playing_all[self.request] != 1] = 0.0
        return sign if sign.any() else None

    def aggregate(self) -> tuple[Design, Floats, Floats]:
        """Design, wins and matches with one row per (pair, order): what Newton iterates over, without lengths.

        Orders are few, whatever the number of matches: fractions of as many verdicts as a jury gives.
        """
        size = len(self.strategies)
        swap = self.a > self.b
        i, j = np.where(swap, self.b, self.a), np.where(swap, self.a, self.b)
        key, orders = i * size + j, np.zeros(1)
        if self.order is not None:
            orders, code = _levels(np.where(swap, -self.order, self.order))
            key = key * len(orders) + code
        played = np.bincount(key)
        wins = np.bincount(key, np.where(swap, 1 - self.outcome, self.outcome))
        cells = np.flatnonzero(played)
        pair, shown = np.divmod(cells, len(orders))
        terms = [] if self.order is None else [(np.zeros(len(cells), dtype=np.int64), orders[shown])]
        design = Design.of_pairs(pair // size, pair % size, size, *terms, ridge=np.full(len(terms), EFFECT_SD**-2))
        return design, wins[cells].astype(np.float64), played[cells].astype(np.float64)


def _order(scored: pl.DataFrame) -> Floats | None:
    if "order" in scored.columns:
        towards = scored["order"].cast(pl.Float64).fill_null(0.0).fill_nan(0.0).to_numpy()
        if len(towards) and np.abs(towards).max() > 1:
            raise InputError(f"order must lie in -1 to 1, received {towards.min()} to {towards.max()}.")
        order = towards / 2
    elif "shown_first" in scored.columns:
        first = scored["shown_first"].cast(pl.String)
        half = [(first == side).fill_null(False).to_numpy().astype(np.float64) for side in ("a", "b")]
        order = (half[0] - half[1]) / 2
    else:
        return None
    return order if order.any() else None


def _levels(values: Floats) -> tuple[Floats, Ints]:
    """The different values, rising, and the place of each value among them."""
    levels = pl.Series(values).unique().sort().to_numpy()  # hashing a million values costs less than sorting them
    return levels, np.searchsorted(levels, values).astype(np.int64)


def _length(scored: pl.DataFrame) -> Floats | None:
    gap = (scored["length_a"].cast(pl.Float64) - scored["length_b"].cast(pl.Float64)).to_numpy()
    scale = float(np.sqrt(np.mean(gap**2))) if len(gap) else 0.0
    return np.tanh(gap / scale) if scale > 0 else None


def _codes(column: pl.Series, names: pl.Series) -> Ints:
    """Position of each value in `names` (sorted, distinct)."""
    return column.cast(pl.String).cast(pl.Enum(names)).to_physical().cast(pl.Int64).to_numpy()
