"""Bodies of Google's REST API as its Python client spells them."""

import re
from typing import Any


def in_python(value: Any) -> Any:
    """The same value with keys in snake_case."""
    if isinstance(value, list):
        return [in_python(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {re.sub("([A-Z])", lambda m: f"_{m[1].lower()}", key): in_python(inner) for key, inner in value.items()}
