"""Values are recorded as they were, by a rule, without running the application's code and within bounds."""

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import uuid
from typing import Any

import msgspec
import numpy
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbawa.record.line_format import Row, encode
from qbawa.record.redact import Redactor
from qbawa.record.snapshot import MARK, MAX_CHARS, MAX_NODES, Snapshot

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def line(value: Any) -> dict:
    """What a reader of the journal gets to see of a value."""
    encoded = encode(Row('{"v":1,', {"value": Snapshot(value).value}), Redactor())
    assert encoded is not None and b"\n" not in encoded and b"\0" not in encoded
    return json.loads(encoded.decode("utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["value"]


@settings(deadline=None)
@given(json_values.filter(lambda value: not Redactor().may_hold(json.dumps(value))))
def test_json_comes_back_as_it_was(value):
    assert line(value) == json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


@settings(deadline=None)
@given(json_values)
def test_later_mutation_changes_nothing(value):
    value = {"outer": [value, {"inner": value}]}
    before = json.dumps(value)
    copy = Snapshot(value).value
    value["outer"][1]["inner"] = "changed"
    value["outer"].append("more")
    value["new"] = 1
    assert json.dumps(copy) == before


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Clause:
    text: str
    pages: list[int]


@dataclasses.dataclass(slots=True)
class Slotted:
    text: str


class Struct(msgspec.Struct):
    text: str
    number: int


class Party(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str
    key: pydantic.SecretStr = pydantic.SecretStr("hush")


class Plain:
    def __init__(self) -> None:
        self.text = "kept"
        self.numbers = [1, 2]
        self.client = collections.Counter
        self.inner = Exploding()
        self._private = "left out"


class Exploding:
    """Every way to look at it runs its code, which must not happen."""

    def __repr__(self) -> str:
        raise AssertionError("__repr__ was run")

    __str__ = __len__ = __iter__ = __bool__ = __eq__ = __hash__ = __format__ = __repr__  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            raise AssertionError(f"{name} was read")
        raise AttributeError(name)


class LazyProxy:
    """As of Django or Werkzeug: to be asked for its class costs a query."""

    @property
    def __class__(self):
        raise AssertionError("__class__ was asked for")


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (float("nan"), "NaN"),
        ([float("inf"), -float("inf"), 1.5], ["Infinity", "-Infinity", 1.5]),
        (10**30, 10**30),
        ([1, 10**400], [1, {MARK: "integer", "bits": 1329}]),
        ((1, "a"), [1, "a"]),
        ({3, 1, 2}, [1, 2, 3]),
        (collections.deque("ab"), ["a", "b"]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (
            {2: "a", None: "b", True: "c", (1, "x"): "d", 1.5: "e"},
            {"2": "a", "true": "c", "null": "b", "1,x": "d", "1.5": "e"},
        ),
        (b"\x00\xff", {MARK: "bytes", "length": 2, "base64": "AP8="}),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), "2026-01-02T03:04:05+00:00"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.timedelta(minutes=1), 60.0),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (pathlib.Path("a/b"), "a/b"),
        ({uuid.UUID(int=1): datetime.time(1)}, {"00000000-0000-0000-0000-000000000001": "01:00:00"}),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Point(1, 2), {"x": 1, "y": 2}),
        (Clause("t", [1]), {"text": "t", "pages": [1]}),
        (Slotted("t"), {"text": "t"}),
        (Struct("t", 1), {"text": "t", "number": 1}),
        (1 + 2j, {MARK: "complex", "real": 1.0, "imag": 2.0}),
        (numpy.float32(0.5), 0.5),
        (numpy.int64(7), 7),
        (numpy.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (numpy.array([0.0, numpy.nan]), [0.0, "NaN"]),
        (ValueError("no"), {MARK: "error", "type": "ValueError", "message": "no"}),
        (json.dumps, {MARK: "code", "name": "json.dumps"}),
        ("\ud800 half a pair", "? half a pair"),
        ("nul \x00", "nul \x00"),
        (object(), {MARK: "object", "type": "object"}),
        ((number for number in [1]), {MARK: "object", "type": "generator"}),
    ],
)
def test_the_rule_for_values_that_are_not_json(value, recorded):
    assert line(value) == recorded


def test_a_pydantic_model_is_its_fields_and_keeps_its_secrets():
    assert line(Party(name="A", city="B")) == {
        "name": "A",
        "key": {MARK: "object", "type": "pydantic.types.SecretStr"},
        "city": "B",
    }


def test_an_object_is_its_public_data_and_runs_no_code():
    recorded = line({"plain": Plain(), "bare": Exploding()})
    assert recorded["plain"]["text"] == "kept" and recorded["plain"]["numbers"] == [1, 2]
    assert recorded["plain"]["inner"][MARK] == "object" and "_private" not in recorded["plain"]
    assert recorded["bare"] == {MARK: "object", "type": f"{__name__}.Exploding"}


def test_a_lazy_proxy_stays_lazy():
    assert line([LazyProxy()]) == [{MARK: "object", "type": f"{__name__}.LazyProxy"}]


def test_an_error_whose_text_fails_is_recorded_without_it():
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "not available" in line(Mute())["message"]


def test_iterators_are_not_consumed():
    numbers = iter([1, 2, 3])
    line(numbers)
    assert list(numbers) == [1, 2, 3]


def test_values_that_contain_themselves_end():
    loop: list = [1]
    loop.append(loop)
    tree: dict = {"a": {}}
    tree["a"]["back"] = tree
    assert line(loop) == [1, {MARK: "cycle"}]
    assert line(tree) == {"a": {"back": {MARK: "cycle"}}}


def test_the_same_value_twice_is_no_cycle():
    shared = {"a": 1}
    assert line([shared, shared]) == [shared, shared]


def test_deep_values_end():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert "left out" in json.dumps(line(deep))


# Made by the test that needs it: made when they are collected, they are a gigabyte in every worker, to the end.
HUGE = {
    "text": lambda: "x" * 100_000_000,
    "texts": lambda: ["x" * 1_000_000] * 100,
    "dict": lambda: {str(number): "x" * 10_000 for number in range(10_000)},
    "numbers": lambda: list(range(3_000_000)),
    "lists": lambda: [[number] for number in range(1_000_000)],
    "keys": lambda: {number: number for number in range(1_000_000)},
    "bytes": lambda: bytes(50_000_000),
    "array": lambda: numpy.zeros(10_000_000),
    "inner": lambda: {"a": ["x" * 2_000_000, "after"]},
    "key": lambda: {"a": 1, "x" * 50_000_000: 2},
}


@pytest.mark.parametrize("make", HUGE.values(), ids=HUGE)
def test_huge_values_are_cut(make):
    snapshot = Snapshot(make())
    assert snapshot.cut
    text = json.dumps(snapshot.value)
    assert len(text) < 2 * MAX_CHARS + 40 * MAX_NODES
    assert "left out" in text or '"array"' in text or '"bytes"' in text


def test_an_integer_too_long_to_print_is_named():
    assert line([10**5_000]) == [{MARK: "integer", "bits": (10**5_000).bit_length()}]


def test_containers_are_read_without_the_code_of_their_subclass():
    class Hostile(list):
        def __iter__(self):
            raise OSError("no")

        __len__ = __getitem__ = __iter__

    class HostileDict(dict):
        items = keys = __iter__ = __len__ = Hostile.__iter__

    assert line([Hostile([1]), HostileDict(a=1)]) == [[1], {"a": 1}]


def test_a_value_that_fails_while_being_read_is_named():
    class Hostile:
        @property
        def __dict__(self):
            raise OSError("no")

    assert line(Hostile())[MARK] == "unreadable"
