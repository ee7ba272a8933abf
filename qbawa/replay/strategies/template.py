"""From a strategy and a recorded question to the messages that go to the model."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateSyntaxError, meta
from jinja2.exceptions import UndefinedError

from qbawa.engine.prompting.escape import escaped_json
from qbawa.engine.prompting.sandbox import compile_template, sandbox
from qbawa.errors import ConfigError, TemplateError
from qbawa.replay.strategies.strategy import Strategy, Template
from qbawa.text import shorten

Messages = list[dict[str, Any]]
EXAMPLES = "Examples of the task below, each a JSON value:"
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
    # An example made of this very request would hand the strategy its own question's answer.
    shown = [example for example in (*template.examples, *examples) if example.get("request_id") != request_id]
    variables = {**inputs, **({"messages": messages} if messages else {}), "inputs": inputs, "examples": shown}
    made = _messages(strategy, variables, messages, request_id)
    return with_material(made, EXAMPLES, "", shown) if shown and not uses_examples(template) else made


def _messages(
    strategy: Strategy, variables: Mapping[str, Any], messages: Sequence[Mapping[str, Any]] | None, request_id: str
) -> Messages:
    template = strategy.template

    def message(role: str, source: str) -> dict[str, Any]:
        return {"role": role, "content": _text(source, variables, strategy, request_id)}

    if template.kind == "prompt":
        system = [] if template.system is None else [message("system", template.system)]
        return [*system, message("user", template.prompt or "")]
    if not messages:
        raise TemplateError(
            f"Strategy '{strategy.name}' reuses the recorded messages, absent from request {request_id}: its step "
            f"'{strategy.step}' made no single model call. Give the strategy a prompt or leave the request out."
        )
    kept = [dict(one) for one in messages]
    if template.kind == "keep_prompt":
        return kept
    place = next((index for index, one in enumerate(kept) if one.get("role") in SYSTEM_ROLES), None)
    if place is None:
        return [message("system", template.system or ""), *kept]
    kept[place] = message(kept[place]["role"], template.system or "")
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
    return any(_mentions_examples(part) for part in (template.system, template.prompt) if part is not None)


def with_material(messages: Messages, before: str, after: str, values: Sequence[Any]) -> Messages:
    """The messages with numbered values in front of the last user message, and a last word behind it.

    Values are escaped JSON, one a line, so nothing in them can pass for the prompt's own text.
    """
    lines = "\n".join(f"{number}. {escaped_json(value)}" for number, value in enumerate(values, start=1))
    place = max((index for index, message in enumerate(messages) if message.get("role") == "user"), default=None)
    first, last = f"{before}\n{lines}\n\n", f"\n\n{after}" if after else ""
    if place is None:
        return [*messages, {"role": "user", "content": (first + last).strip()}]
    content = messages[place].get("content")
    if isinstance(content, list):
        joined: Any = [{"type": "text", "text": first.strip()}, *content]
        joined += [{"type": "text", "text": last.strip()}] if after else []
    else:
        joined = f"{first}{content or ''}{last}"
    return [*messages[:place], {**messages[place], "content": joined}, *messages[place + 1 :]]


@lru_cache(maxsize=4096)
def _mentions_examples(source: str) -> bool:
    return "examples" in source and "examples" in meta.find_undeclared_variables(_ENVIRONMENT.parse(source))


@lru_cache(maxsize=4096)
def _compiled(source: str) -> Callable[[Mapping[str, Any]], str]:
    return compile_template(_ENVIRONMENT, source)


def _text(source: str, variables: Mapping[str, Any], strategy: Strategy, request_id: str) -> str:
    try:
        return _compiled(source)(variables)
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
    present = shorten(", ".join(list(variables["inputs"])[:20]) or "nothing", 600)
    return (
        f"Strategy '{strategy.name}' needs the variable '{shorten(name, 100)}', absent from request {request_id}. "
        f"Present: {present}. Add a default or leave the request out."
    )


def _unrendered(strategy: Strategy, request_id: str, reason: str) -> str:
    return f"Strategy '{strategy.name}' cannot be rendered for request {request_id}: {reason[:300].rstrip('.')}."
