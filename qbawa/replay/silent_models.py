"""Models that have failed as a whole: of all cells that a run asked them, none has an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from qbawa.engine.error_classes import MODEL_FAULTS
from qbawa.replay.strategies.strategy import Strategy
from qbawa.text import shorten


@dataclass(frozen=True, slots=True)
class SilentModel:
    model: str
    cells: int
    error: str
    """Of one of them."""

    def line(self) -> str:
        cells = f"all {self.cells:,} of its cells" if self.cells > 1 else "its only cell"
        return f"Model '{self.model}' gave no answer: {cells} failed ({shorten(self.error, 200).rstrip('.')})."


def models_of(strategy: Strategy) -> set[str]:
    """All models that a strategy calls; none for the recorded one and for imported ones."""
    program = strategy.program
    named = (strategy.model, *program.get("proposers", ()), (program.get("judge") or {}).get("model"))
    return {model for model in named if model}


def silent_models(cells: pl.DataFrame, strategies: Mapping[str, Strategy]) -> list[SilentModel]:
    """The models of which every cell of a run failed for a reason that lies in the model, by name.

    `cells` are rows of `replay_matrix`: run_id, strategy_id, status, error. A cell whose program calls several models
    speaks against each of them, and one answer for each.
    """
    asked = cells.filter(pl.col("strategy_id").is_in(list(strategies)))
    fault = pl.col("error").str.split(":").list.first().is_in(sorted(MODEL_FAULTS))
    judged = asked.group_by("run_id", "strategy_id").agg(
        cells=pl.len(),
        silent=((pl.col("status") == "failed") & fault.fill_null(False)).all(),
        error=pl.col("error").drop_nulls().sort().first(),
    )
    silent: dict[tuple[str, str], SilentModel] = {}
    heard: set[tuple[str, str]] = set()
    for row in judged.sort("run_id", "strategy_id").iter_rows(named=True):
        for model in models_of(strategies[row["strategy_id"]]):
            key = (row["run_id"], model)
            if not row["silent"]:
                heard.add(key)
                continue
            before = silent.get(key)
            silent[key] = SilentModel(model, row["cells"] + (before.cells if before else 0), row["error"])
    found = {model: each for (run, model), each in sorted(silent.items()) if (run, model) not in heard}
    return [found[model] for model in sorted(found)]


def describe(silent: Sequence[SilentModel]) -> str:
    """What failed, what was not done since, and how to go on."""
    return (
        f"{' '.join(each.line() for each in silent)} So nothing was judged: matches without "
        f"{'it' if len(silent) == 1 else 'them'} would be paid for and asked again later. All answers of other models are "
        "kept. Mend the cause and run `qbawa run flywheel` again, which pays only for what is missing; or judge what there "
        "is with `qbawa run tournament_sweep`; or take the model out of qbawa.yaml."
    )
