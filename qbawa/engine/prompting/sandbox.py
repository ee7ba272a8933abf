"""Jinja in a box: a template can read what it is given and nothing else, and every render ends soon.

Templates may come from optimisers and imports, so they are not trusted. Jinja's own sandbox keeps them from Python's
internals; the rest here bounds work: every loop round and macro call is counted, whatever makes text or lists longer
is measured before it is made, all that a render makes on its way is added up, and the clock is read at every filter,
call and comparison. Filters and methods that could make more at once are left out or have bounds of their own. Values
are data: braces inside them mean nothing.
"""

import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARS = 4_000_000
"""Characters that one render may put out: about a million tokens, more than any model reads."""
MAX_ROUNDS = 100_000
"""Loop rounds and macro calls of one render."""
MAX_RANGE = 10_000
MAX_SECONDS = 2.0
"""CPU seconds of one render; a typical one takes 0.00005."""
MAX_MADE_BYTES = 256 << 20
"""Of all texts and lists that one render makes on its way, whether it keeps them or not."""
MAX_BITS = 4096
"""Of a whole number: arithmetic on longer ones takes long."""
MAX_SOURCE = 400_000
"""Characters of one template."""
MAX_NODES = 20_000
"""Parts of one template: each costs time before anything is rendered."""
MAX_MACROS = 200
MAX_SOUGHT = 1_000
"""Characters of an argument whose length multiplies the time that a method takes."""

_FILTERS = """
abs capitalize count d default dictsort first float groupby int items last length lower map max min reject
rejectattr reverse select selectattr sort title truncate unique upper wordcount
"""
_METHODS = """
capitalize casefold count endswith find get index isalnum isalpha isdigit isspace items keys lower lstrip removeprefix
removesuffix rfind rsplit rstrip split splitlines startswith strip swapcase title upper values
"""
_KEPT = frozenset(_METHODS.split())
_SLOW_METHODS = frozenset(("lstrip", "rfind", "rsplit", "rstrip", "strip"))


class TooMuch(Exception):
    """A render went over one of its bounds."""


class _Budget:
    """What is left of one render's rounds, characters, bytes and seconds."""

    __slots__ = ("rounds", "chars", "bytes", "deadline")

    def __init__(self) -> None:
        self.rounds = MAX_ROUNDS
        self.chars = MAX_CHARS
        self.bytes = MAX_MADE_BYTES
        self.deadline = 0.0

    def tick(self) -> None:
        self.rounds -= 1
        if self.rounds < 0:
            raise TooMuch(f"it loops more than {MAX_ROUNDS:,} times")
        if self.rounds % 8 == 0:
            self.check_time()

    def check_time(self) -> None:
        now = time.thread_time()
        if not self.deadline:
            self.deadline = now + MAX_SECONDS
        elif now > self.deadline:
            raise TooMuch(f"it computes for more than {MAX_SECONDS:g} seconds")

    def spend(self, chars: int) -> None:
        self.chars -= chars
        if self.chars < 0:
            raise TooMuch(f"it writes more than {MAX_CHARS:,} characters")

    def make(self, count: int) -> None:
        self.bytes -= count
        if self.bytes < 0:
            raise TooMuch(f"it makes values of more than {MAX_MADE_BYTES >> 20} MiB")


class _Running(threading.local):
    """The render that a thread is at."""

    budget: _Budget


_running = _Running()


def sandbox(output: Callable[[Any], str] | None = None) -> ImmutableSandboxedEnvironment:
    """A bounded environment. `output` turns an inserted value into text: by default text stays, structures are JSON."""
    return _Bounded(output or as_text)


def compile_template(environment: ImmutableSandboxedEnvironment, source: str) -> Callable[[Mapping[str, Any]], str]:
    """A function from variables to text.

    Raises TemplateSyntaxError. The function raises TooMuch, jinja2's UndefinedError where a variable is absent, and
    whatever a wrong operation raises; all are about this template and these values.
    """
    if len(source) > MAX_SOURCE:
        raise TemplateSyntaxError(f"it has {len(source):,} characters; at most {MAX_SOURCE:,} are taken", 1)
    try:
        tree = environment.parse(source)
        _bound(tree)
        template = environment.from_string(tree)
    except (RecursionError, MemoryError, SyntaxError):  # of Python's compiler, which Jinja ends in
        raise TemplateSyntaxError("it nests too deeply", 1) from None
    except ValueError:
        raise TemplateSyntaxError("it holds a number that is too long", 1) from None

    def render(variables: Mapping[str, Any]) -> str:
        _running.budget = _Budget()
        return "".join(template.generate(dict(variables)))

    return render


def as_text(value: Any) -> str:
    """Text as it is, None as nothing, everything else as JSON."""
    return value if isinstance(value, str) else "" if value is None else as_json(value)


def as_json(value: Any) -> str:
    """The value as JSON, characters kept as they are; raises TooMuch rather than write more than a prompt may hold."""
    if isinstance(value, int | float):
        return json.dumps(value)
    parts: list[str] = []
    left = MAX_CHARS
    for part in _ENCODER.iterencode(value):
        left -= len(part)
        if left < 0:
            raise TooMuch(f"it writes more than {MAX_CHARS:,} characters")
        parts.append(part)
    return "".join(parts)


def _plain(value: Any) -> Any:
    if isinstance(value, Undefined):
        str(value)  # raises, naming the variable
    if isinstance(value, Iterable):
        return list(_limited(value))
    raise TypeError(f"a {type(value).__name__} cannot be written into a prompt")


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=_plain)


def _limited(values: Iterable[Any]) -> Iterator[Any]:
    budget = _running.budget
    for number, value in enumerate(values):
        if number >= MAX_ROUNDS:
            raise TooMuch(f"a list has more than {MAX_ROUNDS:,} parts")
        budget.check_time()
        yield value


def _weighed(value: Any) -> Any:
    """The value, if it is not huge when written out: `[x, x]` nested forty times is small in memory alone."""
    _running.budget.check_time()
    _running.budget.make(16 * len(value))
    left, waiting, bytes_left = MAX_ROUNDS, [value], MAX_MADE_BYTES
    while waiting:
        part = waiting.pop()
        left -= 1
        if left < 0:
            raise TooMuch(f"a list has more than {MAX_ROUNDS:,} parts")
        if isinstance(part, dict):
            waiting.extend(part)
            waiting.extend(part.values())
        elif isinstance(part, list | tuple):
            waiting.extend(part)
        elif isinstance(part, str):
            # One text many times takes no memory, until something like `sort` makes a copy of each.
            bytes_left -= len(part)
            if bytes_left < 0:
                raise TooMuch(f"a list holds more than {MAX_MADE_BYTES >> 20} MiB of text")
    return value


def _made(value: Any) -> Any:
    """The value, added to what the render has made."""
    if isinstance(value, str):
        _running.budget.make(sys.getsizeof(value))
    elif isinstance(value, list | tuple | dict):
        _running.budget.make(64 * len(value))
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise TooMuch("a number is too large")
    return value


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter or test with the clock read before it, and its result added up."""

    @functools.wraps(function)
    def bounded(*arguments: Any, **named: Any) -> Any:
        _running.budget.check_time()
        return _made(function(*arguments, **named))

    return bounded


def _sized(length: int) -> None:
    if length > MAX_CHARS:
        raise TooMuch(f"it makes a value of more than {MAX_CHARS:,} characters")


def _join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    parts, total = [], 0
    for value in _limited(values):
        parts.append(as_text(value if attribute is None else value[attribute]))
        total += len(parts[-1]) + len(separator)
        _sized(total)
    return separator.join(parts)


def _replace(text: Any, old: str, new: str) -> str:
    whole = as_text(text)
    _sized(len(whole) + (whole.count(old) if old else len(whole) + 1) * len(new))
    return whole.replace(old, new)


def _indent(text: Any, width: int = 4, first: bool = False) -> str:
    whole, margin = as_text(text), " " * max(0, min(int(width), 100))
    _sized(len(whole) + whole.count("\n") * len(margin))
    return (margin if first else "") + whole.replace("\n", "\n" + margin)


def _sum(values: Iterable[Any], attribute: str | None = None) -> Any:
    numbers = [value if attribute is None else value[attribute] for value in _limited(values)]
    if not all(isinstance(number, int | float) for number in numbers):
        raise TypeError("only numbers can be summed")
    return sum(numbers)


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    if abs(precision) > 30:
        raise TooMuch("it rounds to more than 30 digits")
    return FILTERS["round"](value, precision, method)


def _trim(text: Any, chars: str | None = None) -> str:
    return as_text(text).strip(_sought("trim", chars))


def _sought(method: str, argument: Any) -> Any:
    if isinstance(argument, str) and len(argument) > MAX_SOUGHT:
        raise TooMuch(f"`{method}` takes at most {MAX_SOUGHT:,} characters")
    return argument


def _range(*bounds: int) -> range:
    found = range(*bounds)
    if len(found) > MAX_RANGE:
        raise TooMuch(f"a range is longer than {MAX_RANGE:,}")
    return found


def _list(values: Iterable[Any]) -> list[Any]:
    return _weighed(list(_limited(values)))


def _dict(**values: Any) -> dict[str, Any]:
    return _weighed(values)


def _counted(values: Any, chars: int) -> Iterator[Any]:
    budget = _running.budget
    for value in values:
        budget.tick()
        budget.spend(chars)
        yield value


def _tick(value: Any) -> Any:
    _running.budget.tick()
    return value


def _passed(value: Any) -> Any:
    return value


class _Bounded(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, output: Callable[[Any], str]) -> None:
        @pass_context  # so that nothing is written while compiling
        def finalize(_context: Context, value: Any) -> str:
            _running.budget.check_time()
            text = output(value)
            _running.budget.spend(len(text))
            return text

        super().__init__(
            undefined=StrictUndefined,
            finalize=finalize,
            keep_trailing_newline=False,
            autoescape=False,
            optimized=False,  # what is constant would be computed while compiling, without a bound
        )
        tests: Mapping[str, Any] = self.tests
        self.tests = {name: _bounded(test) for name, test in tests.items()}
        made: dict[str, Callable[..., Any]] = {name: FILTERS[name] for name in _FILTERS.split()} | {
            "join": _join,
            "list": _list,
            "replace": _replace,
            "indent": _indent,
            "round": _round,
            "sum": _sum,
            "string": as_text,
            "tojson": as_json,
            "trim": _trim,
            " concat": _join,
            " passed": _passed,
        }
        self.filters = {name: _bounded(function) for name, function in made.items()} | {
            " counted": _counted,
            " tick": _tick,
            " weighed": _weighed,
        }
        self.globals = {name: self.globals[name] for name in ("namespace",)} | {"dict": _dict, "range": _range}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | int | float | dict | list | tuple):
            return attr in _KEPT
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No `str.format`: its widths make text of any length."""

    def call(__self, __context: Context, __obj: Any, *arguments: Any, **named: Any) -> Any:  # noqa: N805, as Jinja's
        _running.budget.check_time()
        if isinstance(getattr(__obj, "__self__", None), str) and __obj.__name__ in _SLOW_METHODS:
            for argument in (*arguments, *named.values()):
                _sought(__obj.__name__, argument)
        return _made(super().call(__context, __obj, *arguments, **named))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _running.budget.check_time()
        sized = [side for side in (left, right) if hasattr(side, "__len__")]
        if operator == "+" and sized:
            _sized(sum(len(side) for side in sized))
            return _joined(left + right)
        if operator == "*" and sized:
            times = right if sized[0] is left else left
            _sized(len(sized[0]) * (times if isinstance(times, int) else 1))
            return _joined(left * right)
        if operator == "%" and isinstance(left, str):
            raise SecurityError("'%' formats no text here; use '~' to join")
        if operator == "**" and (abs(left) > 1e6 or abs(right) > 64):
            raise TooMuch("a power is too large")
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_BITS:
            raise TooMuch("a number is too large")
        return super().call_binop(context, operator, left, right)


def _joined(value: Any) -> Any:
    return _made(value) if isinstance(value, str) else _weighed(value)


def _bound(tree: nodes.Template) -> None:
    """Make the tree count its rounds and weigh its lists; refuse what cannot be counted."""
    if sum(1 for _ in tree.find_all(nodes.Node)) > MAX_NODES:
        raise TemplateSyntaxError(f"it has more than {MAX_NODES:,} parts", 1)
    for number in tree.find_all(nodes.Const):
        if isinstance(number.value, int) and number.value.bit_length() > MAX_BITS:
            raise TemplateSyntaxError("it holds a number that is too long", number.lineno)
    for comparison in tree.find_all(nodes.Compare):
        if len(comparison.ops) > 10:
            raise TemplateSyntaxError("a comparison has too many parts", comparison.lineno)
    for other in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise TemplateSyntaxError("a template cannot load another one; write its text here", other.lineno)
    for node in tree.find_all(nodes.For):
        if node.recursive:
            raise TemplateSyntaxError("a `recursive` loop is not allowed", node.lineno)
        chars = sum(len(data.data) for part in node.body for data in _data(part))
        node.iter = _filter(" counted", node.iter, nodes.Const(chars))
    for name in tree.find_all(nodes.Name):
        if name.name in ("varargs", "kwargs"):
            raise TemplateSyntaxError(f"`{name.name}` is not allowed; give the macro's arguments names", name.lineno)
    bodies: list[nodes.Macro | nodes.CallBlock] = [*tree.find_all(nodes.Macro), *tree.find_all(nodes.CallBlock)]
    if len(bodies) + sum(1 for _ in tree.find_all(nodes.Block)) > MAX_MACROS:
        raise TemplateSyntaxError(f"it has more than {MAX_MACROS} macros and blocks", 1)
    for block in bodies:
        block.body.insert(0, nodes.ExprStmt(_filter(" tick", nodes.Const(None)), lineno=block.lineno))
    _rewrite(tree)


def _data(node: nodes.Node) -> Iterator[nodes.TemplateData]:
    if isinstance(node, nodes.TemplateData):
        yield node
    yield from node.find_all(nodes.TemplateData)


def _rewrite(node: nodes.Node) -> None:
    for field, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            _rewrite(value)
            setattr(node, field, _weighed_node(value))
        elif isinstance(value, list):
            for child in value:
                if isinstance(child, nodes.Node):
                    _rewrite(child)
            value[:] = [_weighed_node(child) if isinstance(child, nodes.Node) else child for child in value]


def _weighed_node(node: nodes.Node) -> nodes.Node:
    if isinstance(node, nodes.Concat):
        return _filter(" concat", nodes.List(node.nodes, lineno=node.lineno))
    if isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return _filter(" weighed", node)
    if isinstance(node, nodes.Compare) or (isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)):
        return _filter(" passed", node)
    return node


def _filter(name: str, value: nodes.Node, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(arguments), [], None, None, lineno=value.lineno)
