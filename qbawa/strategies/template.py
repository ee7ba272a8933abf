"""From a strategy and a recorded question to the messages that go to the model."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateSyntaxError, meta
from jinja2.exceptions import UndefinedError

from qbawa.errors import ConfigError, TemplateError
from qbawa.strategies.sandbox import compile_template, sandbox
from qbawa.strategies.strategy import Strategy, Template

Messages = list[dict[str, Any]]
SYSTEM_ROLES = ("system", "developer")
_ENVIRONMENT = sandbox()


def render(
    strategy: Strategy,
    inputs: Mapping[str, Any],
    messages: Sequence[Mapping[str, Any]] | None = None,
    examples: Sequence[Mapping[str, Any]] = (),
    request_id: str = "",
) -> Messages:
    """The messages that a strategy sends for one request.

    Templates see each of the step's inputs by name, all of them as `inputs`, the recorded `messages` where there are
    any, and `examples`: the strategy's own and then those handed in. Raises TemplateError, whose message names
    strategy, request and cure; it is about this cell alone.
    """
    template = strategy.template
    if template.kind == "recorded":
        raise TemplateError(f"Strategy '{strategy.name}' is production's own answer; it is never replayed.")
    if template.kind == "prompt":
        variables = _variables(inputs, messages, [*template.examples, *examples])
        system = (
            [] if template.system is None else [_message("system", template.system, variables, strategy, request_id)]
        )
        return [*system, _message("user", template.prompt or "", variables, strategy, request_id)]
    if not messages:
        raise TemplateError(
            f"Strategy '{strategy.name}' reuses the recorded messages, absent from request {request_id}: its step "
            f"'{strategy.step}' made no single model call. Give the strategy a prompt or leave the request out."
        )
    kept = [dict(message) for message in messages]
    if template.kind == "keep_prompt":
        return kept
    variables = _variables(inputs, messages, [*template.examples, *examples])
    new = _message("system", template.system or "", variables, strategy, request_id)
    place = next((index for index, message in enumerate(kept) if message.get("role") in SYSTEM_ROLES), None)
    if place is None:
        return [new, *kept]
    kept[place] = {**new, "role": kept[place]["role"]}
    return kept


def check_template(template: Template, where: str) -> None:
    """Raise ConfigError with the line where a template is not valid Jinja, or uses what the sandbox leaves out."""
    for part in (template.system, template.prompt):
        if part is not None:
            try:
                _compiled(part)
            except TemplateSyntaxError as error:
                raise ConfigError(
                    f"{where}: the template is not usable, line {error.lineno}: {error.message}."
                ) from None


def uses_examples(template: Template) -> bool:
    """True where the template says itself how examples are shown."""
    parts = [part for part in (template.system, template.prompt) if part is not None]
    return any("examples" in meta.find_undeclared_variables(_ENVIRONMENT.parse(part)) for part in parts)


@lru_cache(maxsize=4096)
def _compiled(source: str) -> Callable[[Mapping[str, Any]], str]:
    return compile_template(_ENVIRONMENT, source)


def _variables(inputs: Mapping[str, Any], messages: Any, examples: list[Any]) -> dict[str, Any]:
    reserved = {"inputs": inputs, "examples": examples}
    return {**inputs, **({"messages": messages} if messages else {}), **reserved}


def _message(
    role: str, source: str, variables: Mapping[str, Any], strategy: Strategy, request_id: str
) -> dict[str, Any]:
    try:
        return {"role": role, "content": _compiled(source)(variables)}
    except TemplateSyntaxError as error:
        reason = f"it is not valid Jinja, line {error.lineno}: {error.message}"
    except UndefinedError as error:
        raise TemplateError(_absent(error, variables, strategy, request_id)) from None
    except RecursionError:
        reason = "it nests too deeply"
    except Exception as error:
        # Whatever a template does wrong is the outcome of this cell, never the end of a run.
        reason = str(error) or type(error).__name__
    raise TemplateError(_unrendered(strategy, request_id, reason))


def _absent(error: UndefinedError, variables: Mapping[str, Any], strategy: Strategy, request_id: str) -> str:
    name = getattr(error, "name", None) or str(error.message).removesuffix(" is undefined").strip("'")
    if not name.isidentifier():
        return _unrendered(strategy, request_id, str(error.message))
    present = ", ".join(list(variables["inputs"])[:20]) or "nothing"
    return (
        f"Strategy '{strategy.name}' needs the variable '{name}', absent from request {request_id}. "
        f"Present: {present}. Add a default or leave the request out."
    )


def _unrendered(strategy: Strategy, request_id: str, reason: str) -> str:
    return f"Strategy '{strategy.name}' cannot be rendered for request {request_id}: {reason[:300].rstrip('.')}."
