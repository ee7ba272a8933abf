"""Jinja in a box: a template can read what it is given and nothing else, and every render ends soon.

Templates may come from optimisers and imports, so they are not trusted. Jinja's own sandbox keeps them from Python's
internals; the rest here bounds work: every loop round and macro call is counted, whatever makes text or lists longer
is measured before it is made, filters and methods that could make more are left out. Values are data: braces inside
them mean nothing.
"""

import json
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
MAX_SOURCE = 400_000
"""Characters of one template."""

_BUDGET = " budget"  # not a name that a template can spell
_FILTERS = """
abs capitalize count d default dictsort first float groupby int items last length lower map max min reject
rejectattr reverse round select selectattr sort title trim truncate unique upper wordcount
"""
_METHODS = """
capitalize casefold count endswith find get index isalnum isalpha isdigit isspace items keys lower lstrip removeprefix
removesuffix rfind rsplit rstrip split splitlines startswith strip swapcase title upper values
"""
_KEPT = frozenset(_METHODS.split())


class TooMuch(Exception):
    """A render went over one of its bounds."""


class _Budget:
    """What is left of one render's rounds, characters and seconds."""

    __slots__ = ("rounds", "chars", "deadline")

    def __init__(self) -> None:
        self.rounds = MAX_ROUNDS
        self.chars = MAX_CHARS
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
    tree = environment.parse(source)
    _bound(tree)
    template = environment.from_string(tree)

    def render(variables: Mapping[str, Any]) -> str:
        budget = _Budget()
        return "".join(template.generate({**variables, _BUDGET: budget}))

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
    for number, value in enumerate(values):
        if number >= MAX_ROUNDS:
            raise TooMuch(f"a list has more than {MAX_ROUNDS:,} parts")
        yield value


def _weighed(value: Any) -> Any:
    """The value, if it is not huge when written out: `[x, x]` nested forty times is small in memory alone."""
    left, waiting = MAX_ROUNDS, [value]
    while waiting:
        part = waiting.pop()
        left -= 1
        if left < 0:
            raise TooMuch(f"a list has more than {MAX_ROUNDS:,} parts")
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list | tuple):
            waiting.extend(part)
    return value


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


def _range(*bounds: int) -> range:
    found = range(*bounds)
    if len(found) > MAX_RANGE:
        raise TooMuch(f"a range is longer than {MAX_RANGE:,}")
    return found


def _list(values: Iterable[Any]) -> list[Any]:
    return _weighed(list(_limited(values)))


def _dict(**values: Any) -> dict[str, Any]:
    return _weighed(values)


@pass_context
def _counted(context: Context, values: Any, chars: int) -> Iterator[Any]:
    budget: _Budget = context[_BUDGET]
    for value in values:
        budget.tick()
        budget.spend(chars)
        yield value


@pass_context
def _tick(context: Context, value: Any) -> Any:
    budget: _Budget = context[_BUDGET]
    budget.tick()
    return value


class _Bounded(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, output: Callable[[Any], str]) -> None:
        @pass_context
        def finalize(context: Context, value: Any) -> str:
            text = output(value)
            budget: _Budget = context[_BUDGET]
            budget.spend(len(text))
            return text

        super().__init__(undefined=StrictUndefined, finalize=finalize, keep_trailing_newline=False, autoescape=False)
        self.filters = {name: FILTERS[name] for name in _FILTERS.split()} | {
            "join": _join,
            "list": _list,
            "replace": _replace,
            "indent": _indent,
            "sum": _sum,
            "string": as_text,
            "tojson": as_json,
            " counted": _counted,
            " tick": _tick,
            " weighed": _weighed,
            " concat": _join,
        }
        self.globals = {name: self.globals[name] for name in ("namespace",)} | {"dict": _dict, "range": _range}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | int | float | dict | list | tuple):
            return attr in _KEPT
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No `str.format`: its widths make text of any length."""

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sized = [side for side in (left, right) if hasattr(side, "__len__")]
        if operator == "+" and sized:
            _sized(sum(len(side) for side in sized))
            return _weighed(left + right)
        if operator == "*" and sized:
            times = right if sized[0] is left else left
            _sized(len(sized[0]) * (times if isinstance(times, int) else 1))
            return _weighed(left * right)
        if operator == "%" and isinstance(left, str):
            raise SecurityError("'%' formats no text here; use '~' to join")
        if operator == "**" and (abs(left) > 1e6 or abs(right) > 64):
            raise TooMuch("a power is too large")
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 4096:
            raise TooMuch("a number is too large")
        return super().call_binop(context, operator, left, right)


def _bound(tree: nodes.Template) -> None:
    """Make the tree count its rounds and weigh its lists; refuse what cannot be counted."""
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
    return node


def _filter(name: str, value: nodes.Node, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(arguments), [], None, None, lineno=value.lineno)
