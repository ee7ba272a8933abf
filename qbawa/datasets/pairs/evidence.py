"""What each match says, as one number and a weight, and what must not count."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from qbawa.tournaments.agreement.calibration import Calibration
from qbawa.tournaments.decide import combine, tally
from qbawa.tournaments.scores import is_scored

# LLMonPy's published sample lets contestant one win 27.6 % of 333: ties and unreadable verdicts fall to contestant two.
NEVER_TRAIN_ON = "llmonpy"
# Verdicts on one match err together: o1-mini on JudgeBench is right on 75.9 %, on 86.4 % where both orders agree;
# logit(.864) / logit(.759) = 1.6 = 2^0.7.
TOGETHER = 0.7


@dataclass(frozen=True, slots=True)
class Opinions:
    """Scored matches that count, and how many did not."""

    matches: pl.DataFrame
    """match_id, request_id, strategy_a, strategy_b, p_a, weight (verdicts it is worth), dissent, judges (list)."""
    calibrated: bool
    """Whether p_a is the probability that people would call a better, rather than a share of verdicts."""
    unscored: int
    never_trained_on: int
    """Matches that nobody judged but LLMonPy's juries."""


def weigh(matches: pl.DataFrame, verdicts: pl.DataFrame, calibration: Calibration | None = None) -> Opinions:
    """Each scored match with the probability that a is better, from the verdicts that may count.

    With a calibration p_a is recomputed from the verdicts; without, the match's own p_a stands unless some of its
    verdicts may not count. Two equal answers are a fact, not a verdict, and teach nothing.
    """
    allowed = ~pl.col("judge").str.starts_with(NEVER_TRAIN_ON)
    counting = verdicts.filter(allowed)
    tainted = verdicts.filter(~allowed)["match_id"].unique()
    judges = pl.col("judge").filter(is_scored()).unique().sort()
    # A card tells how many judges named the other answer, so their words count here, not how far they leaned.
    judged = tally(counting, by="name", judges=judges).filter(pl.col("verdicts") > 0)
    judged = judged.select("match_id", "judges", "for_a", "for_b", share="p_a", scored="verdicts")
    rows = (
        matches.filter(pl.col("origin").fill_null("tournament") != "identical")
        if "origin" in matches.columns
        else matches
    )
    rows = rows.join(judged, on="match_id", how="left", maintain_order="left").with_columns(
        tainted=pl.col("match_id").is_in(tainted.to_list())
    )
    spoiled = rows.filter(pl.col("tainted") & pl.col("scored").is_null()).height
    rows = rows.filter(~(pl.col("tainted") & pl.col("scored").is_null()))
    p_a = pl.when("tainted").then("share").otherwise(pl.coalesce("p_a", "share"))
    if calibration is not None and not counting.is_empty():
        decided = combine(counting, calibration).select("match_id", learnt="p_a")
        rows = rows.join(decided, on="match_id", how="left", maintain_order="left")
        p_a = pl.coalesce("learnt", p_a)
    rows = rows.with_columns(p_a=p_a)
    unscored = rows["p_a"].null_count()
    rows = rows.filter(pl.col("p_a").is_not_null())
    against = pl.when(pl.col("p_a") > 0.5).then("for_b").otherwise("for_a")
    count = pl.coalesce("scored", pl.col("verdicts") if "verdicts" in rows.columns else pl.lit(1)).fill_null(1)
    return Opinions(
        rows.with_columns(
            weight=pl.lit(1.0) if calibration else count.clip(lower_bound=1).cast(pl.Float64).pow(TOGETHER),
            dissent=pl.coalesce(against / pl.col("scored"), pl.col("dissent") if "dissent" in rows.columns else None),
            judges=pl.col("judges").fill_null([]),
        ).select("match_id", "request_id", "strategy_a", "strategy_b", "p_a", "weight", "dissent", "judges"),
        calibration is not None,
        unscored,
        spoiled,
    )
