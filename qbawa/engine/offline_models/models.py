"""`complete`: one call to an offline model. `MODELS`: every name with what it does.

These are real algorithms over the text in the prompt, behind the interface of any other model, so that the whole
flywheel can be run and tested without a key. They answer in about a millisecond, cost nothing, and give the same
answer to the same call.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qbawa.engine.offline_models.judge import judge, judge_hasty, judge_strict
from qbawa.engine.offline_models.prompt import read_prompt
from qbawa.engine.offline_models.summaries import SUMMARISERS
from qbawa.engine.offline_models.triage import TRIAGERS
from qbawa.errors import FinalError

PREFIX = "offline/"

_JUDGES = {
    "judge": (judge, "rubric: coverage, brevity, form; a weighted sum"),
    "judge-strict": (judge_strict, "rubric: overlap with the core, multiplied down by each fault"),
    "judge-hasty": (judge_hasty, "reads twelve words and leans to the answer shown first: a judge to be found out"),
}
_ANSWERERS = {**SUMMARISERS, **TRIAGERS}

MODELS: Mapping[str, str] = {PREFIX + name: description for name, (_, description) in {**_ANSWERERS, **_JUDGES}.items()}


def complete(model: str, messages: Sequence[Mapping[str, Any]], params: Mapping[str, Any] | None = None) -> str:
    """The answer of an offline model; a pure function of its arguments.

    `params` may hold `temperature`, `seed` and `sample`, which matter to `offline/sampler`, and `max_tokens` (of about
    four characters), which cuts the answer of every model. Raises FinalError for a model that does not exist.
    """
    params = params or {}
    name = model.removeprefix(PREFIX)
    if name in _JUDGES:
        return _JUDGES[name][0](messages)
    if name not in _ANSWERERS:
        raise FinalError("unknown_model", f"Offline model '{model}' does not exist. Possible: {', '.join(MODELS)}.")
    answer = _ANSWERERS[name][0](read_prompt(messages), params)
    limit = params.get("max_tokens")
    return answer[: 4 * limit] if isinstance(limit, int) and limit > 0 else answer


def estimate_tokens(text: str) -> int:
    """Tokens in a text, by the usual four characters each."""
    return -(-len(text) // 4)
