"""A trace's spans as steps: which of them are kept, and after what a model call is named.

Spans may come in any order, in several parts, twice, and children without their parents: the same spans always make the
same steps. Kept are all spans of a convention for AI, and every ancestor of one.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from qbawa.ingest.formats import otlp
from qbawa.ingest.formats.otlp_spans import Span
from qbawa.ingest.formats.step_names import GENERIC_CALL, GENERIC_ENTITY
from qbawa.ingest.formats.step_rows import BadRecordError, Origin
from qbawa.ingest.journal_lines import Step

_TEMPLATE = re.compile(r"\s*(?:\b(?:with|for|of|to|using|by|in|from)\s+)*['\"`(\[]*\{[^{}]*\}['\"`)\]]*")
_ANSWERING = ("chat", "text_completion", "generate_content", "completion", "responses", "message", "messages")
"""Operations that answer in words, by the conventions' names and older ones."""
_INSTRUMENTATION = re.compile(r"instrument|traceloop|openlit|litellm|\bsdk\b|logfire\.", re.IGNORECASE)


@dataclass(slots=True)
class _Node:
    span: Span
    role: otlp.Role
    parent: "_Node | None" = None
    step: Step | None = None
    kept: bool = False
    called_after: bool = False
    """Whether a model call has its name from here."""
    is_repeated: bool = False
    """Whether it describes a call that another span describes better."""


class Kept(NamedTuple):
    """A span that makes a step, or should."""

    span: Span
    step: Step | BadRecordError
    is_repeated: bool
    """A description of a call that another span describes better: without model, tokens and cost."""


def steps_of(spans: Sequence[Span], origin: Origin) -> Iterator[Kept]:
    """What the spans of one trace say, in their order, each id once; spans that belong to no AI step are left out.

    Of a span that comes several times, the one that says most counts.
    """
    nodes = _tree(spans)
    bad: list[tuple[Span, BadRecordError]] = []
    for node in nodes:
        if not node.kept:
            continue
        try:
            node.step = otlp.step_of(node.span, origin)
        except BadRecordError as error:
            bad.append(
                (node.span, BadRecordError(error.reason, f"span '{node.span.name}' ({node.span.span_id}): {error}"))
            )
        except (RecursionError, ValueError, TypeError, KeyError, AttributeError) as error:
            # A shape that nobody foresaw: the span is kept in quarantine, the rest of the trace goes on.
            bad.append(
                (node.span, BadRecordError("wrong_type", f"span {node.span.span_id}: {type(error).__name__}: {error}"))
            )
    _demote_descriptions_of_the_same_call(nodes)
    names = {id(node): _call_name(node) for node in nodes if node.role == "call" and node.step}
    for node in nodes:
        if node.step is None:
            continue
        name = names.get(id(node)) or _container_name(node)
        if origin.step is None:
            node.step = msgspec.structs.replace(node.step, step=name[:1024])
        yield Kept(node.span, node.step, node.is_repeated)
    for span, why in bad:
        yield Kept(span, why, False)


def rank(span: Span) -> int:
    """How much a span says; of several reports of one span, that which says most counts."""
    if span.digest:
        return span.digest.rank
    return len(span.attributes) + len(span.events) + (1_000_000 if span.ended_at else 0)


def clean_name(name: str) -> str:
    """A span's name without what is left of a template in it; empty where nothing else is."""
    return _TEMPLATE.sub("", name).strip(" :,-") if "{" in name else name


def _tree(spans: Sequence[Span]) -> list[_Node]:
    best: dict[str, Span] = {}
    for span in spans:
        known = best.get(span.span_id)
        if known is None or rank(span) > rank(known):
            best[span.span_id] = span  # in the place of the first report
    nodes = {own: _Node(span, otlp.role(span)) for own, span in best.items()}
    for node in nodes.values():
        node.parent = nodes.get(node.span.parent_id or "")
    for node in nodes.values():
        if node.role != "plain":
            for above in _lineage(node):
                above.kept = True
    return list(nodes.values())


def _lineage(node: _Node) -> Iterator[_Node]:
    """The node and its ancestors, nearest first; a circle, which only a forged trace has, ends it."""
    seen = set()
    at: _Node | None = node
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.parent


def _ancestors(node: _Node) -> Iterator[_Node]:
    lineage = _lineage(node)
    next(lineage)
    return lineage


def _call_name(node: _Node) -> str:
    """After the nearest task, agent or other entity; else after the nearest span of the application's own."""
    own = clean_name(node.span.name)
    operation = str(node.span.attributes.get("gen_ai.operation.name") or "")
    model = node.span.first("gen_ai.request.model", "gen_ai.response.model")
    plain = (
        operation if operation and model and own in (f"{operation} {model}", operation) else own or operation or "llm"
    )
    # An embedding beside an answer, under one name, would be replayed as the same question.
    if not _is_generic(node) or (operation and operation not in _ANSWERING):
        return plain
    said = otlp.own_entity(node.span)
    for above in _ancestors(node):
        if above.role != "entity":
            continue
        name = clean_name(otlp.entity_name(above.span) or "")
        if name and not GENERIC_ENTITY.fullmatch(name):
            above.called_after = above.called_after or name == clean_name(above.span.name)
            return name
    if said and clean_name(said):
        return clean_name(said)
    for above in _ancestors(node):
        name = clean_name(above.span.name)
        if above.role == "plain" and not above.span.is_edge and name and name != "span":
            above.called_after = True
            return name
    return plain


def _is_generic(node: _Node) -> bool:
    """Whether instrumentation has named the call, and not the application."""
    span, own = node.span, clean_name(node.span.name)
    operation = str(span.attributes.get("gen_ai.operation.name") or "")
    return (
        not own
        or own != span.name
        or bool(operation and own.startswith(operation))
        or bool(GENERIC_CALL.fullmatch(own))
        or bool(span.scope and _INSTRUMENTATION.search(span.scope))
    )


def _container_name(node: _Node) -> str:
    name = clean_name(node.span.name) or otlp.kind_of(node.span)
    # A call that is named after this span is a step of its own: two different things under one name would be replayed as one.
    return f"{name}.{otlp.kind_of(node.span)}" if node.called_after else name


def _demote_descriptions_of_the_same_call(nodes: Sequence[_Node]) -> None:
    """Two instrumentations at once report a call twice, beside each other or one inside the other: it counts once."""
    by_response: defaultdict[tuple[str, str], list[_Node]] = defaultdict(list)
    for node in nodes:
        if node.role != "call" or node.step is None:
            continue
        answer = node.span.attributes.get("gen_ai.response.id")
        if isinstance(answer, str) and answer:
            by_response[node.span.parent_id or "", answer].append(node)
        if otlp.has_content(node.span):
            for above in _ancestors(node):
                if above.role == "call":
                    _demote(above)
    for reports in by_response.values():
        full = [node for node in reports if node.role == "call" and otlp.has_content(node.span)]
        for node in reports:
            if not otlp.has_content(node.span) and any(_overlap(node.span, other.span) for other in full):
                _demote(node)


def _overlap(one: Span, other: Span) -> bool:
    if not all((one.started_at, one.ended_at, other.started_at, other.ended_at)):
        return True
    return bool(one.started_at <= other.ended_at and other.started_at <= one.ended_at)


def _demote(node: _Node) -> None:
    node.role, node.is_repeated = "other", True
    if node.step is not None:
        node.step = msgspec.structs.replace(node.step, model=None, input_tokens=None, output_tokens=None, cost_usd=None)
