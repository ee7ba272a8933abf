"""Which columns each column of a table is made of: as Dagster's column lineage, on every asset."""

from collections.abc import Mapping, Sequence

from dagster import AssetKey, TableColumnDep, TableColumnLineage

# Asset by table, where the names differ.
_ASSETS = {"matches": "tournament_brackets", "verdicts": "human_verdicts", "datasets": "qbawa_datasets"}

# By table and column: `table.column` of what it is made of. A column that is made where it stands has no entry.
_MADE_OF: Mapping[str, Mapping[str, str]] = {
    "replay_set": {
        "step": "recordings.step",
        "request_id": "recordings.request_id",
        "recording_id": "recordings.recording_id",
        "reason": "recordings.tags recordings.error recordings.inputs",
        "cluster": "recordings.inputs recordings.messages",
        "cluster_size": "recordings.inputs recordings.messages",
    },
    "strategies": {"step": "recordings.step"},
    "replay_matrix": {
        "request_id": "replay_set.request_id",
        "step": "replay_set.step strategies.step",
        "strategy_id": "strategies.strategy_id",
        "cell_id": "replay_set.request_id strategies.step strategies.strategy_id",
        "answer": "replay_set.recording_id strategies.model strategies.template strategies.params strategies.program",
    },
    "matches": {
        "request_id": "replay_matrix.request_id",
        "step": "replay_matrix.step",
        "strategy_a": "replay_matrix.strategy_id",
        "strategy_b": "replay_matrix.strategy_id",
        "cell_a": "replay_matrix.cell_id",
        "cell_b": "replay_matrix.cell_id",
        "winner": "replay_matrix.answer",
        "p_a": "replay_matrix.answer",
    },
    "verdicts": {},
    "ratings": {
        "step": "matches.step",
        "strategy_id": "matches.strategy_a matches.strategy_b strategies.strategy_id",
        "strength": "matches.strategy_a matches.strategy_b matches.p_a verdicts.verdict",
        "low": "matches.p_a matches.request_id",
        "high": "matches.p_a matches.request_id",
        "win_rate": "matches.winner matches.p_a",
        "matches": "matches.match_id",
        "rank": "matches.p_a",
    },
    "judge_reliability": {
        "step": "matches.step",
        "agreement_human": "matches.p_a verdicts.verdict",
        "agreement_jury": "matches.p_a",
    },
    "qbawa": {
        "step": "ratings.step",
        "best_strategy": "ratings.strategy_id",
        "worse_strategy": "ratings.strategy_id",
        "p_best": "ratings.strength judge_reliability.agreement_human",
        "judges": "judge_reliability.judge",
    },
    "datasets": {
        "rows": "qbawa.question qbawa.best_answer qbawa.worse_answer qbawa.p_best",
        "pair_ids": "qbawa.pair_id",
        "request_ids": "qbawa.request_id",
    },
    "champions": {
        "step": "ratings.step",
        "strategy_id": "ratings.strategy_id",
        "beat_strategy_id": "ratings.strategy_id",
        "p_better": "ratings.strength ratings.low ratings.high",
    },
}


def lineage_of(table: str) -> TableColumnLineage:
    """Of the columns that are made of others, which ones."""
    return TableColumnLineage({column: _columns(of) for column, of in _MADE_OF.get(table, {}).items()})


def _columns(names: str) -> Sequence[TableColumnDep]:
    parts = (name.split(".") for name in names.split())
    return [TableColumnDep(AssetKey(_ASSETS.get(table, table)), column) for table, column in parts]
