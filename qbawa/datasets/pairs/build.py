"""From matches, verdicts and answers to pairs that carry the probability that best really is better."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from qbawa.config import PairsConfig
from qbawa.datasets.pairs.candidates import Candidates, candidates
from qbawa.datasets.pairs.evidence import Opinions, weigh
from qbawa.datasets.pairs.filters import is_empty, is_refusal
from qbawa.datasets.pairs.pair_ids import answer_codes, codes, pair_ids, whole_questions
from qbawa.datasets.pairs.policy import Policy, choose
from qbawa.datasets.pairs.posterior import TYPICAL_EFFECT, Evidence, fit_posterior
from qbawa.datasets.pairs.provenance import history
from qbawa.datasets.splits import assign_splits
from qbawa.tournaments.agreement.calibration import Calibration

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "pair_id": pl.String,
    "step": pl.String,
    "request_id": pl.String,
    "question": pl.String,
    "parameters": pl.String,
    "best_answer": pl.String,
    "worse_answer": pl.String,
    "best_strategy": pl.String,
    "worse_strategy": pl.String,
    "best_cell": pl.String,
    "worse_cell": pl.String,
    "p_best": pl.Float64,
    "margin": pl.Float64,
    "basis": pl.String,
    "judges": pl.List(pl.String),
    "dissent": pl.Float64,
    "cluster": pl.String,
    "split": pl.String,
    "match_ids": pl.List(pl.String),
    "built_at": pl.Datetime("us", "UTC"),
    "block_id": pl.String,
}


UNKNOWN = 0.5
"""p_best of two answers of which nothing is known."""


@dataclass(frozen=True, slots=True)
class PairsReport:
    """What `build_pairs` returns."""

    pairs: pl.DataFrame
    """Rows of the table `qbawa`; block_id is the step."""
    removed: dict[str, int]
    """Possible pairs that were left out, by reason."""
    effect: dict[str, float]
    """By step: standard deviation of what an answer's strength owes to the request, in logits."""


def build_pairs(
    matches: pl.DataFrame,
    verdicts: pl.DataFrame,
    cells: pl.DataFrame,
    questions: pl.DataFrame,
    config: PairsConfig | None = None,
    calibration: Calibration | None = None,
    previous: pl.DataFrame | None = None,
    built_at: datetime | None = None,
) -> PairsReport:
    """Every pair of answers to one question that is sure enough, of every step in `cells`.

    `matches`, `verdicts`, `cells`: rows of those tables (cells: `replay_matrix`). `questions`: step, request_id, question
    (JSON list of messages) and, where known, parameters (JSON, what was asked besides) and cluster. `previous`: pairs of
    an earlier build, whose splits stand.
    `calibration`: the jury's, fitted on people's verdicts (of one step, so build step by step); without it p_a of the
    matches counts as bare verdicts.

    p_best comes from the posterior of all matches (qbawa.datasets.pairs.posterior); with a calibration it is the probability that
    people call best better (qbawa.datasets.pairs.candidates).
    """
    config = config if config is not None else PairsConfig.model_validate({})
    removed: Counter[str] = Counter()
    effect: dict[str, float] = {}
    placed = assign_splits(
        questions, {str(name): share for name, share in config.splits.items()}, config.seed, previous
    )
    frames = []
    for step in cells["step"].unique().sort():
        only = pl.col("step") == step
        opinions = weigh(matches.filter(only), verdicts.filter(only), calibration)
        removed["unscored match"] += opinions.unscored
        removed["judged by LLMonPy alone"] += opinions.never_trained_on
        built, effect[step] = _Step(step, opinions, cells.filter(only), placed.filter(only), config).pairs(removed)
        frames.append(built)
    pairs = pl.concat(frames) if frames else pl.DataFrame(schema=SCHEMA)
    pairs = pairs.with_columns(built_at=pl.lit(built_at, dtype=pl.Datetime("us", "UTC"))).select(list(SCHEMA))
    return PairsReport(pairs, {reason: n for reason, n in removed.items() if n}, effect)


class _Step:
    """One step's answers and evidence in numbers: requests, strategies and cells by their place in sorted tables."""

    def __init__(
        self, step: str, opinions: Opinions, cells: pl.DataFrame, questions: pl.DataFrame, config: PairsConfig
    ) -> None:
        self.step, self.config = step, config
        if "parameters" not in questions.columns:
            questions = questions.with_columns(parameters=pl.lit(None, pl.String))
        self.questions = questions.unique("request_id", keep="first").sort("request_id").with_row_index("request")
        strategies = [cells["strategy_id"], opinions.matches["strategy_a"], opinions.matches["strategy_b"]]
        self.strategies = pl.concat(strategies).unique().sort()
        answer = pl.col("answer")
        rows = (
            cells.join(self.questions.select("request_id", "request"), on="request_id")
            .filter(pl.col("sample") == 0 if "sample" in cells.columns else pl.lit(True))
            .unique(["request_id", "strategy_id"], keep="first")
            .sort("request", "strategy_id")
            .with_columns(ok=(pl.col("status") == "ok") & answer.is_not_null())
        )
        count = rows.group_by("request").agg(n=pl.len().cast(pl.Int64), ok=pl.col("ok").sum().cast(pl.Int64))
        self.failed = int(((count["n"] * (count["n"] - 1) - count["ok"] * (count["ok"] - 1)) // 2).sum())
        self.cells = rows.filter("ok").select(
            pl.col("request").cast(pl.Int64),
            "cell_id",
            "answer",
            "strategy_id",
            strategy=_place(pl.col("strategy_id"), self.strategies),
            empty=is_empty(answer),
            refusal=is_refusal(answer),
            text=answer_codes(rows.filter("ok")["answer"]),
        )
        # Where the answers of request r begin in `cells`; one more element than there are requests.
        self.start = self.cells["request"].search_sorted(np.arange(self.questions.height + 1), "left").to_numpy()
        self.matches = self._canonical(opinions.matches)
        self.calibrated = opinions.calibrated

    def pairs(self, removed: Counter[str]) -> tuple[pl.DataFrame, float]:
        """The step's pairs, and the size of its request effects."""
        removed["failed answer"] += self.failed
        nothing = pl.DataFrame(schema={k: v for k, v in SCHEMA.items() if k != "built_at"})
        if self.matches.is_empty() and (self.config.p_best > UNKNOWN or not self.config.inferred):
            # Nothing is known of any pair: each is as likely one way round as the other.
            self._left_out(removed)
            return nothing, TYPICAL_EFFECT
        evidence = self._evidence()
        posterior = fit_posterior(evidence, len(self.strategies), self.questions.height)
        strategy = self.cells["strategy"].to_numpy()
        members = np.split(strategy, self.start[1:-1]) if self.questions.height else []
        kept = [self._worth_keeping(candidates(answers, posterior), removed) for answers in posterior.answers(members)]
        if not kept:
            return nothing, posterior.effect
        return self._finished(pl.concat(kept), removed), posterior.effect

    def _left_out(self, removed: Counter[str]) -> None:
        """Count why pairs are left out where there is no match, without making them: there may be half a million a request."""
        whole = self.cells.filter(~pl.col("empty"))
        every, filled = _pairs_within(self.cells, "request"), _pairs_within(whole, "request")
        equal = _pairs_within(whole, "request", "text")
        removed["empty answer"] += every - filled
        removed["equal answers"] += equal
        removed["not sure enough" if self.config.inferred else "never judged"] += filled - equal

    def _canonical(self, matches: pl.DataFrame) -> pl.DataFrame:
        """Matches on known requests in numbers: request, low, high (strategies, low < high), p_low, weight, and the rest."""
        a, b = _place(pl.col("strategy_a"), self.strategies), _place(pl.col("strategy_b"), self.strategies)
        return (
            matches.join(self.questions.select("request_id", "request"), on="request_id")
            .with_columns(pl.col("request").cast(pl.Int64), a=a, b=b)
            .filter(pl.col("a") != pl.col("b"))
            .with_columns(
                low=pl.min_horizontal("a", "b"),
                high=pl.max_horizontal("a", "b"),
                p_low=pl.when(pl.col("a") < pl.col("b")).then("p_a").otherwise(1 - pl.col("p_a")),
            )
            .sort("request", "low", "high", "match_id")
        )

    def _evidence(self) -> Evidence:
        request, low, high, p_low, weight = (
            self.matches[name].to_numpy() for name in ("request", "low", "high", "p_low", "weight")
        )
        return Evidence(request, low, high, p_low, weight, self.calibrated)

    def _worth_keeping(self, possible: Candidates, removed: Counter[str]) -> pl.DataFrame:
        """The pairs of a batch that pass every filter and the policy: request, best, worse (rows of `cells`), p_best, …"""
        best, worse = self.start[possible.request] + possible.best, self.start[possible.request] + possible.worse
        empty, refusal, text = (self.cells[name].to_numpy() for name in ("empty", "refusal", "text"))
        reasons = {
            "empty answer": empty[best] | empty[worse],
            "equal answers": text[best] == text[worse],
            "never judged": (possible.match < 0) if not self.config.inferred else np.zeros(len(best), bool),
            "not sure enough": possible.p_best < self.config.p_best,
        }
        if not self.config.keep_refusals:
            reasons["refusal against answer"] = refusal[best] != refusal[worse]
        good = np.ones(len(best), bool)
        for reason, bad in reasons.items():
            removed[reason] += int((good & bad).sum())
            good &= ~bad
        rows = pl.DataFrame(
            {
                "request": possible.request[good],
                "best_cell": best[good],
                "worse_cell": worse[good],
                "best_strategy": self.cells["strategy"].to_numpy()[best[good]],
                "worse_strategy": self.cells["strategy"].to_numpy()[worse[good]],
                "p_best": possible.p_best[good],
                "margin": possible.margin[good],
                "match": possible.match[good],
                "low_text": np.minimum(text[best[good]], text[worse[good]]),
                "high_text": np.maximum(text[best[good]], text[worse[good]]),
            }
        ).with_columns(basis=pl.when(pl.col("match") >= 0).then(pl.lit("direct")).otherwise(pl.lit("inferred")))
        # Two strategies may give one answer; of the pairs that then read alike, the judged or else the surest speaks.
        single = rows.sort("basis", "p_best", "best_cell", descending=[False, True, False]).unique(
            ["request", "low_text", "high_text"], keep="first", maintain_order=True
        )
        removed["duplicate"] += rows.height - single.height
        chosen = choose(single.sort("request", "best_cell", "worse_cell"), self.config.policy, None, "request")
        removed[f"policy {self.config.policy}"] += single.height - chosen.height
        order: Policy = "hardest" if self.config.policy == "hardest" else "all"
        limited = choose(chosen, order, self.config.max_per_request, "request")
        removed["more than max_per_request"] += chosen.height - limited.height
        return limited

    def _finished(self, rows: pl.DataFrame, removed: Counter[str]) -> pl.DataFrame:
        """Rows of the table `qbawa` but for built_at, by request and pair_id; one question asked twice gives a pair once."""
        asked = codes(whole_questions(self.questions))[rows["request"]]
        again = rows.select("low_text", "high_text", asked=asked).is_duplicated()
        once = (
            rows.with_columns(asked=asked)
            .sort("request", "best_cell", "worse_cell")
            .unique(["asked", "low_text", "high_text"], keep="first", maintain_order=True)
            if again.any()
            else rows
        )
        removed["duplicate of another request"] += rows.height - once.height
        names = pair_ids(self._texts(once))
        order = pl.DataFrame({"request": once["request"], "pair_id": names}).select(
            pl.arg_sort_by("request", "pair_id")
        )
        rows, names = once[order.to_series()], names[order.to_series()]
        best, worse = rows["best_cell"], rows["worse_cell"]
        request = self.questions[rows["request"]].select("question", "parameters", "cluster", "split")
        pairs = self._texts(rows).with_columns(
            names,
            request["question"],
            request["parameters"],
            self.cells["strategy_id"][best].alias("best_strategy"),
            self.cells["strategy_id"][worse].alias("worse_strategy"),
            self.cells["cell_id"][best].alias("best_cell"),
            self.cells["cell_id"][worse].alias("worse_cell"),
            rows["p_best"],
            rows["margin"],
            rows["basis"],
            request["cluster"],
            request["split"],
            *history(rows, self.matches),
            block_id=pl.lit(self.step),
        )
        return pairs.select([name for name in SCHEMA if name != "built_at"])

    def _texts(self, rows: pl.DataFrame) -> pl.DataFrame:
        """step, request_id and the two answers: what a pair's id is made of."""
        return pl.DataFrame(
            {
                "step": pl.Series([self.step], dtype=pl.String).new_from_index(0, rows.height),
                "request_id": self.questions["request_id"][rows["request"]],
                "best_answer": self.cells["answer"][rows["best_cell"]],
                "worse_answer": self.cells["answer"][rows["worse_cell"]],
            }
        )


def _pairs_within(rows: pl.DataFrame, *by: str) -> int:
    """How many pairs of rows are alike in these columns."""
    n = rows.group_by(by).agg(n=pl.len().cast(pl.Int64))["n"]
    return int((n * (n - 1) // 2).sum())


def _place(column: pl.Expr, names: pl.Series) -> pl.Expr:
    """Place of each value in `names`, which are sorted and distinct."""
    return column.cast(pl.Enum(names)).to_physical().cast(pl.Int64)
