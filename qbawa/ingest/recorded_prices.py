"""What a recorded call cost, where its client counted tokens and named no dollars, as OpenAI's does."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import orjson

from qbawa.config import ModelConfig
from qbawa.engine.prices import FREE, Price, price_of
from qbawa.errors import FinalError


class RecordedPrices:
    """Prices of the models that an application calls: qbawa.yaml's, else litellm's table."""

    def __init__(self, models: Mapping[str, ModelConfig]) -> None:
        self._models = dict(models)
        for settings in models.values():
            if settings.litellm_model:
                self._models.setdefault(settings.litellm_model, settings)
        self._known: dict[str, Price | None] = {}

    def cost_usd(self, model: str | None, input_tokens: int | None, output_tokens: int | None) -> float | None:
        """What a call of so many tokens costs; None where that cannot be known, which is not 0."""
        if model is None or input_tokens is None or output_tokens is None or min(input_tokens, output_tokens) < 0:
            return None
        if model not in self._known:
            self._known[model] = self._price(model)
        price = self._known[model]
        return None if price is None else price.of(input_tokens, output_tokens)

    def _price(self, model: str) -> Price | None:
        settings = self._models.get(model)
        if settings is None and model.startswith("offline/"):
            return FREE
        try:
            return price_of(model, settings or ModelConfig(), table_price)
        except FinalError:
            return None


def table_price(model: str) -> Price | None:
    """The price in the table that comes with litellm, None where it has none.

    Read from litellm's file: importing litellm takes 6 CPU seconds, which taking recordings in should not.
    """
    for name in (model, model.partition("/")[2]):
        entry = _table().get(name)
        if isinstance(entry, dict):
            of_input, of_output = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
            if isinstance(of_input, int | float) and isinstance(of_output, int | float):
                return Price(float(of_input), float(of_output))
    return None


@functools.cache
def _table() -> Mapping[str, object]:
    found = importlib.util.find_spec("litellm")
    if found is None or found.origin is None:
        return {}
    try:
        table = orjson.loads((Path(found.origin).parent / "model_prices_and_context_window_backup.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return table if isinstance(table, dict) else {}
