"""The strategies of a configuration: every entry's grid of prompts × models × parameters, multiplied out."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from qbawa.config import Config, ProgramConfig, StepConfig, StrategyConfig
from qbawa.config_file import read_yaml
from qbawa.errors import ConfigError
from qbawa.ids import RECORDED
from qbawa.replay.strategies.strategy import Strategy, Template, make_strategy
from qbawa.replay.strategies.template import check_template

MAX_STRATEGIES = 20_000
"""Of one configuration: more is a slip in a grid, and no matrix could hold it."""
LIST_PARAMS = ("stop", "tools")
"""Parameters whose value is itself a list, so that a list is no grid axis."""

_SHORT = {"temperature": "t", "top_p": "p", "max_tokens": "max", "max_completion_tokens": "max", "seed": "seed"}


def expand(config: Config, base_folder: Path) -> list[Strategy]:
    """Every strategy that the configuration and its strategy files describe, in their order; equal ones once.

    Files are looked up relative to `base_folder`. Raises ConfigError that names the entry, what is wrong and what
    would be right.
    """
    entries = [(f"strategies[{index}]", entry) for index, entry in enumerate(config.strategies)]
    for pattern in config.strategy_files:
        entries += _from_files(config, base_folder, pattern)
    found: dict[str, Strategy] = {}
    names: dict[tuple[str, str], tuple[str, str]] = {}
    for where, entry in entries:
        for strategy in _grid(where, entry, config, base_folder):
            if strategy.strategy_id in found:
                continue
            taken = names.get((strategy.step, strategy.name))
            if taken or strategy.name == RECORDED:
                other = f"another strategy of {taken[1]}" if taken else "production's own answers"
                raise ConfigError(
                    f"{where}: the name '{strategy.name}' of step '{strategy.step}' already belongs to {other}. "
                    "Give the entry a `name` of its own."
                )
            names[strategy.step, strategy.name] = (strategy.strategy_id, where)
            found[strategy.strategy_id] = strategy
            if len(found) > MAX_STRATEGIES:
                raise ConfigError(f"{where}: more than {MAX_STRATEGIES:,} strategies. Give its grid fewer values.")
    return list(found.values())


def _from_files(config: Config, base: Path, pattern: str) -> list[tuple[str, StrategyConfig]]:
    try:
        paths = sorted(path for path in base.glob(pattern) if path.is_file())
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"strategy_files: '{pattern}' is no pattern relative to {base} ({error}).") from None
    if not paths:
        raise ConfigError(f"strategy_files: nothing in {base} matches '{pattern}'.")
    return [entry for path in paths for entry in _from_file(config, path, str(path.relative_to(base)))]


def _from_file(config: Config, path: Path, shown: str) -> Iterator[tuple[str, StrategyConfig]]:
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
        entries = TypeAdapter(list[StrategyConfig]).validate_python(data or [])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise ConfigError(f"{shown}: {key}: {first['msg']}. The file must hold a list of strategies.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{shown} is not readable YAML: {' '.join(str(error).split())}") from None
    for index, entry in enumerate(entries):
        where = f"{shown}[{index}]"
        for model in (*entry.models, *([entry.model] if entry.model else []), *entry.program.proposers):
            problem = config.model_problem(model)
            if problem is not None:
                raise ConfigError(f"{where}: {problem}.")
        yield where, entry


def _grid(where: str, entry: StrategyConfig, config: Config, base: Path) -> Iterator[Strategy]:
    templates = _templates(where, entry, base)
    models = list(dict.fromkeys([*entry.models, *([entry.model] if entry.model else [])]))
    if not models:
        raise ConfigError(
            f"{where}: needs `model` or `models`. Models: {', '.join(config.models) or 'only offline/…'}."
        )
    axes = {name: value for name, value in entry.params.items() if isinstance(value, list) and name not in LIST_PARAMS}
    empty = [name for name, values in axes.items() if not values]
    if empty:
        raise ConfigError(
            f"{where}.params.{empty[0]}: an empty list makes no strategy. Give values, or leave the key out."
        )
    short = short_models(models)
    program = _program(where, entry.program, entry.step, config)
    for (prompt, template), model in itertools.product(templates, models):
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            yield make_strategy(
                name=strategy_name(entry, prompt, short[model], point),
                step=entry.step,
                model=model,
                template=template,
                params={**entry.params, **point},
                program=program,
            )


def _templates(where: str, entry: StrategyConfig, base: Path) -> list[tuple[str | None, Template]]:
    """The entry's templates with the name of the prompt, where `prompts` gives one."""
    given = {
        "prompts": bool(entry.prompts),
        "prompt": entry.prompt is not None,
        "file": entry.file is not None,
        "replace_system": entry.replace_system is not None,
        "keep_prompt": entry.keep_prompt,
    }
    if sum(given.values()) != 1:
        got = ", ".join(name for name, present in given.items() if present) or "none"
        raise ConfigError(f"{where}: give exactly one of {', '.join(given)}; received {got}.")
    if entry.system is not None and (entry.keep_prompt or entry.replace_system is not None):
        raise ConfigError(
            f"{where}.system: goes with a prompt. To replace a recorded system message use `replace_system`."
        )
    examples = entry.examples
    templates: list[tuple[str | None, Template]]
    if entry.keep_prompt:
        templates = [(None, Template("keep_prompt", examples=examples))]
    elif entry.replace_system is not None:
        templates = [(None, Template("replace_system", system=entry.replace_system, examples=examples))]
    else:
        prompts: list[tuple[str | None, str]] = [*entry.prompts.items()]
        if not prompts:
            prompts = [(None, _read(where, entry, base) if entry.prompt is None else entry.prompt)]
        templates = [(name, Template("prompt", text, entry.system, examples)) for name, text in prompts]
    for name, template in templates:
        check_template(template, f"{where}.prompts.{name}" if name else where)
    return templates


def _read(where: str, entry: StrategyConfig, base: Path) -> str:
    path = base / str(entry.file)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}.file: {path} cannot be read ({error}).") from None


def _program(where: str, program: ProgramConfig, step: str, config: Config) -> dict[str, Any]:
    """What decides how calls are spent: only what this kind uses, so that no unrelated key makes a new strategy."""
    content: dict[str, Any] = {"kind": program.kind}
    judged = program.kind in ("refine", "mixture_of_agents") or (
        program.kind == "best_of_n" and program.pick == "judge"
    )
    if program.kind in ("best_of_n", "refine"):
        content["n"] = program.n
    if program.kind == "best_of_n":
        content["pick"] = program.pick
    if program.kind == "refine":
        content["examples"] = program.examples
    if program.kind in ("mixture_of_agents", "refine"):
        content["proposers"] = list(program.proposers)
    if program.kind == "mixture_of_agents":
        content["layers"] = program.layers
        if not program.proposers:
            raise ConfigError(f"{where}.program.proposers: mixture_of_agents needs models that propose.")
    if judged and program.judge is not None:
        content["judge"] = _judge(f"{where}.program.judge", program.judge, step, config)
    elif judged and program.kind != "mixture_of_agents":
        raise ConfigError(f"{where}.program.judge: {program.kind} needs a judge. Judges: {_names(config.judges)}.")
    return content


def _judge(where: str, name: str, step: str, config: Config) -> dict[str, Any]:
    if name not in config.judges:
        raise ConfigError(f"{where}: there is no judge '{name}'. Judges: {_names(config.judges)}.")
    judge = config.judges[name]
    rubric = config.steps.get(step, StepConfig()).rubric or judge.rubric
    content = {"kind": judge.kind, "model": judge.model, "rubric": rubric, "params": dict(judge.params)}
    return content | ({"order": "both"} if judge.order == "both" else {})


def _names(judges: Mapping[str, Any]) -> str:
    return ", ".join(judges) or "none"


def short_models(models: Sequence[str]) -> dict[str, str]:
    """Model → its last part, or the whole where two of these models end alike."""
    last = {model: model.rsplit("/", 1)[-1] for model in models}
    ends = list(last.values())
    return {model: end if ends.count(end) == 1 else model for model, end in last.items()}


def strategy_name(entry: StrategyConfig, prompt: str | None, model: str, axes: Mapping[str, Any]) -> str:
    """Name of one point of an entry's grid, given the prompt's name, the short model and the listed parameters."""
    parts = [entry.name] if entry.name else []
    if prompt is not None:
        parts.append(prompt)
    elif not entry.name:
        parts.append(_kind(entry))
    if entry.models or not (entry.name or prompt):
        parts.append(model)
    parts += [_axis(name, value) for name, value in axes.items()]
    if entry.program.kind != "single" and not entry.name:
        parts.append(
            f"best-of-{entry.program.n}" if entry.program.kind == "best_of_n" else entry.program.kind.replace("_", "-")
        )
    return "/".join(parts)


def _kind(entry: StrategyConfig) -> str:
    if entry.file:
        return PurePosixPath(entry.file).name.split(".", 1)[0]
    return "keep-prompt" if entry.keep_prompt else "replace-system" if entry.replace_system is not None else "prompt"


def _axis(name: str, value: Any) -> str:
    if isinstance(value, dict | list):
        text = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]
    elif isinstance(value, bool) or value is None:
        text = {True: "on", False: "off", None: "none"}[value]
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{_SHORT[name]}{text}" if name in _SHORT else f"{name}={text}"
