"""Reading qbawa.yaml strictly: an error names the key, the value received and what would be right.

No key twice, no alias that unfolds without end, never half of a configuration.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from qbawa.config import (
    BudgetConfig,
    ChampionConfig,
    Config,
    DatasetConfig,
    JudgeConfig,
    LakeConfig,
    ModelConfig,
    PairsConfig,
    ProgramConfig,
    ReplaySetConfig,
    StepConfig,
    StrategyConfig,
    TournamentConfig,
)
from qbawa.errors import ConfigError
from qbawa.text import printable

MAX_CHARACTERS = 20_000_000
"""What a file may unfold to; ten thousand strategies with prompts of a page each would fit."""


def load_config(path: Path) -> Config:
    """The configuration in a file. Raises ConfigError that says what is wrong, where, and what would be right."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"There is no {path}. `qbawa init` writes a commented one.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return parse_config(text, str(path))


@lru_cache(maxsize=2)
def parse_config(text: str, where: str = "qbawa.yaml") -> Config:
    """The configuration in a YAML text; `where` names it in errors."""
    try:
        data = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{where} holds a {type(data).__name__}; it must hold keys such as `models:` and `strategies:`."
        )
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where} is not usable:\n" + "\n".join(_explain(e) for e in error.errors())) from None


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


def _explain(error: Any) -> str:
    key = printable(".".join(str(part) for part in error["loc"])) or "(whole file)"
    value = error["input"]
    if error["type"] == "extra_forbidden":
        known = ", ".join(_fields_at(error["loc"][:-1]))
        return f"  {key}: no such key. Known here: {known}."
    if key.endswith("api_key_env"):
        # Whoever pastes the key itself should not find it in a log.
        return f"  {key}: must be the name of an environment variable that holds the key, such as OPENAI_API_KEY."
    shown = "" if isinstance(value, dict | BaseModel) else f" (received: {value!r:.80})"
    return f"  {key}: {error['msg'].removeprefix('Value error, ')}{shown}"


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    """Names of the keys that are allowed at a place in the file."""
    sections: dict[str, type[BaseModel]] = {
        "lake": LakeConfig,
        "models": ModelConfig,
        "steps": StepConfig,
        "replay_set": ReplaySetConfig,
        "strategies": StrategyConfig,
        "judges": JudgeConfig,
        "tournament": TournamentConfig,
        "budget": BudgetConfig,
        "pairs": PairsConfig,
        "datasets": DatasetConfig,
        "champions": ChampionConfig,
    }
    if not location:
        return list(Config.model_fields)
    section = ProgramConfig if "program" in location else sections.get(str(location[0]), Config)
    return list(section.model_fields)


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
