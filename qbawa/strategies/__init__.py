"""Strategies: ways to answer one step. `qbawa.strategies.programs` runs them."""

from qbawa.engine.prompting.question import Question
from qbawa.strategies.expand import expand
from qbawa.strategies.ids import recorded_id
from qbawa.strategies.rows import from_rows, to_rows
from qbawa.strategies.select import select
from qbawa.strategies.strategy import Strategy, Template, make_strategy, recorded_strategy, with_examples
from qbawa.strategies.template import render

__all__ = [
    "Question",
    "Strategy",
    "Template",
    "expand",
    "from_rows",
    "make_strategy",
    "recorded_id",
    "recorded_strategy",
    "render",
    "select",
    "to_rows",
    "with_examples",
]
