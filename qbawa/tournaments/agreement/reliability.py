"""How far each judge can be trusted: against people, against the rest of the jury, and what sways it.

Verdicts and matches are rows of the tables of these names. People are judges too (kind 'human'), compared with the
other people; what a judge is compared with never holds its own verdicts. Unscored verdicts are counted, no more.
Whatever leans on labels weights them by stratum (`stratification`), since people judge split matches more often.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import polars as pl
from scipy.special import stdtrit

from qbawa.errors import InputError
from qbawa.tournaments.agreement.intervals import wilson
from qbawa.tournaments.agreement.position_bias import position_bias
from qbawa.tournaments.agreement.stratification import effective_number, strata, weigh
from qbawa.tournaments.ratings import fit_ratings
from qbawa.tournaments.scores import scored_verdicts, sign_of

RELIABILITY_SCHEMA = {
    "step": pl.String,
    "judge": pl.String,
    "verdicts": pl.Int64,
    "unscored": pl.Int64,
    "agreement_human": pl.Float64,
    "agreement_low": pl.Float64,
    "agreement_high": pl.Float64,
    "human_human": pl.Float64,
    "agreement_jury": pl.Float64,
    "accuracy": pl.Float64,
    "position_bias": pl.Float64,
    "length_bias": pl.Float64,
    "self_preference": pl.Float64,
    "dissent": pl.Float64,
    "gate": pl.String,
}
# Fewer verdicts than this say nothing about a bias that is fitted.
LEAST_FOR_LENGTH = 20
Gate = Literal["bootstrap", "automatic"]


def judge_reliability(
    verdicts: pl.DataFrame,
    matches: pl.DataFrame,
    *,
    strategy_families: Mapping[str, str] | None = None,
    judge_families: Mapping[str, str] | None = None,
    labels: pl.DataFrame | None = None,
    threshold: float = 0.75,
    confidence: float = 0.95,
) -> pl.DataFrame:
    """One row per step and judge: the columns of the `judge_reliability` view (definitions in docs/ratings.md).

    `verdicts`: match_id, judge, judge_kind, shown_first, verdict, preference. `matches`: match_id, request_id, step,
    strategy_a, strategy_b, optionally winner, length_a, length_b. Families map strategies and judges to the family of
    their model. `labels` (match_id, label) are what accuracy is measured against; by default people's majority.
    A number is null where the data do not hold what it takes: labels on split matches alone say nothing of the others.
    `gate` compares agreement_low with `threshold`.
    """
    for name, frame, needed in (
        ("verdicts", verdicts, ["match_id", "judge", "judge_kind", "shown_first", "verdict"]),
        ("matches", matches, ["match_id", "request_id", "step", "strategy_a", "strategy_b"]),
    ):
        if missing := [column for column in needed if column not in frame.columns]:
            raise InputError(f"`{name}` lack the column(s) {missing}. Present: {frame.columns}.")
    context = matches.select(
        *["match_id", "request_id", "step", "strategy_a", "strategy_b"],
        *[column for column in ("winner", "length_a", "length_b") if column in matches.columns],
    ).unique("match_id")
    extra = [column for column in context.columns if column in verdicts.columns and column != "match_id"]
    joined = verdicts.drop(extra).join(context, on="match_id", maintain_order="left")
    rows = []
    for (step,), of_step in joined.group_by("step", maintain_order=True):
        scored = scored_verdicts(of_step)
        opinions = _opinions(scored)
        right = _people(opinions) if labels is None else _labels(labels)
        everywhere = strata(scored)
        between_people = _human_human(opinions, everywhere)
        for (judge, kind), own in of_step.group_by("judge", "judge_kind", maintain_order=True):
            mine = scored.filter((pl.col("judge") == judge) & (pl.col("judge_kind") == kind))
            named = mine.filter(pl.col("score") != 0)
            decided = opinions.filter(
                (pl.col("judge") == judge) & (pl.col("judge_kind") == kind) & (pl.col("score") != 0)
            )
            # Labels stand for all that a model decided. What a person decided is itself a sample, of all there is.
            there, by_order = (
                everywhere if kind == "human" else everywhere.join(some, on="match_id", how="semi")
                for some in (decided, named)
            )
            agreement, low, high = _agreement(decided, opinions, there, confidence)
            rows.append(
                {
                    "step": step,
                    "judge": judge,
                    "verdicts": own.height,
                    "unscored": own.height - mine.height,
                    "agreement_human": agreement,
                    "agreement_low": low,
                    "agreement_high": high,
                    "human_human": between_people,
                    "agreement_jury": _agreement_jury(decided, opinions, there),
                    "accuracy": None if kind == "human" and labels is None else _accuracy(named, right, by_order),
                    "position_bias": position_bias(mine),
                    "length_bias": _length_bias(mine),
                    "self_preference": _self_preference(
                        opinions, str(judge), strategy_families or {}, (judge_families or {}).get(str(judge))
                    ),
                    "dissent": _dissent(mine),
                    "gate": gate(low, threshold),
                }
            )
    return pl.DataFrame(rows, schema=RELIABILITY_SCHEMA).sort("step", "judge")


def gate(agreement_low: float | None, threshold: float) -> Gate:
    """Whether people must go on judging beside this judge: `automatic` once agreement_low has reached the threshold.

    No agreement measured (None) is `bootstrap`.
    """
    return "automatic" if agreement_low is not None and agreement_low >= threshold else "bootstrap"


def audit(match_ids: Iterable[str], share: float, seed: str = "") -> list[str]:
    """The matches that people check although the gate is automatic: about `share` of them.

    Drawn from each match's own id, so a match stays chosen or not whatever else is judged, and a larger share keeps
    the smaller one's.
    """
    limit = share * 2**64
    return [m for m in match_ids if int.from_bytes(hashlib.sha256(f"{seed}:{m}".encode()).digest()[:8]) < limit]


def best_judges(reliability: pl.DataFrame, preferred: Iterable[str] = ()) -> list[str]:
    """Judges of one step, best first, for `combine` while nothing is calibrated.

    By the lower bound of agreement with people; judges never compared with people come after, in the order `preferred`
    (as the user lists the jury), then by name. Agreement with the jury does not count: on hard questions the majority
    is wrong more often than a good judge (docs/ratings.md).
    """
    place = {judge: k for k, judge in enumerate(preferred)}
    rows = reliability.select("judge", "agreement_low").iter_rows()
    return [j for j, _ in sorted(rows, key=lambda r: (r[1] is None, -(r[1] or 0), place.get(r[0], len(place)), r[0]))]


def _opinions(scored: pl.DataFrame) -> pl.DataFrame:
    """One row per match and judge: the mean of its verdicts, `score` in −1 (b) to 1 (a); a flip with the order is 0."""
    context = [c for c in ("request_id", "strategy_a", "strategy_b") if c in scored.columns]
    return scored.group_by("match_id", "judge", "judge_kind", maintain_order=True).agg(
        *[pl.col(name).first() for name in context], score=pl.col("score").mean()
    )


def _agreement(
    decided: pl.DataFrame, opinions: pl.DataFrame, there: pl.DataFrame, confidence: float
) -> tuple[float | None, float | None, float | None]:
    """Chance that the judge and a person, drawn from those who judged the match, name the same answer; with interval.

    Over matches that both decided (Zheng et al. 2023, MT-Bench, section 4.2), each standing for its share of `there`.
    """
    people = (
        opinions.filter((pl.col("judge_kind") == "human") & (pl.col("score") != 0))
        .join(decided, on=["match_id", "judge", "judge_kind"], how="anti", maintain_order="left")
        .select("match_id", person=pl.col("score").sign())
    )
    agree = (pl.col("person") == pl.col("score").sign()).mean()
    met = decided.join(people, on="match_id", maintain_order="left")
    each = met.group_by("match_id", maintain_order=True).agg(pl.col("request_id").first(), agree=agree)
    return _weighted_share(each, there, confidence)


def _weighted_share(
    each: pl.DataFrame, there: pl.DataFrame, confidence: float
) -> tuple[float | None, float | None, float | None]:
    """Weighted mean of `agree` with Wilson's interval (1927) on the effective number of matches.

    That is n over Korn & Graubard's design effect (1998, Survey Methodology 24(2)): matches of a request resemble each
    other, and labels weigh differently. It is never above Kish's effective number; a Student quantile with one degree
    of freedom less than there are requests. A stratum without labels may agree nowhere or everywhere: the interval
    holds both.
    """
    sample = weigh(there, each)
    n = each.height
    if n == 0:
        return None, None, None
    each = each.join(sample.weights, on="match_id", maintain_order="left")
    agree, weight = each["agree"].to_numpy(), each["weight"].to_numpy()
    share = float(np.average(agree, weights=weight))
    # The sizes of strata are known, so an error is by how much a match differs from its own stratum.
    off = each.with_columns(off=pl.col("weight") * (pl.col("agree") - pl.col("agree").mean().over("split")))
    sums = off.group_by("request_id", maintain_order=True).agg(pl.col("off").sum())["off"].to_numpy()
    requests, alike = len(sums), effective_number(weight) / n
    low, high = 0.0, 1.0
    if requests > 1:
        binomial = share * (1 - share) / n
        measured = float(np.sum(sums**2)) / n**2 * requests / (requests - 1)
        # Where all agree the design effect cannot be measured: then a request counts once.
        effective = n / max(measured / binomial, 1 / alike) if binomial > 0 else requests * alike
        low, high = wilson(share, effective, float(stdtrit(requests - 1, (1 - confidence) / 2)))
        low, high = max(low, 0.0), min(high, 1.0)
    unknown = 1 - sample.covered
    return None if sample.one_sided else share, sample.covered * low, sample.covered * high + unknown


def _human_human(opinions: pl.DataFrame, there: pl.DataFrame) -> float | None:
    """The same chance for two different people: mean over matches that at least two people decided."""
    people = opinions.filter((pl.col("judge_kind") == "human") & (pl.col("score") != 0))
    a, n = (pl.col("score") > 0).sum(), pl.len()
    pairs = people.group_by("match_id", maintain_order=True).agg(
        agree=(a * (a - 1) + (n - a) * (n - a - 1)) / (n * (n - 1)), n=n
    )
    several = pairs.filter(pl.col("n") > 1)
    return weigh(there, several).mean(several, "agree")


def _agreement_jury(decided: pl.DataFrame, opinions: pl.DataFrame, there: pl.DataFrame) -> float | None:
    """Share of matches on which the judge names the answer that most of the other judges (not people) name."""
    others = opinions.filter(pl.col("judge_kind") != "human").join(
        decided, on=["match_id", "judge", "judge_kind"], how="anti"
    )
    majority = others.group_by("match_id").agg(jury=pl.col("score").sign().sum().sign()).filter(pl.col("jury") != 0)
    both = decided.join(majority, on="match_id", maintain_order="left")
    both = both.select("match_id", agree=pl.col("score").sign() == pl.col("jury"))
    return weigh(there.join(majority, on="match_id", how="semi"), both).mean(both, "agree")


def _people(opinions: pl.DataFrame) -> pl.DataFrame:
    """match_id, right: the answer that most people name, −1 or 1."""
    people = opinions.filter(pl.col("judge_kind") == "human")
    majority = people.group_by("match_id").agg(right=pl.col("score").sign().sum().sign())
    return majority.filter(pl.col("right") != 0)


def _labels(labels: pl.DataFrame) -> pl.DataFrame:
    return labels.select("match_id", right=sign_of("label")).drop_nulls().unique("match_id")


def _accuracy(named: pl.DataFrame, right: pl.DataFrame, there: pl.DataFrame) -> float | None:
    """Share of the verdicts for a or b that are right, each order by itself."""
    rows = named.join(right, on="match_id", maintain_order="left").select(
        "match_id", right=pl.col("score").sign() == pl.col("right")
    )
    return weigh(there, rows).mean(rows, "right")


def _length_bias(mine: pl.DataFrame) -> float | None:
    """Length effect of a fit to this judge's verdicts alone: log-odds for the longer of two equally strong answers."""
    if not {"length_a", "length_b"} <= set(mine.columns):
        return None
    matches = mine.with_columns(p_a=(pl.col("score") + 1) / 2).drop_nulls(["length_a", "length_b"])
    matches = matches.filter(pl.col("strategy_a") != pl.col("strategy_b"))
    if matches.height < LEAST_FOR_LENGTH:
        return None
    effect = fit_ratings(matches, length_effect=True).length_effect
    return None if effect is None else effect.logit


def _self_preference(
    opinions: pl.DataFrame, judge: str, families: Mapping[str, str], own_family: str | None
) -> float | None:
    """How much more of a match answers of the judge's family win with it than with all others who judged the match.

    Over matches of its family against another; people count among the others.
    """
    if own_family is None or not families:
        return None
    of = {
        side: pl.col(f"strategy_{side}").replace_strict(families, default="", return_dtype=pl.String) for side in "ab"
    }
    is_own = {side: of[side] == own_family for side in "ab"}
    towards = pl.when(is_own["a"] & ~is_own["b"]).then(1).when(is_own["b"] & ~is_own["a"]).then(-1)
    family = opinions.with_columns(share=(pl.col("score") * towards + 1) / 2).drop_nulls("share")
    mine = family.filter(pl.col("judge") == judge).select("match_id", "share")
    rest = family.filter(pl.col("judge") != judge)
    others = rest.group_by("match_id", maintain_order=True).agg(others=pl.col("share").mean())
    both = mine.join(others, on="match_id", maintain_order="left")
    return _mean(both["share"] - both["others"])


def _dissent(mine: pl.DataFrame) -> float | None:
    """Share of its verdicts for the answer that lost; matches without a winner are left out."""
    if "winner" not in mine.columns:
        return None
    won = mine.filter(pl.col("winner").is_in(["a", "b"]))
    return _mean(won.select(against=pl.col("score") * sign_of("winner") < 0)["against"])


def _mean(values: pl.Series) -> float | None:
    mean = values.cast(pl.Float64).mean() if len(values) else None
    return None if mean is None else float(mean)  # type: ignore[arg-type]
