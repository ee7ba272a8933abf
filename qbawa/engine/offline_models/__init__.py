"""Deterministic models and judges that need no key and no network."""
