"""Rows checked against their JSON Schema, and the Arrow type of such rows.

`compile_schema` knows the keywords that `formats` uses and refuses others; it does in a few microseconds what
jsonschema does in a few hundred, so that every row is checked and not a sample. A test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

Json = Any
Check = Callable[[Json], str | None]
_KNOWN = {
    "type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "minLength", "enum",
    "minProperties",
}  # fmt: skip
_TYPES: dict[str, type] = {"string": str, "boolean": bool, "array": list, "object": dict}


def compile_schema(schema: dict[str, Json], where: str = "row") -> Check:
    """A function that says what is wrong with a value, or None."""
    strange = set(schema) - _KNOWN
    if strange:
        raise ValueError(f"compile_schema does not know the keyword(s) {sorted(strange)}")
    kind = _TYPES[schema["type"]]
    if kind is dict:
        return _object(schema, where)
    if kind is list:
        return _array(schema, where)
    shortest, allowed = int(schema.get("minLength", 0)), schema.get("enum")

    def scalar(value: Json) -> str | None:
        if type(value) is not kind:
            return f"{where} must be a {schema['type']}, received {value!r:.60}"
        if isinstance(value, str) and len(value) < shortest:
            return f"{where} must have at least {shortest} character(s)"
        if allowed is not None and value not in allowed:
            return f"{where} must be one of {allowed}, received {value!r:.60}"
        return None

    return scalar


def _object(schema: dict[str, Json], where: str) -> Check:
    inner = {name: compile_schema(s, f"{where}.{name}") for name, s in schema.get("properties", {}).items()}
    required, closed = set(schema.get("required", ())), schema.get("additionalProperties") is False
    fewest = schema.get("minProperties", 0)

    def check(value: Json) -> str | None:
        if type(value) is not dict:
            return f"{where} must be an object, received {value!r:.60}"
        if not required <= value.keys():
            return f"{where} lacks {sorted(required - value.keys())}"
        if closed and len(value) > len(inner):
            return f"{where} has the unknown key(s) {sorted(value.keys() - inner.keys())}"
        if len(value) < fewest:
            return f"{where} must have at least {fewest} key(s)"
        for name, test in inner.items():
            if name in value and (wrong := test(value[name])) is not None:
                return wrong
        return None

    return check


def _array(schema: dict[str, Json], where: str) -> Check:
    test = compile_schema(schema["items"], f"{where}[]")
    fewest, most = schema.get("minItems", 0), schema.get("maxItems", float("inf"))

    def check(value: Json) -> str | None:
        if type(value) is not list:
            return f"{where} must be an array, received {value!r:.60}"
        if not fewest <= len(value) <= most:
            return f"{where} has {len(value)} item(s), allowed are {fewest} to {most}"
        for item in value:
            if (wrong := test(item)) is not None:
                return wrong
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
