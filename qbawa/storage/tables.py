"""Every table of the lake and every column, described once.

The descriptions become comments in the catalog and column schemas in Dagster. A table's `key` names one row inside
its block; `block_id` is the unit of replacement (docs/lake.md).
"""

from dataclasses import dataclass
from typing import Literal

from qbawa.errors import InputError

ColumnType = Literal["text", "int", "float", "bool", "time", "texts", "bytes"]


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: ColumnType
    description: str
    is_path: bool = False
    """Relative to the home, which may be moved."""


@dataclass(frozen=True, slots=True)
class Table:
    """One Delta table, which is also one view of the catalog. `block` says what a block is."""

    name: str
    rows: str
    block: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]


def _columns(*rows: tuple[str, ColumnType, str] | tuple[str, ColumnType, str, bool]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


RECORDINGS = Table(
    "recordings",
    "one row per step execution",
    "recording batch",
    ("recording_id",),
    _columns(
        ("request_id", "text", "The call of the pipeline that this step was part of."),
        ("recording_id", "text", "This execution of the step."),
        ("parent_id", "text", "recording_id of the step that called this one; null at the top."),
        ("pipeline", "text", "Name given to qbawa.configure."),
        ("step", "text", "Name of the step."),
        ("inputs", "text", "JSON object of the step's arguments."),
        ("messages", "text", "JSON list of chat messages, where the step made exactly one model call."),
        ("output", "text", "What the step returned: plain text as it is, anything else as JSON."),
        ("model", "text", "Model of the step's one call; null where it made none or several."),
        (
            "parameters",
            "text",
            "JSON object of the call's parameters, tools among them, under the names of chat completions.",
        ),
        (
            "api",
            "text",
            "API that the call was made by: openai.chat, openai.responses, anthropic.messages, google.generate_content; "
            "null where not known.",
        ),
        (
            "request",
            "text",
            "JSON of the request as it was sent, where that was not a chat completion; replay on the same API sends it again.",
        ),
        ("reasoning", "text", "What the model thought before it answered, where the provider says so."),
        ("strategy_id", "text", "Strategy that produced the output; the id of `recorded` unless production named one."),
        ("input_tokens", "int", "Tokens the provider counted in the prompt."),
        ("output_tokens", "int", "Tokens the provider counted in the answer."),
        ("cost_usd", "float", "What the call cost, in USD."),
        ("latency_s", "float", "Duration of the step in seconds."),
        ("error", "text", "JSON object {type, message, traceback} where the step raised; null otherwise."),
        ("tags", "text", "JSON object of the request's tags."),
        ("user", "text", "Who made the request, as the application named them."),
        ("source", "text", "Where the row came from: the segment or file, and the format."),
        ("recorded_at", "time", "When the step started, UTC."),
    ),
)

FEEDBACK = Table(
    "feedback",
    "one row per opinion of a user on a request",
    "recording batch",
    ("request_id", "given_at"),
    _columns(
        ("request_id", "text", "The request that the opinion is about."),
        ("score", "float", "As the application gave it; 1 is good, 0 or less is bad."),
        ("comment", "text", "Free text."),
        ("given_at", "time", "When it was given, UTC."),
    ),
)

QUARANTINE = Table(
    "quarantine",
    "one row per line that could not be read",
    "recording batch",
    ("file", "line"),
    _columns(
        ("file", "text", "Segment or file that held the line."),
        ("line", "int", "Line number in it, from 1."),
        ("reason", "text", "Why it was refused."),
        ("raw", "text", "The line itself, cut after 64 KiB; bytes that are not UTF-8 as \\xNN."),
        ("seen_at", "time", "When it was read, UTC."),
    ),
)

QUESTION_CLUSTERS = Table(
    "question_clusters",
    "one row per step and request that asked it something",
    "recording batch",
    ("step", "request_id"),
    _columns(
        ("step", "text", "The step."),
        ("request_id", "text", "The request."),
        ("request_key", "int", "Hash of it, by which it is found without reading names."),
        ("recording_id", "text", "Its first execution of the step."),
        ("recorded_at", "time", "When that started, UTC."),
        ("failed", "bool", "Whether it raised."),
        ("tags", "text", "JSON object of the request's tags."),
        ("cluster", "int", "Group of near-duplicate questions; `q_` and this number in hex names it in `replay_set`."),
        ("joins", "text", "JSON list of other clusters that turned out to be one with it when this question came."),
        ("template", "text", "With which template of `question_templates` the signature was made."),
        ("signature", "bytes", "What the question is compared by: one byte of each of 125 MinHash values."),
    ),
)

QUESTION_TEMPLATES = Table(
    "question_templates",
    "one row per step that can be replayed",
    "step",
    ("step",),
    _columns(
        ("step", "text", "The step."),
        ("template", "text", "Hash of step and triples."),
        ("triples", "bytes", "Word triples, as 32-bit hashes, that a fifth of all questions have: they do not count."),
        ("recordings", "int", "How many recordings the step had when that was last looked at."),
    ),
)

REPLAY_SET = Table(
    "replay_set",
    "one row per request chosen for a step",
    "step",
    ("request_id",),
    _columns(
        ("step", "text", "The step to replay."),
        ("request_id", "text", "The chosen request."),
        ("recording_id", "text", "The recording whose inputs are replayed."),
        ("reason", "text", "Why it was chosen: pinned, kept, error, feedback, tag or coverage."),
        ("cluster", "text", "The group of near-duplicate questions that it stands for; splits go by it."),
        ("cluster_size", "int", "How many recorded requests that group holds."),
        ("chosen_at", "time", "When it first entered the set, UTC."),
    ),
)

STRATEGIES = Table(
    "strategies",
    "one row per strategy version",
    "step",
    ("strategy_id",),
    _columns(
        (
            "strategy_id",
            "text",
            "Hash of everything that decides the answer: step, template, model, parameters, program.",
        ),
        ("name", "text", "Readable name; a later version may carry it too."),
        ("step", "text", "The step that it answers."),
        ("model", "text", "Model that it calls."),
        ("template", "text", "JSON of the prompt template."),
        ("params", "text", "JSON object of model parameters."),
        ("program", "text", "JSON of how it spends calls: single, best_of_n, mixture_of_agents, refine."),
        ("origin", "text", "Where it comes from: recorded, config, import, few_shot, optimized, fine_tuned."),
        ("parent_strategy_id", "text", "The strategy that it was made from, if any."),
        ("active", "bool", "False once it has left the configuration; its answers stay."),
        ("created_at", "time", "When it was first seen, UTC."),
    ),
)

CALLS = Table(
    "calls",
    "one row per paid call",
    "journal segment",
    ("call_key", "called_at"),
    _columns(
        ("call_key", "text", "Hash of model, messages, parameters and sample number."),
        ("purpose", "text", "replay, judge or optimize."),
        ("model", "text", "Model that was called."),
        ("request_id", "text", "The request that it was made for first; others may share the answer."),
        ("strategy_id", "text", "The strategy that asked first."),
        ("judge", "text", "The judge that asked, where the purpose is judge."),
        ("step", "text", "The step whose budget paid."),
        ("sample", "int", "Which of several answers to the same prompt."),
        ("messages", "text", "JSON list of the chat messages sent."),
        ("params", "text", "JSON object of the parameters sent."),
        ("response_text", "text", "The answer as it came."),
        ("logprobs", "text", "JSON of token log-probabilities, where asked for."),
        ("input_tokens", "int", "Tokens in the prompt, as the provider counted them."),
        ("output_tokens", "int", "Tokens in the answer, as the provider counted them."),
        (
            "cost_usd",
            "float",
            "What the counted tokens cost, in USD, failed attempts included; null where nobody counted.",
        ),
        (
            "charged_usd",
            "float",
            "What counts under the caps: cost_usd, and for attempts that may have been billed uncounted the most they can cost.",
        ),
        ("latency_s", "float", "Seconds from sending to the last byte, of the attempt that succeeded."),
        ("attempts", "int", "HTTP attempts, the successful one included."),
        (
            "error",
            "text",
            "Final reason, where the call failed for good. It may be made again; refusals only if asked for.",
        ),
        ("run_id", "text", "The run that paid."),
        ("called_at", "time", "When the answer was journalled, UTC."),
    ),
)

REPLAY_MATRIX = Table(
    "replay_matrix",
    "one row per answer in a cell",
    "request",
    ("cell_id", "sample"),
    _columns(
        ("cell_id", "text", "Hash of request, step and strategy."),
        ("request_id", "text", "The request that was replayed."),
        ("step", "text", "The step that was replayed."),
        ("strategy_id", "text", "The strategy that answered."),
        ("sample", "int", "Which of the cell's answers, from 0; only programs that keep several have more than one."),
        ("answer", "text", "The answer; null where the cell failed."),
        ("status", "text", "ok or failed."),
        ("error", "text", "Why the cell failed: `reason: message`."),
        ("input_tokens", "int", "Prompt tokens of all calls of the cell."),
        ("output_tokens", "int", "Answer tokens of all calls of the cell."),
        (
            "cost_usd",
            "float",
            "Price of all calls of the cell, paid now or found in the ledger; null where it is unknown.",
        ),
        ("latency_s", "float", "Seconds that the cell's calls took one after the other."),
        ("call_keys", "texts", "The calls that the answer was made of."),
        ("run_id", "text", "The run that wrote the row."),
        ("code_version", "text", "Version of qbawa that wrote it."),
        ("answered_at", "time", "When, UTC."),
    ),
)

MATCHES = Table(
    "matches",
    "one row per match",
    "request",
    ("match_id",),
    _columns(
        ("match_id", "text", "Hash of request, step and the two strategies."),
        ("request_id", "text", "The request whose answers met."),
        ("step", "text", "The step."),
        ("round", "int", "Round of the tournament in which it was first asked, from 0; null for imported matches."),
        ("slot", "int", "Place within the round, from 0; null for imported matches."),
        ("strategy_a", "text", "First strategy."),
        ("strategy_b", "text", "Second strategy."),
        ("cell_a", "text", "Cell of a."),
        ("cell_b", "text", "Cell of b."),
        ("winner", "text", "a, b or tie; null where no verdict could be scored."),
        ("p_a", "float", "Probability that a is the better answer, 0 to 1; null where unscored."),
        ("verdicts", "int", "Verdicts that count and were scored; without those in `unscored`."),
        ("unscored", "int", "Verdicts that count and could not be read, besides those in `verdicts`."),
        ("dissent", "float", "Share of scored verdicts against the winner, 0 to 1; null where the match is a tie."),
        ("origin", "text", "tournament, identical (equal answers, nothing judged) or imported."),
        ("cost_usd", "float", "What its verdicts cost, in USD."),
        ("decided_at", "time", "When, UTC."),
    ),
)

VERDICTS = Table(
    "verdicts",
    "one row per judge and order",
    "request",
    ("verdict_id",),
    _columns(
        ("verdict_id", "text", "Hash of match, judge and order."),
        ("match_id", "text", "The match."),
        ("request_id", "text", "The match's request."),
        ("step", "text", "The match's step."),
        ("judge", "text", "Name of the judge."),
        ("judge_kind", "text", "llm, human or imported."),
        ("round", "int", "Round of the tournament that asked for it, from 0; null where none did."),
        ("shown_first", "text", "Which answer the judge saw first: a or b; null where not known."),
        ("verdict", "text", "a, b, tie or unscored."),
        ("preference", "float", "0 to 1 towards a; null where unscored."),
        ("rationale", "text", "The judge's reason, in its own words."),
        ("raw", "text", "What the judge said, as it came."),
        ("call_key", "text", "The paid call behind the verdict; null for people and imports."),
        ("cost_usd", "float", "What the verdict cost, in USD."),
        ("judged_at", "time", "When, UTC."),
    ),
)

RATINGS = Table(
    "ratings",
    "one row per step and strategy",
    "step",
    ("strategy_id",),
    _columns(
        ("step", "text", "The step."),
        ("strategy_id", "text", "The strategy."),
        ("strength", "float", "Bradley–Terry log-strength, mean 0 over the step's strategies."),
        ("low", "float", "Lower end of its 95 % interval, clustered by request."),
        ("high", "float", "Upper end of it."),
        ("win_rate", "float", "Expected win rate against the other strategies of its group of met strategies, 0 to 1."),
        ("matches", "int", "Scored matches that it played."),
        ("mean_cost_usd", "float", "Mean price of its answers, USD a cell."),
        ("mean_latency_s", "float", "Mean duration of its answers, seconds a cell."),
        ("rank", "int", "Rank by strength, 1 is best."),
        ("rank_low", "int", "Best rank that the intervals admit."),
        ("rank_high", "int", "Worst rank that they admit."),
        ("separable_group", "int", "Strategies of one group are not yet separable; 1 is best."),
        ("component", "int", "Strategies of different components never met, even indirectly; 0 where all have."),
    ),
)

JUDGE_RELIABILITY = Table(
    "judge_reliability",
    "one row per step and judge",
    "step",
    ("judge",),
    _columns(
        ("step", "text", "The step."),
        ("judge", "text", "The judge."),
        ("verdicts", "int", "Verdicts that it gave, unscored ones included."),
        ("unscored", "int", "Verdicts that could not be read."),
        (
            "agreement_human",
            "float",
            "Share of matches judged by people too on which it agrees with them; ties left out.",
        ),
        ("agreement_low", "float", "Lower end of the 95 % interval of agreement_human."),
        ("agreement_high", "float", "Upper end of it."),
        ("human_human", "float", "The same between people, where several judged one match."),
        ("agreement_jury", "float", "Share of matches on which it agrees with the rest of the jury."),
        ("accuracy", "float", "Share of its decided verdicts that are right where labels (people's majority) exist."),
        ("position_bias", "float", "How much likelier the answer shown first wins than it would unbiased; 0 is none."),
        (
            "length_bias",
            "float",
            "Log-odds towards the longer answer per standard deviation of the length gap; 0 is none.",
        ),
        (
            "self_preference",
            "float",
            "How much likelier answers of its own model family win than other judges let them.",
        ),
        ("dissent", "float", "Share of its verdicts that go against the match's winner."),
        (
            "gate",
            "text",
            "bootstrap while people should judge too, automatic once agreement_low has reached the threshold.",
        ),
    ),
)

QBAWA = Table(
    "qbawa",
    "one row per pair",
    "step",
    ("pair_id",),
    _columns(
        ("pair_id", "text", "Hash of request, step and the two answers."),
        ("step", "text", "The step."),
        ("request_id", "text", "The request that asked the question."),
        ("question", "text", "JSON list of chat messages."),
        (
            "parameters",
            "text",
            "JSON object of what was asked besides the messages: tools, tool_choice, parallel_tool_calls, response_format; "
            "null where nothing was.",
        ),
        ("best_answer", "text", "The answer more likely to be better."),
        ("worse_answer", "text", "The other answer."),
        ("best_strategy", "text", "Strategy of the best answer."),
        ("worse_strategy", "text", "Strategy of the worse answer."),
        ("best_cell", "text", "Cell of the best answer."),
        ("worse_cell", "text", "Cell of the worse answer."),
        ("p_best", "float", "Calibrated probability that best really is better, ½ to 1."),
        ("margin", "float", "Gap of the two strategies' log-strengths on this request; small is a close pair."),
        ("basis", "text", "direct: this match was judged; inferred: from ratings and other matches."),
        ("judges", "texts", "Judges whose verdicts count in it."),
        ("dissent", "float", "Share of its direct verdicts that say the opposite."),
        ("cluster", "text", "Group of near-duplicate questions."),
        ("split", "text", "train, validation or test; by cluster, for good."),
        ("match_ids", "texts", "The direct match, or the matches that the inference leans on most."),
        ("built_at", "time", "When, UTC."),
    ),
)

DATASETS = Table(
    "datasets",
    "one row per exported dataset version",
    "dataset version",
    ("version",),
    _columns(
        ("dataset", "text", "Name in qbawa.yaml."),
        ("version", "text", "Hash of its content and declaration."),
        ("format", "text", "Format of the rows, as in docs/datasets.md."),
        ("path", "text", "Folder that holds it: relative to the home in the table, whole in the catalog.", True),
        ("rows", "int", "Rows of all splits."),
        ("sha256", "text", "Of the manifest, which holds that of every file."),
        ("lake_versions", "text", "JSON object: version of each table that it was made from."),
        ("pair_ids", "texts", "The pairs that it holds."),
        ("request_ids", "texts", "The requests that they come from."),
        ("created_at", "time", "When, UTC."),
        ("pruned_at", "time", "When its files were deleted, as `datasets.NAME.keep` says, UTC; null where they stay."),
    ),
)

CHAMPIONS = Table(
    "champions",
    "one row per promotion",
    "step",
    ("strategy_id", "promoted_at"),
    _columns(
        ("step", "text", "The step."),
        ("strategy_id", "text", "The new champion."),
        ("promoted_at", "time", "When, UTC."),
        ("beat_strategy_id", "text", "The champion before, or `recorded`."),
        ("p_better", "float", "Probability that it is better than the one before."),
        ("evidence", "text", "JSON: strengths, intervals, matches, cost and latency of both."),
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        RECORDINGS,
        FEEDBACK,
        QUARANTINE,
        QUESTION_CLUSTERS,
        QUESTION_TEMPLATES,
        REPLAY_SET,
        STRATEGIES,
        CALLS,
        REPLAY_MATRIX,
        MATCHES,
        VERDICTS,
        RATINGS,
        JUDGE_RELIABILITY,
        QBAWA,
        DATASETS,
        CHAMPIONS,
    )
}


def table_named(name: str) -> Table:
    """The table of this name. Raises InputError that lists the tables where there is none."""
    if name not in TABLES:
        raise InputError(f"There is no table '{name}'. Tables: {', '.join(TABLES)}.")
    return TABLES[name]
