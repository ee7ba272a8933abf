"""Intervals of a measured share."""

import math


def wilson(share: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's score interval (1927, J. Am. Stat. Assoc. 22) of a share of n observations, z standard errors to each side.

    `n` may be an effective number, and `share` a mean of parts of observations, such as ties that count ½.
    """
    z2 = z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2) / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    return centre - half, centre + half
