"""YAML that people wrote, read strictly: no key twice, no alias that unfolds without end."""

from typing import Any

import yaml

MAX_CHARACTERS = 20_000_000
"""What a file may unfold to; ten thousand strategies with prompts of a page each would fit."""


def read_yaml(text: str) -> Any:
    """The value in a YAML text, made of plain types; None where it is empty.

    Raises yaml.YAMLError, with the line, also where a key stands twice in one mapping (YAML itself would drop the
    first silently), where aliases unfold to more than MAX_CHARACTERS, and where it nests too deeply.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MAX_CHARACTERS:
            raise yaml.YAMLError(f"it unfolds to more than {MAX_CHARACTERS:,} characters")
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it nests too deeply") from None
    except ValueError as error:  # a date such as 2026-99-99
        raise yaml.YAMLError(str(error)) from None
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Characters that a node unfolds to; each node is looked at once, however many aliases name it."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise _error("an alias that contains itself", node)
        return known[id(node)]
    known[id(node)] = 0
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        _refuse_twins(node)
        parts = [part for pair in node.value for part in pair]
    own = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
    known[id(node)] = 1 + own + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _refuse_twins(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in seen:
            raise _error(f"the key '{key.value}' stands twice in one mapping", key)
        seen.add(key.value)


def _error(what: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {node.start_mark.line + 1}: {what}")
