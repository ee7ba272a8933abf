"""The flywheel as Dagster software-defined assets."""

import gc
import warnings

# A tenth of the time that importing Dagster takes would go into looking for garbage, of which there is none.
_collects = gc.isenabled()
gc.disable()
try:
    from dagster import BetaWarning
finally:
    if _collects:
        gc.enable()

# `backfill_policy` and asset checks in ops are "beta"; Dagster is pinned, and saying so at every start helps nobody.
warnings.filterwarnings("ignore", category=BetaWarning)
