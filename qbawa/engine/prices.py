"""What a call costs, in USD, from the model's configured price or litellm's table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from qbawa.engine.calls import ModelSettings
from qbawa.errors import FinalError


@dataclass(frozen=True, slots=True)
class Price:
    """USD per token."""

    input_usd: float
    output_usd: float

    def of(self, input_tokens: float, output_tokens: float) -> float:
        return input_tokens * self.input_usd + output_tokens * self.output_usd


def total_usd(costs: Iterable[float | None]) -> float | None:
    """The sum; None where one of them is unknown, since an unknown cost is not 0."""
    known = list(costs)
    return None if None in known else sum(cost for cost in known if cost is not None)


FREE = Price(0.0, 0.0)


def price_of(model: str, settings: ModelSettings, table: Callable[[str], Price | None]) -> Price:
    """The price of a model: free where it says so, as configured, else as litellm's table knows it.

    `table` looks a model up by litellm's name; asked last, since litellm's own takes seconds to import.
    Raises FinalError('unpriced') where nobody knows a price: an answer must never count as $0 by accident.
    """
    if settings.free or model.startswith("offline/"):
        return FREE
    given = (settings.input_usd_per_million, settings.output_usd_per_million)
    if given[0] is not None and given[1] is not None:
        # Both zero in so many words is the user's own statement that the model is free.
        return Price(given[0] / 1e6, given[1] / 1e6)
    if given != (None, None):
        raise FinalError(
            "unpriced", f"Model '{model}' has only one of input_usd_per_million and output_usd_per_million."
        )
    price = table(settings.litellm_model or model)
    if price is None or price == FREE:
        raise FinalError(
            "unpriced",
            f"Model '{model}' has no price: litellm's table {'lists it at $0' if price else 'does not know it'}. "
            f"Set models.{model}.input_usd_per_million and output_usd_per_million, or free: true for your own server.",
        )
    return price
