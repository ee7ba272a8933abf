"""Checks of the ratings: does the order of showing matter, are verdicts readable, does the best stand apart from the rest?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dagster import AssetCheckResult, AssetCheckSeverity, AssetCheckSpec

from qbawa.tournaments.stage import Rated

if TYPE_CHECKING:
    from qbawa.tournaments.agreement.position_bias import PositionBias
    from qbawa.tournaments.ratings import Effect

MOST_ORDER_POINTS = 1.0
# A judge that names the first place in ½ + b of its verdicts gives, asked in both orders, its verdict to the place in at
# least 2b of the matches: at ¼ that is every other one.
MOST_POSITION_BIAS = 0.25
MOST_UNSCORED = 0.02
CHECKS = {
    "order_effect": "Being shown first is not surely worth more than 1 percentage point in an even match, "
    "and no judge surely gives every other match to the place in which an answer stands.",
    "unscored_share": "At most 2 % of the verdicts that count could not be read.",
    "separability": "The best strategy of every step is separable from the next.",
}


def rating_specs(asset: str) -> Sequence[AssetCheckSpec]:
    return [AssetCheckSpec(name, asset=asset, description=text) for name, text in CHECKS.items()]


def rating_checks(rated: Rated) -> Sequence[AssetCheckResult]:
    """One result per check, over all steps; they warn and block nothing."""
    biases = rated.position_biases
    passed = {
        "order_effect": all(
            not sways(effect) and not any(map(decides_by_position, biases.get(step, [])))
            for step, effect in rated.order_effects.items()
        ),
        "unscored_share": all(share <= MOST_UNSCORED for share in rated.unscored_shares.values()),
        "separability": all(rated.separable.values()),
    }
    shown: dict[str, dict[str, Any]] = {
        "order_effect": {
            f"points_{step}": effect.points for step, effect in rated.order_effects.items() if effect is not None
        }
        | {s: describe_order(e, rated.cancelled.get(s, 0), biases.get(s, [])) for s, e in rated.order_effects.items()},
        "unscored_share": {step: round(share, 6) for step, share in rated.unscored_shares.items()},
        "separability": {step: clear for step, clear in rated.separable.items()},
    }
    return [
        AssetCheckResult(
            asset_key="ratings",
            check_name=name,
            passed=passed[name],
            severity=AssetCheckSeverity.WARN,
            metadata=shown[name],
        )
        for name in CHECKS
    ]


def sways(effect: "Effect | None") -> bool:
    """Whether order is surely worth more than MOST_ORDER_POINTS, one way or the other."""
    return effect is not None and (effect.points_low > MOST_ORDER_POINTS or effect.points_high < -MOST_ORDER_POINTS)


def decides_by_position(judge: "PositionBias") -> bool:
    """Whether the judge's bias is surely more than MOST_POSITION_BIAS, one way or the other."""
    return judge.low > MOST_POSITION_BIAS or judge.high < -MOST_POSITION_BIAS


def describe_order(effect: "Effect | None", cancelled: int, biases: "Sequence[PositionBias]") -> str:
    """What order does to a step's matches, how sure that is, and which judge it sways most."""
    if effect is None:
        if not cancelled:
            return "no judge saw answers in an order"
        shown = f"position cancels: judges saw both orders alike in each of {cancelled:,} matches"
    else:
        within = max(-effect.points_low, effect.points_high) <= MOST_ORDER_POINTS
        verdict = "too much" if sways(effect) else "within 1 point" if within else "not known yet"
        others = f" (in {cancelled:,} others position cancels)" if cancelled else ""
        shown = (
            f"{effect.points:+.2f} percentage points for the answer shown first, 95 % interval "
            f"{effect.points_low:+.2f} to {effect.points_high:+.2f}, from {effect.matches:,} matches{others}: {verdict}"
        )
    if not biases:
        return shown
    worst = biases[0]
    biased = [judge.judge for judge in biases if decides_by_position(judge)]
    shown += (
        f"; most biased judge {worst.judge}: position_bias {worst.bias:+.3f} ({worst.low:+.3f} to {worst.high:+.3f}, "
        f"{worst.matches:,} matches)"
    )
    return shown + (f"; teach little, since they decide by position: {', '.join(biased)}" if biased else "")
