"""Rows checked against their JSON Schema, and the Arrow type of such rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastjsonschema
import pyarrow as pa

Json = Any
Check = Callable[[Json], str | None]


def compile_schema(schema: dict[str, Json], where: str = "row") -> Check:
    """A function that says what is wrong with a value, or None.

    It takes a few microseconds where jsonschema takes a few hundred, so that every row is checked and not a sample.
    """
    validate = fastjsonschema.compile(schema, use_default=False)

    def check(value: Json) -> str | None:
        try:
            validate(value, name_prefix=where)
        except fastjsonschema.JsonSchemaValueException as error:
            return f"{error.message}, received {error.value!r:.60}"
        return None

    return check


def arrow_type(schema: dict[str, Json]) -> pa.DataType:
    """The Arrow type of values that satisfy a schema; an object of unknown keys becomes JSON text."""
    match schema["type"]:
        case "string":
            return pa.string()
        case "boolean":
            return pa.bool_()
        case "array":
            return pa.list_(arrow_type(schema["items"]))
    if "properties" not in schema:
        return pa.string()
    return pa.struct([pa.field(name, arrow_type(s)) for name, s in schema["properties"].items()])
