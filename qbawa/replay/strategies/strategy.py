"""A strategy: one way to answer one step. Frozen, content-addressed, complete: it needs no configuration to be run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from qbawa.ids import RECORDED, canonical_params, recorded_id, strategy_id

TemplateKind = Literal["prompt", "replace_system", "keep_prompt", "recorded"]
Origin = Literal["recorded", "config", "import", "few_shot", "optimized", "fine_tuned"]
SINGLE: Mapping[str, Any] = {"kind": "single"}


@dataclass(frozen=True, slots=True)
class Template:
    """How the messages come about. `prompt` and `system` are Jinja templates over the step's recorded inputs."""

    kind: TemplateKind
    prompt: str | None = None
    """The user message; of the kind `prompt` alone."""
    system: str | None = None
    """The system message before the prompt; of the kind `replace_system`, the one that replaces the recorded one."""
    examples: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """Few-shot examples: `examples` in the template."""

    def content(self) -> dict[str, Any]:
        """What the template is, as JSON; absent parts left out."""
        parts = {
            "kind": self.kind,
            "prompt": self.prompt,
            "system": self.system,
            "examples": list(self.examples) or None,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def text(self) -> str:
        """What it says, for people: system message and prompt; for the other kinds, what they do with what was recorded."""
        said = {
            "prompt": "",
            "replace_system": "the recorded messages under another system message",
            "keep_prompt": "the recorded messages as they are",
            "recorded": "what production answered",
        }[self.kind]
        return "\n\n".join(part for part in (said, self.system, self.prompt) if part)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Template":
        """The template that `content()` described."""
        examples = tuple(content.get("examples") or ())
        return cls(content["kind"], content.get("prompt"), content.get("system"), examples)


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to answer `step`. Make one with `make_strategy`, which knows the id."""

    strategy_id: str
    name: str
    step: str
    model: str | None
    """None for `recorded` alone, whose answers production gave."""
    template: Template
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Parameters of the model call, over those that were recorded; null takes a recorded one away."""
    program: Mapping[str, Any] = field(default_factory=lambda: SINGLE, hash=False)
    """How it spends calls: `kind` and what that kind needs, the judge's model and rubric included."""
    origin: Origin = "config"
    parent_strategy_id: str | None = None

    @property
    def is_recorded(self) -> bool:
        """True for production's own answers, which are never replayed."""
        return self.template.kind == "recorded"


def make_strategy(
    *,
    name: str,
    step: str,
    model: str,
    template: Template,
    params: Mapping[str, Any] | None = None,
    program: Mapping[str, Any] = SINGLE,
    origin: Origin = "config",
    parent_strategy_id: str | None = None,
) -> Strategy:
    """The strategy with the id of its content."""
    clean = canonical_params(params or {})
    identity = strategy_id(step=step, template=template.content(), model=model, params=clean, program=dict(program))
    return Strategy(identity, name, step, model, template, clean, dict(program), origin, parent_strategy_id)


def recorded_strategy(step: str) -> Strategy:
    """Production's own way to answer a step: past answers compete too, and nothing is paid for them."""
    return Strategy(recorded_id(step), RECORDED, step, None, Template("recorded"), origin="recorded")


def with_examples(
    strategy: Strategy, examples: tuple[Mapping[str, Any], ...], name: str, origin: Origin = "few_shot"
) -> Strategy:
    """The strategy that differs from this one by its examples alone: its child, with an id of its own."""
    return make_strategy(
        name=name,
        step=strategy.step,
        model=strategy.model or "",
        template=replace(strategy.template, examples=examples),
        params=strategy.params,
        program=strategy.program,
        origin=origin,
        parent_strategy_id=strategy.strategy_id,
    )
