"""What recorded calls cost where their client named tokens and no dollars; unknown is null, never 0."""

from typing import Any

import pytest

from qbawa.config import ChampionConfig, ModelConfig
from qbawa.ingest.recorded_prices import RecordedPrices, table_price
from qbawa.optimize.champions import _too_expensive
from qbawa.replay.runner import _recorded_answer

MODELS: dict[str, Any] = {
    "own": {"input_usd_per_million": 1.0, "output_usd_per_million": 2.0},
    "alias": {"litellm_model": "vendor/model", "input_usd_per_million": 3.0, "output_usd_per_million": 3.0},
    "local": {"free": True},
}
PRICES = RecordedPrices({name: ModelConfig.model_validate(settings) for name, settings in MODELS.items()})


@pytest.mark.parametrize(
    ("model", "tokens", "cost"),
    [
        ("own", (1_000_000, 500_000), 2.0),
        ("vendor/model", (1_000_000, 0), 3.0),
        ("local", (5, 5), 0.0),
        ("offline/lead", (5, 5), 0.0),
        ("gpt-4o-mini", (1_000_000, 1_000_000), 0.75),
        ("openai/gpt-4o-mini", (1_000_000, 1_000_000), 0.75),
        ("nobody-knows", (5, 5), None),
        ("own", (None, 5), None),
        ("own", (5, None), None),
        (None, (5, 5), None),
    ],
)
def test_recordings_are_priced_by_the_configuration_then_by_litellms_table(
    model: str | None, tokens: tuple[int | None, int | None], cost: float | None
) -> None:
    assert PRICES.cost_usd(model, *tokens) == (None if cost is None else pytest.approx(cost))


def test_the_table_is_read_without_importing_litellm() -> None:
    import subprocess
    import sys

    code = "import sys; from qbawa.ingest.recorded_prices import table_price as t; assert t('gpt-4o'); "
    code += "assert 'litellm' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert table_price("no-such-model") is None


def test_a_recorded_answer_of_unknown_cost_is_not_free() -> None:
    recording = dict.fromkeys(("error", "input_tokens", "output_tokens", "cost_usd", "latency_s")) | {"output": "x"}
    answer = _recorded_answer(recording)
    assert answer.cost_usd is None and answer.input_tokens is None


@pytest.mark.parametrize(
    ("before", "new", "dear"),
    [(None, 1.0, False), (1.0, None, True), (1.0, 3.0, True), (1.0, 1.5, False), (0.0, 1.0, True)],
)
def test_a_champion_of_unknown_cost_makes_no_challenger_too_expensive(
    before: float | None, new: float | None, dear: bool
) -> None:
    config = ChampionConfig.model_validate({"max_cost_ratio": 2.0})
    assert _too_expensive({"mean_cost_usd": new}, {"mean_cost_usd": before}, config) is dear
