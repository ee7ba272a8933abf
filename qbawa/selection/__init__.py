"""Which requests are replayed: a few that stand for all traffic, the same ones as traffic grows."""

from qbawa.selection.clusters import question_clusters
from qbawa.selection.picture import coverage_picture
from qbawa.selection.replay_set import COLUMNS, Choice, choose, replayable_steps
from qbawa.selection.text import question_text, question_texts

__all__ = [
    "COLUMNS",
    "Choice",
    "choose",
    "coverage_picture",
    "question_clusters",
    "question_text",
    "question_texts",
    "replayable_steps",
]
