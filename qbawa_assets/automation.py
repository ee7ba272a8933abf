"""When Dagster makes an asset by itself: the stages after judging, which ask no model and cost nothing."""

from dagster import AutomationCondition

WHEN_INPUTS_CHANGE = (
    AutomationCondition.any_deps_updated().since_last_handled()
    & ~AutomationCondition.any_deps_in_progress()
    & ~AutomationCondition.in_progress()
).with_label("when what it is made of has changed")
"""One run for all of them: what is made of something that is about to be made waits for it."""
