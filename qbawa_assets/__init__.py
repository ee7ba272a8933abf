"""The flywheel as Dagster software-defined assets."""

import warnings

from dagster import BetaWarning

# `backfill_policy` and asset checks in ops are "beta"; Dagster is pinned, and saying so at every start helps nobody.
warnings.filterwarnings("ignore", category=BetaWarning)
