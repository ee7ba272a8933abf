"""The schema of qbawa.yaml, the one file a user edits. `qbawa.config_file` reads it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Format = Literal[
    "trl_preference",
    "trl_preference_conversational",
    "trl_unpaired",
    "trl_unpaired_conversational",
    "trl_sft",
    "openai_dpo",
    "openai_sft",
    "axolotl_dpo",
    "llama_factory",
    "dspy",
    "llmonpy",
]
TournamentFormat = Literal[
    "auto",
    "round_robin",
    "single_elimination",
    "double_elimination",
    "swiss",
    "successive_halving",
    "information_gain",
]


ScheduleName = Literal["nightly_replay", "replay_new_requests", "replay_new_strategies", "lake_maintenance"]
OFFLINE_MODELS = (
    "offline/lead",
    "offline/lead-2",
    "offline/last",
    "offline/keyword",
    "offline/sumbasic",
    "offline/luhn",
    "offline/centroid",
    "offline/textrank",
    "offline/compress",
    "offline/fuse",
    "offline/sampler",
    "offline/chatty",
    "offline/verbose",
    "offline/title",
    "offline/triage-careful",
    "offline/triage-keywords",
    "offline/triage-first-match",
    "offline/triage-sloppy",
    "offline/triage-null",
    "offline/judge",
    "offline/judge-strict",
    "offline/judge-hasty",
)
"""Models that need neither key nor network; `qbawa.engine.offline_models` are they."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LakeConfig(_Section):
    uri: str | None = None
    """Folder or `s3://…` prefix of the lake; default: `lake/` in the home."""
    storage_options: dict[str, str] = {}
    """Passed to the object store's client. `$NAME` is taken from the environment, so that no secret stands here."""


class ModelConfig(_Section):
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    max_in_flight: int = Field(2000, gt=0)
    timeout_s: float = Field(120.0, gt=0)
    """Of one attempt, from sending to the last byte."""
    max_attempts: int = Field(6, ge=1)
    """Attempts at a call whose errors are transient."""
    base_url: str | None = None
    """Of an OpenAI-compatible server, `…/v1`; default: whatever litellm knows for the model."""
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the key; default: the provider's usual one."""
    litellm_model: str | None = None
    """Name by which litellm knows the model, where it differs from the name used here."""
    input_usd_per_million: float | None = Field(None, ge=0)
    output_usd_per_million: float | None = Field(None, ge=0)
    """Prices; default: litellm's table. A model with neither is refused unless `free`."""
    free: bool = False
    """True for a server of one's own: its calls cost nothing."""
    max_output_tokens: int | None = Field(None, gt=0)
    """The most that the model writes in one answer, reasoning included; what hard caps set aside for calls that set no
    `max_tokens`."""
    family: str | None = None
    """Judges are checked for favouring answers of their own family; default: the provider's name."""
    extra: dict[str, Any] = {}
    """Further fields of the request's body."""


class ProgramConfig(_Section):
    kind: Literal["single", "best_of_n", "mixture_of_agents", "refine"] = "single"
    n: int = Field(3, ge=1)
    """best_of_n: answers to choose from. refine: rounds at most."""
    pick: Literal["consistency", "judge"] = "consistency"
    judge: str | None = None
    proposers: tuple[str, ...] = ()
    """mixture_of_agents: models that propose; the strategy's own model aggregates."""
    layers: int = Field(1, ge=1)
    examples: int = Field(3, ge=1)
    """refine: how many of the best answers so far become examples."""


class StrategyConfig(_Section):
    """One entry of `strategies`: the product of its prompts, models and parameters."""

    step: str
    name: str | None = None
    prompts: dict[str, str] = {}
    """Name → Jinja template of the one user message, or `system: …` through `system`."""
    prompt: str | None = None
    """Short for one prompt named as the strategy."""
    system: str | None = None
    """System message before the prompt (Jinja too)."""
    replace_system: str | None = None
    """Instead of a prompt: keep the recorded messages and replace only their system message."""
    keep_prompt: bool = False
    """Instead of a prompt: keep the recorded messages and change only model and parameters."""
    file: str | None = None
    """Instead of a prompt: a file, relative to qbawa.yaml, that holds the template."""
    models: tuple[str, ...] = ()
    model: str | None = None
    params: dict[str, Any] = {}
    """Model parameters; a list value is a grid axis, except for `stop`."""
    program: ProgramConfig = ProgramConfig()
    examples: tuple[dict[str, Any], ...] = ()
    """Few-shot examples, given to the template as `examples`."""


class JudgeConfig(_Section):
    model: str
    kind: Literal["pairwise", "pointwise", "listwise"] = "pairwise"
    rubric: str = "Which answer serves the person who asked better? Consider correctness, completeness and form."
    """What better means, in the judge's prompt (Jinja over the step's recorded inputs)."""
    params: dict[str, Any] = {}
    order: Literal["random", "both"] = "random"
    """random: one order, drawn from the content of the match. both: two verdicts a match."""
    logprobs: bool = False
    """Take a soft preference from log-probabilities, where the provider gives them."""


class StepConfig(_Section):
    jury: tuple[str, ...] = ()
    """Names of judges; default: all."""
    rubric: str | None = None
    """Replaces the judges' own rubric for this step."""


class ReplaySetConfig(_Section):
    size: int = Field(100, ge=1)
    """Requests a step."""
    pin: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    error_share: float = Field(0.1, ge=0, le=1)
    feedback_share: float = Field(0.1, ge=0, le=1)
    rare_tag_share: float = Field(0.1, ge=0, le=1)
    turnover: float = Field(0.0, ge=0, le=1)
    """Share of the set that may pass, within 30 days, to requests that cover the traffic better by now."""
    seed: int = 0


class TournamentConfig(_Section):
    format: TournamentFormat = "auto"
    goal: Literal["best", "top_k", "order", "pairs"] = "best"
    k: int = Field(5, ge=1)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    verdict_budget: int = Field(20_000, ge=0)
    """Verdicts a step at most."""
    seed: int = 0
    length_effect: bool = False
    """Rate with the answers' length as a covariate, so that nobody wins by being long."""
    gate: float = Field(0.75, ge=0, le=1)
    """A step leaves `bootstrap` once the lower bound of judge–human agreement reaches this."""
    audit_share: float = Field(0.02, ge=0, le=1)
    """Share of matches that people are asked about afterwards."""


class BudgetConfig(_Section):
    usd_per_run: float | None = Field(None, ge=0)
    usd_per_day: float | None = Field(None, ge=0)
    usd_per_step: float | None = Field(None, ge=0)
    """Caps; new calls stop where one would be exceeded. No cap where absent."""
    caps: Literal["soft", "hard"] = "soft"
    """soft: a call's probable cost is set aside before it is sent, so calls in flight may pass a cap by what they cost
    beyond it. hard: the largest possible cost is set aside, so that the provider can never bill more than a cap."""
    nightly_usd: float = Field(5.0, ge=0)
    """Cap of one run that a schedule starts: `nightly_replay`, `replay_new_requests`, `replay_new_strategies`."""


class PairsConfig(_Section):
    policy: Literal["best_vs_all", "adjacent", "hardest", "all"] = "all"
    p_best: float = Field(0.6, ge=0.5, le=1)
    """Floor of what is kept as a pair at all; a dataset sets its own, higher one."""
    inferred: bool = True
    """Also pairs that never met, from the combined posterior."""
    max_per_request: int = Field(50, ge=1)
    keep_refusals: bool = False
    """Keep pairs of a refusal against an answer."""
    splits: dict[Literal["train", "validation", "test"], Annotated[float, Field(ge=0)]] = {
        "train": 0.8,
        "validation": 0.1,
        "test": 0.1,
    }
    """Shares of the questions, 1 in sum."""
    seed: int = 0

    @model_validator(mode="after")
    def _splits_sum_to_one(self) -> "PairsConfig":
        if abs(sum(self.splits.values()) - 1) > 1e-9:
            raise ValueError(f"splits must sum to 1, they sum to {sum(self.splits.values()):g}")
        return self


class DatasetConfig(_Section):
    steps: tuple[str, ...] = ()
    """Default: all."""
    where: str | None = None
    """SQL condition over the columns of the view `qbawa`."""
    p_best: float = Field(0.9, ge=0.5, le=1)
    policy: Literal["best_vs_all", "adjacent", "hardest", "all"] = "all"
    max_per_request: int | None = Field(None, ge=1)
    format: Format = "trl_preference"
    size: int | None = Field(None, ge=1)
    balance_length: bool = False
    """Drop pairs until the longer answer is the best one as often as not."""
    consent: bool = False
    """Only requests whose tags say `consent: true`."""
    redact: tuple[Literal["email", "phone", "key", "name"], ...] = ()
    license: str | None = None
    description: str = ""
    seed: int = 0
    keep: int | None = Field(None, ge=1)
    """Versions whose files stay; older ones go unless something points to them. Default: all, since nobody here can know
    which version was trained on elsewhere, and what is deleted cannot be written again once pairs have moved on."""


class ChampionConfig(_Section):
    p_better: float = Field(0.95, gt=0.5, lt=1)
    """How sure one must be before a champion is replaced."""
    max_cost_ratio: float | None = Field(None, gt=0)
    """A challenger may cost this many times as much as the champion, at most."""


class RetentionConfig(_Section):
    """How long what nobody needs any more is kept; the job `maintain_lake` sees to it every night."""

    runs_days: float | None = Field(30, gt=0)
    """Runs in the UI with their events. What each partition holds, and since when, stays. null: for ever."""
    logs_days: float | None = Field(14, gt=0)
    """What runs printed. null: for ever."""
    journals: Literal["keep", "archive", "delete"] = "archive"
    """Segments that the lake holds: put aside in `ingested/` of their journal as they are, packed there, or deleted."""
    journals_days: float = Field(30, ge=0)
    """How old a segment must be for that."""


class FailureHookConfig(_Section):
    """Who is told of a run that failed."""

    webhook: str | None = Field(None, pattern=r"^(https?://|\$[A-Za-z_][A-Za-z0-9_]*$)")
    """Address that gets the run as JSON by POST. `$NAME` is taken from the environment: such addresses are secrets."""
    command: tuple[str, ...] = ()
    """Program and arguments, started without a shell in the home; the same JSON comes on its standard input."""


class DagsterConfig(_Section):
    """What the Dagster UI shows beside the assets; read when the code location is loaded."""

    owners: tuple[Annotated[str, Field(pattern=r"^(team:[A-Za-z0-9_-]+|[^@\s]+@[^@\s]+\.[^@\s]+)$")], ...] = ()
    """Of all assets: mail addresses or `team:NAME`."""
    tags: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,63}$")], Annotated[str, Field(max_length=63)]] = {}
    """Of all assets."""
    fresh_days: float | None = Field(7, gt=0)
    """An asset that was not made for so long shows as overdue. null: never."""
    schedules: dict[ScheduleName, Annotated[str, Field(pattern=r"^\s*(\S+\s+){4}\S+\s*$")]] = {}
    """When they tick, as in crontab(5), UTC; default: at night."""
    on_failure: FailureHookConfig = FailureHookConfig()


class Config(_Section):
    lake: LakeConfig = LakeConfig()
    journals: tuple[str, ...] = ()
    """Further folders of recordings, besides `journal/` in the home."""
    models: dict[str, ModelConfig] = {}
    steps: dict[str, StepConfig] = {}
    replay_set: ReplaySetConfig = ReplaySetConfig()
    strategies: tuple[StrategyConfig, ...] = ()
    strategy_files: tuple[str, ...] = ()
    """Further YAML files that hold a list of strategies, relative to qbawa.yaml; globs."""
    judges: dict[str, JudgeConfig] = {}
    tournament: TournamentConfig = TournamentConfig()
    budget: BudgetConfig = BudgetConfig()
    pairs: PairsConfig = PairsConfig()
    datasets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")], DatasetConfig] = {}
    """By name, which is that of the folder under `exports/` too."""
    champions: ChampionConfig = ChampionConfig()
    retention: RetentionConfig = RetentionConfig()
    dagster: DagsterConfig = DagsterConfig()

    @model_validator(mode="after")
    def _names_exist(self) -> "Config":
        for name, judge in self.judges.items():
            self._known_model(judge.model, f"judges.{name}.model")
        for index, strategy in enumerate(self.strategies):
            for model in (*strategy.models, *([strategy.model] if strategy.model else []), *strategy.program.proposers):
                self._known_model(model, f"strategies[{index}].models")
        for name, step in self.steps.items():
            for judge_name in step.jury:
                if judge_name not in self.judges:
                    raise ValueError(
                        f"steps.{name}.jury names the judge '{judge_name}'. Judges: {', '.join(self.judges) or 'none'}"
                    )
        return self

    def _known_model(self, model: str, where: str) -> None:
        problem = self.model_problem(model)
        if problem is not None:
            raise ValueError(f"{where}: {problem}")

    def model_problem(self, name: str) -> str | None:
        """Why there is no model of this name to call, None where there is one."""
        if name in self.models:
            return None
        if name.startswith("offline/"):
            known = ", ".join(OFFLINE_MODELS)
            return None if name in OFFLINE_MODELS else f"there is no offline model '{name}'. Offline models: {known}"
        return f"'{name}' stands neither under `models` nor among offline/…. Models: {', '.join(self.models) or 'none'}"

    def jury(self, step: str) -> dict[str, JudgeConfig]:
        """The judges of a step by name, with the step's own rubric where it has one."""
        settings = self.steps.get(step, StepConfig())
        chosen = {name: self.judges[name] for name in settings.jury or self.judges}
        if settings.rubric is None:
            return chosen
        return {name: judge.model_copy(update={"rubric": settings.rubric}) for name, judge in chosen.items()}

    def model(self, name: str) -> ModelConfig:
        """Settings of a model; offline models need none."""
        return self.models.get(name) or ModelConfig(free=name.startswith("offline/"))

    def family(self, model: str) -> str:
        """The model's family: as configured, else its provider (`openai/…`), else the first word of its name."""
        return self.model(model).family or (model.split("/", 1)[0] if "/" in model else model.split("-", 1)[0])
