"""Rows checked against their JSON Schema, and the Arrow type of such rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastjsonschema
import orjson
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


def arrow_type(schema: dict[str, Json], optional: bool = False) -> pa.DataType:
    """The Arrow type of values that satisfy a schema; an object of unknown keys becomes JSON text.

    Of several types the first is meant. Properties that are not required are part of it where `optional`.
    """
    kind = schema["type"]
    match kind if isinstance(kind, str) else kind[0]:
        case "string":
            return pa.string()
        case "boolean":
            return pa.bool_()
        case "array":
            return pa.list_(arrow_type(schema["items"], optional))
    if "properties" not in schema:
        return pa.string()
    names = schema["properties"] if optional else schema["required"]
    return pa.struct([pa.field(name, arrow_type(schema["properties"][name], optional)) for name in names])


def arrow_value(value: Json, kind: pa.DataType) -> Json:
    """A value as its Arrow type holds it: what is no text where text is wanted, as JSON."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else orjson.dumps(value).decode()
    if pa.types.is_list(kind):
        return [arrow_value(item, kind.value_type) for item in value]
    if pa.types.is_struct(kind):
        return {field.name: arrow_value(value.get(field.name), field.type) for field in kind}
    return value
