"""Deterministic models and judges that need no key and no network."""

from qbawa.offline.models import MODELS, complete, estimate_tokens

__all__ = ["MODELS", "complete", "estimate_tokens"]
