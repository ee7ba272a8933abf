"""Copies of values as JSON, taken without running any code of the application.

The rule for values that are not JSON (documented in docs/recording.md): data is kept, everything else becomes an object
whose key `__qbawa__` says what it was. No `__repr__`, `__str__` or property of the application runs, iterators are not
consumed, and a value never costs more than `MAX_CHARS` characters and `MAX_NODES` values.
"""

from __future__ import annotations

import base64
import collections
import datetime
import enum
import itertools
import math
import types
from collections.abc import Iterable
from typing import Any

MAX_CHARS = 1 << 20
MAX_NODES = 20_000
WHOLE_CHARS, WHOLE_NODES = (
    48 << 20,
    2_000_000,
)  # of what a model was asked and said: kept whole, up to what a line may hold
MAX_DEPTH = 64
MARK = "__qbawa__"

_NOTHING = type(None)
_PLAIN = frozenset((str, float, bool, _NOTHING))  # immutable and JSON: shared, not copied
_NUMBERS = frozenset((float, bool, _NOTHING))
_TEXT = frozenset((str,))
_SETS = (set, frozenset)
_SEQUENCES: tuple[Any, ...] = (list, tuple, collections.deque, *_SETS)
_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
# By name, so that nothing is imported only to be recognised; pathlib moved its classes in Python 3.13.
_TEXTUAL = {("decimal", "Decimal"), ("uuid", "UUID"), ("pathlib", "PurePath"), ("pathlib._local", "PurePath")}
_ARRAYS = {("numpy", "ndarray"), ("numpy", "generic")}
_INTEGERS = frozenset((int,))
_MAX_INT = 1 << 1023  # 308 digits; readers of JSON refuse far longer ones


class Snapshot:
    """A JSON copy of one value: `value`, its approximate `size` in bytes, and whether something was `cut`."""

    __slots__ = ("value", "size", "cut", "_nodes", "_chars", "_path")

    def __init__(self, value: Any, max_chars: int = MAX_CHARS, max_nodes: int = MAX_NODES) -> None:
        self.cut = False
        self._nodes = max_nodes
        self._chars = max_chars
        self._path: set[int] | None = None  # most values are flat and need none
        try:
            self.value = self._copy(value, 0)
        except Exception as error:  # a container that changes while being read, a hostile subclass, no memory
            self.value = {MARK: "unreadable", "type": type_name(value), "reason": type(error).__name__}
            self.cut = True
        self.size = (max_chars - self._chars) + 24 * (max_nodes - self._nodes) + 24

    def _copy(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return self._text(value)
        if kind is int and -_MAX_INT < value < _MAX_INT or kind in _NUMBERS:
            self._nodes -= 1
            return value
        if self._nodes <= 0 or self._chars <= 0:
            return self._left_out(value)
        if kind is dict:
            return self._mapping(value, depth)
        if kind is list or kind is tuple:
            if len(value) <= self._nodes:
                kinds = set(map(type, value))
                # Embeddings and lists of texts take a pass or two in C.
                chars = sum(map(len, value)) if kinds == _TEXT else 0
                small = kinds == _INTEGERS and min(value) > -_MAX_INT and max(value) < _MAX_INT
                if chars < self._chars and (kinds == _TEXT or small or kinds <= _NUMBERS):
                    self._nodes -= len(value)
                    self._chars -= chars
                    return list(value)
            return self._sequence(value, value, len(value), depth)
        return self._foreign(value, kind, depth)

    def _text(self, text: str) -> str:
        self._nodes -= 1
        room = self._chars
        self._chars = room - len(text)
        if self._chars >= 0:
            return text
        self.cut, self._chars = True, 0
        return f"{text[: max(room, 0)]}… [{len(text) - max(room, 0)} of {len(text)} characters left out]"

    def _left_out(self, value: Any) -> dict[str, Any]:
        self.cut = True
        left_out: dict[str, Any] = {MARK: "left out", "type": type_name(value)}
        if type(value) in (dict, list, tuple, set, frozenset, bytes, bytearray):
            left_out["length"] = len(value)
        return left_out

    def _mapping(self, value: dict[Any, Any], depth: int) -> Any:
        copy: dict[str, Any] = {}
        plain, room, entered = _PLAIN, self._chars, False
        for key, item in dict.items(value):
            if type(key) is not str:
                key = _key(key)
            room -= len(key)
            if room <= 0 or self._nodes <= 0:
                self.cut = True
                copy[MARK] = f"{dict.__len__(value) - len(copy)} of {dict.__len__(value)} keys left out"
                break
            kind = type(item)
            if kind in plain and (kind is not str or len(item) < room):
                copy[key] = item
                self._nodes -= 1
                if kind is str:
                    room -= len(item)
            else:
                if not entered and not (entered := self._enter(value, depth)):
                    return self._again(value, depth)
                self._chars = room
                copy[key] = self._copy(item, depth + 1)
                room = self._chars
        self._chars = room
        self._nodes -= 1
        if entered:
            self._leave(value)
        return copy

    def _sequence(self, value: Any, items: Iterable[Any], length: int, depth: int) -> Any:
        if not self._enter(value, depth):
            return self._again(value, depth)
        copy = []
        for item in itertools.islice(items, max(self._nodes, 1)):
            copy.append(self._copy(item, depth + 1))
            if self._nodes <= 0 or self._chars <= 0:
                break
        if len(copy) < length:
            self.cut = True
            copy.append({MARK: "left out", "length": length - len(copy)})
        self._nodes -= 1
        self._leave(value)
        return copy

    def _enter(self, value: Any, depth: int) -> bool:
        """Whether `value` may be descended into. Flat containers, which are most, never ask."""
        if self._path is None:
            self._path = set()
        if depth >= MAX_DEPTH or id(value) in self._path:
            return False
        self._path.add(id(value))
        return True

    def _leave(self, value: Any) -> None:
        if self._path is not None:
            self._path.discard(id(value))

    def _again(self, value: Any, depth: int) -> dict[str, Any]:
        self.cut = True
        return {MARK: "cycle"} if self._path and id(value) in self._path else self._left_out(value)

    def _foreign(self, value: Any, kind: type, depth: int) -> Any:
        """A value that JSON does not know. Data first, then the bare name of its type."""
        # Not isinstance: it asks the value for `__class__`, and a lazy proxy answers by a database query.
        if issubclass(kind, enum.Enum):
            return self._copy(value._value_, depth + 1)
        if issubclass(kind, str):
            return self._text(str.__str__(value))
        if issubclass(kind, int):
            number = int.__int__(value)
            return number if -_MAX_INT < number < _MAX_INT else {MARK: "integer", "bits": number.bit_length()}
        if issubclass(kind, float):
            return float.__float__(value)
        if issubclass(kind, dict):
            return self._mapping(value, depth)
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return self._mapping(dict(zip(kind._fields, value, strict=False)), depth)
        for base in _SEQUENCES:
            if issubclass(kind, base):
                length = base.__len__(value)  # of the base: a subclass may have put its own code there
                items = base.__iter__(value) if base not in _SETS else _ordered(base.__iter__(value), length)
                return self._sequence(value, items, length, depth)
        if issubclass(kind, (bytes, bytearray, memoryview)):
            return self._bytes(value)
        if issubclass(kind, (datetime.datetime, datetime.date, datetime.time)):
            return self._text(value.isoformat())
        if issubclass(kind, datetime.timedelta):
            return value.total_seconds()
        if _is_one_of(kind, _TEXTUAL):
            return self._text(str(value))
        if issubclass(kind, complex):
            return {MARK: "complex", "real": value.real, "imag": value.imag}
        if issubclass(kind, BaseException):
            return {MARK: "error", "type": type_name(value), "message": self._text(text_of(value))}
        if issubclass(kind, _CODE):
            name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
            return {MARK: "code", "name": f"{getattr(value, '__module__', '')}.{name}".strip(".")}
        return self._array(value, kind, depth) if _is_one_of(kind, _ARRAYS) else self._object(value, kind, depth)

    def _bytes(self, value: Any) -> dict[str, Any]:
        length = memoryview(value).nbytes
        room = min(length, self._chars * 3 // 4)
        kept = base64.b64encode(memoryview(value).cast("B")[:room]).decode("ascii")
        self._chars -= len(kept)
        self._nodes -= 1
        self.cut = self.cut or room < length
        return {MARK: "bytes", "length": length, "base64": kept}

    def _array(self, value: Any, kind: type, depth: int) -> Any:
        """numpy's scalars and arrays, known by name so that numpy is never imported."""
        if not hasattr(value, "shape") or value.shape == ():
            return self._copy(value.item(), depth + 1)
        if value.dtype.hasobject or value.size > self._nodes:
            self.cut = True
            return {MARK: "array", "shape": list(value.shape), "dtype": value.dtype.name}
        return self._copy(value.tolist(), depth)

    def _object(self, value: Any, kind: type, depth: int) -> dict[str, Any]:
        """Fields of a data class, pydantic model or plain object; of anything inside a plain object only its type."""
        fields = _declared_fields(value, kind)
        if fields is None:
            attributes = getattr(value, "__dict__", None) if kind.__module__ != "builtins" else None
            copy: dict[str, Any] = {MARK: "object", "type": type_name(value)}
            if type(attributes) is dict and self._enter(value, depth):
                for key, item in list(attributes.items())[:100]:
                    if type(key) is str and not key.startswith("_"):
                        copy[key] = self._inside_object(item, depth)
                self._leave(value)
            self._nodes -= 1
            return copy
        if not self._enter(value, depth):
            return self._again(value, depth)
        copy = {key: self._copy(item, depth + 1) for key, item in fields.items()}
        self._nodes -= 1
        self._leave(value)
        return copy

    def _inside_object(self, item: Any, depth: int) -> Any:
        # A client or a session is one attribute away from half the process: follow data only.
        if issubclass(type(item), (str, int, float, bool, _NOTHING, dict, list, tuple, datetime.date)):
            return self._copy(item, depth + 1)
        return {MARK: "object", "type": type_name(item)}


def type_name(value: Any) -> str:
    """`package.Class` of a value."""
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def text_of(value: Any) -> str:
    """`str(value)`, even where that fails. For what must be text: names, identifiers, what an exception says."""
    try:
        return str(value)
    except Exception as problem:
        return f"({type_name(value)}, whose text is not available: {type(problem).__name__})"


def described(error: BaseException) -> str:
    """Type and text of an exception. Unlike `repr`, it never fails."""
    return f"{type_name(error)}: {text_of(error)}"


def json_safe(value: Any) -> Any:
    """A snapshot's value without the numbers that JSON lacks: NaN and infinities by name."""
    if isinstance(value, float):
        return value if math.isfinite(value) else ("NaN" if value != value else f"{'-' * (value < 0)}Infinity")
    if isinstance(value, list):
        return [json_safe(item) for item in value]
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    return value


def _key(key: Any) -> str:
    if key is None or type(key) is bool:
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, enum.Enum):
        return _key(key._value_)
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, (int, float)) and abs(key) < _MAX_INT:
        return repr(float(key) if isinstance(key, float) else int(key))
    if isinstance(key, tuple) and len(key) < 10:
        return ",".join(_key(item) for item in key)
    if isinstance(key, datetime.date) or _is_one_of(type(key), _TEXTUAL):
        return str(key)
    return type_name(key)


def _ordered(items: Iterable[Any], length: int) -> Iterable[Any]:
    """Members of a set in sorted order where that is cheap and possible, so that equal sets are recorded equally."""
    if length > MAX_NODES:
        return items
    members = list(items)
    return sorted(members) if set(map(type, members)) in ({str}, {int}, {float}) else members


def _is_one_of(kind: type, names: set[tuple[str, str]]) -> bool:
    return any((base.__module__, base.__name__) in names for base in kind.__mro__)


def _declared_fields(value: Any, kind: type) -> dict[str, Any] | None:
    """Fields of a dataclass, a pydantic model, an attrs class or a msgspec struct; None for other objects.

    Only what is stored: an attribute that is worked out on access, as by an ORM, is left out.
    """
    stored = getattr(value, "__dict__", None) or {}
    if hasattr(kind, "__pydantic_validator__"):
        return {**stored, **(getattr(value, "__pydantic_extra__", None) or {})}
    names = (
        getattr(kind, "__dataclass_fields__", None)
        or getattr(kind, "__struct_fields__", None)
        or [attribute.name for attribute in getattr(kind, "__attrs_attrs__", ())]
    )
    if not names:
        return None
    fields = {}
    for name in itertools.islice(names, 200):
        if name in stored:
            fields[name] = stored[name]
        elif isinstance(getattr(kind, name, None), types.MemberDescriptorType):  # of `__slots__`
            fields[name] = getattr(value, name, None)
    return fields
