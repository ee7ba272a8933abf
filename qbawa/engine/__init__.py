"""Model calls at the providers' full speed, each paid once. See docs/engine.md.

`Engine` answers `ModelCall`s with `CallResult`s; `Ledger` remembers them; `Budget` caps their price.
"""

from qbawa.engine.budget import Budget
from qbawa.engine.engine import Engine, Stats
from qbawa.engine.ledger import Ledger
from qbawa.engine.types import CallResult, ModelCall, ModelSettings

__all__ = ["Budget", "CallResult", "Engine", "Ledger", "ModelCall", "ModelSettings", "Stats"]
