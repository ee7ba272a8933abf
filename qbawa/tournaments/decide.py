"""What a match's verdicts come to: who wins, how probably, and what share of the verdicts says otherwise.

`decide_matches` does what a tournament needs; it asks `combine`, which weighs a jury and people, or `unweighted`, which
counts all alike. Both rest on `tally`. Everything takes rows of the table `verdicts` and gives one row a match.
`decide_by_first_judge` is `decide_matches` of the plain case, a round of a tournament that only its jury has judged: forty
small queries took 4 ms a round, a third of playing. tests/tournaments/test_decide.py holds the two together.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import polars as pl

from qbawa.tournaments.agreement.calibration import Calibration, opinions_of_models
from qbawa.tournaments.scores import PREFERENCE, is_scored, preference, preference_of, scored_verdicts, winner

# Share of people's votes that name the better answer. Two people agree on 81 % of decided pairs (Zheng et al. 2023,
# MT-Bench, table 5), and q² + (1 − q)² = 0.81 at q = 0.89.
HUMAN_ACCURACY = 0.89


def decide_matches(verdicts: pl.DataFrame, calibration: Calibration | None, judges: Sequence[str]) -> pl.DataFrame:
    """match_id, p_a, winner, dissent, verdicts, unscored, by `combine` with these `judges`, best first.

    Until there is a calibration, matches that nobody judged but the judges of another evaluation are decided by all of
    them alike: none is known to be better.
    """
    columns = ["match_id", "p_a", "winner", "dissent", "verdicts", "unscored"]
    if calibration is not None:
        return combine(verdicts, calibration, judges).select(columns)
    if not (verdicts["judge_kind"] == "imported").any():
        return combine(verdicts, None, judges).select(columns)
    ours = verdicts.filter(pl.col("judge_kind") != "imported").select("match_id").unique()
    return pl.concat(
        [
            combine(verdicts.join(ours, on="match_id", how="semi"), None, judges).select(columns),
            unweighted(verdicts.join(ours, on="match_id", how="anti")).select(columns),
        ]
    )


def decide_by_first_judge(verdicts: Sequence[Mapping[str, Any]], judges: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What `decide_matches` says of verdicts of models alone where there is no calibration: its rows, by match."""
    by_match: dict[str, list[Mapping[str, Any]]] = {}
    for row in verdicts:
        by_match.setdefault(row["match_id"], []).append(row)
    place = {judge: number for number, judge in enumerate(judges)}
    return {match: _by_first_judge(match, rows, place) for match, rows in by_match.items()}


def _by_first_judge(match: str, rows: Sequence[Mapping[str, Any]], place: Mapping[str, int]) -> dict[str, Any]:
    scored = [row for row in rows if row["verdict"] in PREFERENCE]
    towards = [_preference(row) for row in scored]
    by_judge: dict[str, list[float]] = {}
    for row, one in zip(scored, towards, strict=True):
        by_judge.setdefault(row["judge"], []).append(2 * one - 1)
    p_a = won = dissent = None
    if by_judge:
        opinions = by_judge[min(by_judge, key=lambda judge: (place.get(judge, len(place)), judge))]
        p_a = (sum(opinions) / len(opinions) + 1) / 2
        won = "a" if p_a > 0.5 else "b" if p_a < 0.5 else "tie"
        against = {"a": sum(one < 0.5 for one in towards), "b": sum(one > 0.5 for one in towards)}
        dissent = against[won] / len(scored) if won in against else None
    return {
        "match_id": match,
        "p_a": p_a,
        "winner": won,
        "dissent": dissent,
        "verdicts": len(scored),
        "unscored": sum(row["verdict"] == "unscored" for row in rows),
    }


def _preference(verdict: Mapping[str, Any]) -> float:
    own = verdict["preference"]
    return PREFERENCE[verdict["verdict"]] if own is None or math.isnan(own) else float(own)


def combine(
    verdicts: pl.DataFrame,
    calibration: Calibration | None = None,
    best_judge: str | Sequence[str] | None = None,
    *,
    human_accuracy: float = HUMAN_ACCURACY,
) -> pl.DataFrame:
    """What each match's verdicts come to: match_id, p_a, winner, dissent, flips, verdicts, unscored, decided_by.

    With a calibration p_a is its probability, and the winner is 'tie' while that is within UNDECIDED of ½.
    Without one the best judge decides: p_a is its preference, averaged over the orders it saw. `best_judge` may be a
    list, best first: the first with a scored verdict on the match decides; the others follow in the order of names.
    People's votes add log-odds of `human_accuracy` each; without a calibration they alone decide where they voted.
    p_a and winner are null where nothing was scored. `dissent` is the share of scored verdicts against the winner, null
    on a tie; flips counts the judges that named one answer in one order and the other in the other; verdicts and
    unscored are counts. `decided_by` is 'calibration', a judge's name, 'people' or null.
    """
    counted = tally(verdicts).drop("p_a")
    if calibration is not None:
        jury = calibration.p_a(verdicts).with_columns(decided_by=pl.lit("calibration"))
    else:
        jury = _best_judge(verdicts, best_judge)
    vote = math.log(human_accuracy / (1 - human_accuracy))
    scored = scored_verdicts(verdicts)
    people = scored.filter(pl.col("judge_kind") == "human").group_by("match_id").agg(votes=pl.col("score").sum() * vote)
    # A bare judge's 0 or 1 is no log-odds: where people voted and there is no calibration, people alone decide.
    prior = pl.col("p_a").fill_null(0.5) if calibration is not None else pl.lit(0.5)
    voted = pl.col("votes").is_not_null()
    p = pl.when(voted).then(1 / (1 + (-(pl.col("votes") + (prior / (1 - prior)).log())).exp())).otherwise(pl.col("p_a"))
    decided = (
        counted.join(jury, on="match_id", how="left", maintain_order="left")
        .join(people, on="match_id", how="left", maintain_order="left")
        .with_columns(
            p_a=p,
            sure=pl.when(voted & (pl.col("votes") != 0)).then(pl.lit(True)).otherwise(pl.col("sure")),
            decided_by=pl.when(voted).then(pl.lit("people")).otherwise(pl.col("decided_by")),
        )
        .with_columns(winner=winner(pl.col("p_a") - 0.5, pl.col("sure")))
    )
    return (
        decided.with_columns(dissent=against(pl.col("winner")))
        .join(_flips(scored), on="match_id", how="left", maintain_order="left")
        .with_columns(pl.col("flips").fill_null(0))
        .select(["match_id", "p_a", "winner", "dissent", "flips", "verdicts", "unscored", "decided_by"])
    )


def unweighted(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Where all verdicts count alike: match_id, p_a, winner, dissent, verdicts, unscored, cost_usd.

    p_a is the mean preference of scored verdicts; a match without any has neither p_a nor winner. Where each judge gave
    one verdict this is the mean of the judges' opinions; a judge in both orders counts twice.
    """
    found = tally(verdicts, cost_usd=pl.col("cost_usd").sum()).with_columns(winner=winner(pl.col("p_a") - 0.5))
    return found.with_columns(dissent=against(pl.col("winner"))).drop("for_a", "for_b")


def tally(verdicts: pl.DataFrame, *, by: Literal["preference", "name"] = "preference", **more: pl.Expr) -> pl.DataFrame:
    """match_id, p_a (mean preference), verdicts (scored ones), unscored, for_a, for_b, in the order of the matches.

    A verdict is for the answer that its preference leans to, or, `by` name, for the one that it names. They differ
    where log-probabilities contradict the word: the verdict says `a`, the tokens weigh 0.4 towards a. A verdict for
    neither is only counted. `more` are further columns.
    """
    towards = preference() if "preference" in verdicts.columns else preference_of("verdict")
    leaning = towards if by == "preference" else preference_of("verdict")
    return verdicts.group_by("match_id", maintain_order=True).agg(
        p_a=towards.filter(is_scored()).mean(),
        verdicts=is_scored().sum().cast(pl.Int64),
        unscored=(pl.col("verdict") == "unscored").sum().cast(pl.Int64),
        for_a=(leaning.filter(is_scored()) > 0.5).sum(),
        for_b=(leaning.filter(is_scored()) < 0.5).sum(),
        **more,
    )


def against(won: pl.Expr) -> pl.Expr:
    """Of the rows of `tally`: share of scored verdicts for the other answer than the winner; null on a tie."""
    lost = pl.when(won == "a").then("for_b").when(won == "b").then("for_a")
    return lost / pl.col("verdicts")


def _flips(scored: pl.DataFrame) -> pl.DataFrame:
    by_order = scored.drop_nulls("shown_first").group_by("match_id", "judge", "judge_kind", "shown_first")
    sides = by_order.agg(side=pl.col("score").mean()).group_by("match_id", "judge", "judge_kind")
    turned = sides.agg(flips=(pl.col("side").min() < 0) & (pl.col("side").max() > 0))
    return turned.group_by("match_id").agg(pl.col("flips").sum().cast(pl.Int64))


def _best_judge(verdicts: pl.DataFrame, best_judge: str | Sequence[str] | None) -> pl.DataFrame:
    """match_id, p_a, sure, decided_by: the opinion of the first judge of the list that has one."""
    opinions = opinions_of_models(verdicts)
    listed = [best_judge] if isinstance(best_judge, str) else list(best_judge or [])
    others = opinions["judge"].unique().sort().to_list()
    place = {judge: k for k, judge in enumerate(dict.fromkeys([*listed, *others]))}
    return (
        opinions.with_columns(place=pl.col("judge").replace_strict(place, default=None, return_dtype=pl.Int64))
        .sort("place", maintain_order=True)
        .unique("match_id", keep="first", maintain_order=True)
        .select("match_id", p_a=(pl.col("verdict") + 1) / 2, sure=pl.lit(True), decided_by="judge")
    )
