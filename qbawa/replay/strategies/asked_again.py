"""A recorded question asked again as it was: in the form of its own API, or as a chat completion that says the same."""

from collections.abc import Mapping, Sequence
from typing import Any

from qbawa.engine.calls import Native
from qbawa.engine.prompting.question import Question
from qbawa.errors import UnfaithfulError
from qbawa.model_apis.canonical import read_request
from qbawa.model_apis.overlay import with_parameters, with_system
from qbawa.replay.strategies.strategy import Strategy
from qbawa.text import shorten

REUSES = ("keep_prompt", "replace_system")
"""Kinds of template that send recorded messages."""


def native_request(strategy: Strategy, question: Question, messages: Sequence[Mapping[str, Any]]) -> Native | None:
    """The recorded request as this strategy changes it; None where chat messages and parameters say all of it.

    Raises UnfaithfulError where neither can be asked: the recording is not whole, or the strategy changes what only the
    recorded API has words for.
    """
    lost = [name for name in question.lost if name not in strategy.params]
    if lost:
        why = f"its recorded `{_listed(lost)}` could not be kept whole"
        raise UnfaithfulError(_refusal(strategy, question, why, "Give the strategy that parameter (null: none)"))
    if strategy.template.kind not in REUSES:
        return None
    if question.incomplete:
        raise UnfaithfulError(_refusal(strategy, question, question.incomplete, "Leave the request out"))
    if question.native is None:
        return None
    api, body = question.native.api, _changed(strategy, question, messages)
    if body is not None:
        return Native(api, body)
    only = read_request(api, question.native.body).untranslated
    if only:
        why = f"it was asked of {api} with {_listed(only)}, which the strategy's own changes leave no place for"
        raise UnfaithfulError(_refusal(strategy, question, why, "Give the strategy a prompt, or leave the request out"))
    return None


def _changed(strategy: Strategy, question: Question, messages: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    assert question.native is not None
    api, recorded = question.native.api, list(question.messages or ())
    body: Mapping[str, Any] | None = question.native.body
    if list(messages) != recorded:
        if strategy.template.kind != "replace_system" or _turns(messages) != _turns(recorded):
            return None  # examples or proposals stand among the messages
        body = with_system(api, question.native.body, str(messages[0].get("content")))
    return body if body is None or not strategy.params else with_parameters(api, body, strategy.params)


def _turns(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [message for message in messages if message.get("role") not in ("system", "developer")]


def _refusal(strategy: Strategy, question: Question, why: str, cure: str) -> str:
    return (
        f"Strategy '{strategy.name}' cannot ask again what request {question.request_id} asked in step '{question.step}': "
        f"{why}. {cure}."
    )


def _listed(only: Sequence[str]) -> str:
    return shorten(", ".join(only), 200)
