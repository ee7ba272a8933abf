"""Checks of the ratings: does the order of showing matter, are verdicts readable, can the best be told from the rest?"""

from collections.abc import Sequence

from dagster import AssetCheckResult, AssetCheckSeverity, AssetCheckSpec

from qbawa.flywheel import Rated

MOST_ORDER_POINTS = 1.0
MOST_UNSCORED = 0.02
CHECKS = {
    "order_effect": "Being shown first changes the chance to win by at most 1 percentage point, or by no more than chance.",
    "unscored_share": "At most 2 % of verdicts could not be read.",
    "separability": "The best strategy of every step can be told from the next.",
}


def rating_specs(asset: str) -> Sequence[AssetCheckSpec]:
    return [AssetCheckSpec(name, asset=asset, description=text) for name, text in CHECKS.items()]


def rating_checks(rated: Rated) -> Sequence[AssetCheckResult]:
    """One result per check, over all steps; they warn and block nothing."""
    passed = {
        "order_effect": all(
            effect is None or abs(effect.points) <= MOST_ORDER_POINTS or effect.low <= 0 <= effect.high
            for effect in rated.order_effects.values()
        ),
        "unscored_share": all(share <= MOST_UNSCORED for share in rated.unscored_shares.values()),
        "separability": all(rated.separable.values()),
    }
    shown = {
        "order_effect": {
            s: "not known" if e is None else f"{e.points:+.2f} percentage points"
            for s, e in rated.order_effects.items()
        },
        "unscored_share": {step: f"{share:.4f}" for step, share in rated.unscored_shares.items()},
        "separability": {step: str(clear) for step, clear in rated.separable.items()},
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
