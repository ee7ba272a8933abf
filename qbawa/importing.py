"""One file of someone else's log, brought into the lake."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import msgspec

from qbawa.errors import InputError, UnknownFileError
from qbawa.ingest.block_writer import BlockWriter, is_complete
from qbawa.ingest.formats import (
    agent_sessions,
    batch,
    chat,
    evaluations,
    inspect_logs,
    langfuse,
    langsmith,
    litellm,
    llmonpy,
    mapping,
    otlp,
    phoenix,
    preferences,
)
from qbawa.ingest.formats.contests import Contest
from qbawa.ingest.formats.csv_records import csv_records
from qbawa.ingest.formats.mapping import FileMapping
from qbawa.ingest.formats.proposal import Proposal, propose
from qbawa.ingest.formats.records import Record, file_digest, is_parquet, records
from qbawa.ingest.formats.step_names import Node, step_names
from qbawa.ingest.formats.step_rows import BadRecordError, Origin
from qbawa.ingest.journal_lines import NULL, BadLine, Feedback, Row, Span, Step, plain, read_line, text, when
from qbawa.ingest.line_reader import numbered_lines
from qbawa.ingest.model_calls import understood
from qbawa.ingest.recorded_prices import RecordedPrices
from qbawa.ingest.span_store import SpanSpool
from qbawa.ingest.tables import load_table
from qbawa.ingest.traces import put_spans, take_file
from qbawa.replay.import_answers import FIELDS as ANSWER_FIELDS
from qbawa.replay.import_answers import import_answers
from qbawa.storage.lake import Lake
from qbawa.tournaments.import_contests import ContestWriter
from qbawa.tournaments.import_verdicts import FIELDS as VERDICT_FIELDS
from qbawa.tournaments.import_verdicts import import_verdicts

BLOCK_BYTES = 16 << 20
"""Half of the journal's: a foreign record stands in memory twice, as it was and as our row."""
Reader = Callable[[dict[str, Any], Origin], Iterator[Step | Feedback | BadRecordError]]
SAMPLE = 20
"""Records by which a format is detected, and how many a dry run shows."""


class Session(Protocol):
    """Reads records in order."""

    def take(self, record: dict[str, Any], origin: Origin) -> Iterator[Step | Feedback | BadRecordError]: ...

    def end(self) -> Iterator[Step | Feedback | BadRecordError]: ...


@dataclass(frozen=True, slots=True)
class Format:
    what: str
    recognises: Callable[[dict[str, Any]], bool]
    read: Reader | None
    """None: the records are not steps (LLMonPy), are read as they stand (our journal), in order (`session`), or make steps
    together (OTLP)."""
    nodes: Callable[[dict[str, Any]], Iterable[Node]] | None = None
    """The tree that a record is part of, by which steps are named. Then a file is read twice."""
    session: Callable[[], Session] | None = None
    """For records that say nothing without those before them."""
    contests: Callable[[dict[str, Any], Origin], Iterator[Contest | BadRecordError]] | None = None
    """For records that are no steps but answers to questions, and what was said of them."""


FORMATS: dict[str, Format] = {
    "journal": Format("qbawa's own journal (docs/recording.md)", lambda r: "v" in r and "kind" in r, None),
    "nvidia": Format(
        "NVIDIA flywheel: timestamp, workload_id, client_id, request, response", chat.is_nvidia, chat.read_nvidia
    ),
    "batch": Format("output of batch APIs: custom_id, response or result", batch.is_batch, batch.read_batch),
    "litellm": Format(
        "LiteLLM: StandardLoggingPayload, the proxy's spend logs", litellm.is_litellm, litellm.read_litellm
    ),
    "inspect": Format(
        "evaluation logs of inspect_ai: .json, .eval", inspect_logs.is_inspect, inspect_logs.read_inspect
    ),
    "agent": Format(
        "session logs of coding agents: Claude Code, Codex",
        agent_sessions.is_session,
        None,
        None,
        agent_sessions.Sessions,
    ),
    "langsmith": Format(
        "LangSmith runs: of its API, its exports, clients",
        langsmith.is_langsmith,
        langsmith.read_langsmith,
        langsmith.nodes_of,
    ),
    "phoenix": Format(
        "Phoenix: spans by its API, its data frames", phoenix.is_phoenix, phoenix.read_phoenix, phoenix.nodes_of
    ),
    "preferences": Format(
        "preference pairs: chosen and rejected in all their forms, question, best_answer and worse_answer",
        preferences.is_preference,
        None,
        contests=preferences.read_preference,
    ),
    "alpaca_eval": Format(
        "AlpacaEval's annotations", preferences.is_alpaca_eval, None, contests=preferences.read_alpaca_eval
    ),
    "promptfoo": Format("promptfoo's results", evaluations.is_promptfoo, None, contests=evaluations.read_promptfoo),
    "mt_bench": Format("MT-Bench's answers", evaluations.is_mt_bench, None, contests=evaluations.read_mt_bench),
    "oasst": Format("OpenAssistant's message trees", evaluations.is_oasst, None, contests=evaluations.read_oasst),
    "sharegpt": Format("ShareGPT's conversations", mapping.is_sharegpt, mapping.read_sharegpt),
    "openai": Format("pairs of an OpenAI request and its response", chat.is_openai, chat.read_openai),
    "chat": Format("chat logs: messages and response", chat.is_chat, chat.read_chat),
    "otlp": Format("OpenTelemetry OTLP JSON: GenAI conventions, OpenInference", otlp.is_otlp, None),
    "langfuse": Format(
        "Langfuse: observations, traces, scores; downloads",
        langfuse.is_langfuse,
        langfuse.read_langfuse,
        langfuse.nodes_of,
    ),
    "llmonpy": Format("LLMonPy tournaments (TourneyResult)", llmonpy.is_llmonpy, None),
}


@dataclass
class ImportReport:
    """What a file was understood as. `examples` are the first rows, filled by a dry run."""

    file: str
    format: str
    records: int = 0
    rows: int = 0
    feedback: int = 0
    known: int = 0
    """Recordings that an earlier import had brought already."""
    quarantined: int = 0
    by_reason: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    """Questions, cells, matches, verdicts and strategies, of tournaments and contests."""
    skipped: dict[str, int] = field(default_factory=dict)
    """What was read and says nothing more, by reason."""
    changed: bool = False
    examples: list[dict[str, Any]] = field(default_factory=list)


def import_file(
    lake: Lake,
    path: str | Path,
    format: str | None = None,
    *,
    step: str | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
    prices: RecordedPrices | None = None,
    questions_only: bool = False,
    mapped: FileMapping | None = None,
) -> ImportReport:
    """Write a file's recordings, feedback and bad lines; importing the same file again changes nothing.

    `step` replaces the step that the records name; `mapped` says what is what in a file of no known format.
    `progress` is told the bytes read so far. Raises InputError where the file is absent or of no known format, and,
    unless it holds `questions_only`, where more than half of its answers would be null. Memory stays bounded but for
    single JSON objects, conversations of agents, tournaments and what was said of the answers of contests.
    """
    path = Path(path)
    digest = file_digest(path)
    format = "map" if mapped else format or detect(path)
    if format not in FORMATS and not mapped:
        raise InputError(f"There is no format '{format}'. Formats: {', '.join(FORMATS)}.")
    if format == "llmonpy":
        return _import_tournaments(lake, path, digest, step, dry_run)
    form = _mapped_format(mapped) if mapped else FORMATS[format]
    if mapped:
        mapping.check(mapped, _sample(path), str(path))
    source = f"{digest} {format} {step}" + (f" {mapped.text}" if mapped else "")
    name = f"import/file-{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if form.contests:
        return _import_contests(lake, path, name, format, form, step, dry_run, progress, strict=not questions_only)
    report = ImportReport(str(path), format)
    if not dry_run and is_complete(lake, name):
        return report
    writer = (
        None if dry_run else BlockWriter(lake, name, format, skip_known=True, block_bytes=BLOCK_BYTES, prices=prices)
    )
    steps: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    names = _names(path, form)
    answers = _Answers()
    for record, items in _read(path, format, form, step, names, progress, report):
        for item in items:
            answers.count(item, record)
            if isinstance(item, BadLine):
                reasons[item.reason] += 1
            elif isinstance(item, Step):
                report.rows += 1
                steps[item.step] += 1
                if dry_run and len(report.examples) < SAMPLE:
                    report.examples.append(_example(item))
            elif isinstance(item, Feedback):
                report.feedback += 1
            if writer:
                writer.add(path.name, record.number, record.raw, item, size=len(record.raw) // len(items))
    if not questions_only:
        try:
            answers.check(path, format)
        except InputError:
            if writer:
                writer.abandon()
            raise
    report.steps, report.by_reason = dict(steps.most_common()), dict(reasons)
    if writer:
        counts = writer.close()
        report.rows, report.feedback, report.known = counts.rows, counts.feedback, counts.known
        report.by_reason, report.changed = dict(counts.by_reason), counts.changed
    report.quarantined = sum(report.by_reason.values())
    return report


def _read(
    path: Path,
    format: str,
    form: Format,
    step: str | None,
    names: Mapping[str, str],
    progress: Callable[[int], None] | None,
    report: ImportReport,
) -> Iterator[tuple[Record, list[Row | BadLine]]]:
    """What each record says. What needs others comes last: spans, once all of their trace are there, and a session's end."""
    session = form.session() if form.session else None
    last: Record | None = None
    with closing(SpanSpool(_origin(path, b"", step))) as spool:
        for record in _lines(path) if format == "journal" else _records(path, progress):
            report.records += 1
            last = record
            if items := list(_items(record, format, form, path, step, spool, names, session)):
                yield record, items
        if session and last and (items := list(_guarded(session.end()))):
            yield last, items
        for _, number, line, item in take_file(spool):
            yield Record(number, line, {}), [item]


def _records(path: Path, progress: Callable[[int], None] | None = None) -> Iterator[Record]:
    if inspect_logs.is_zip(path):
        return inspect_logs.zipped_records(path)
    return csv_records(path) if _is_table(path) and not is_parquet(path) else records(path, progress)


def _mapped_format(mapped: FileMapping) -> Format:
    """The format that a mapping makes."""
    if mapped.kind == "recordings":
        return Format("mapped", lambda record: True, partial(mapping.read_recordings, mapped))
    return Format("mapped", lambda record: True, None, contests=partial(mapping.read_contests, mapped))


def _names(path: Path, format: Format) -> dict[str, str]:
    """Names of steps by the tree that all records of the file make together."""
    if format.nodes is None:
        return {}
    nodes: list[Node] = []
    for record in _records(path):
        if isinstance(record.value, dict):
            # What is wrong with a record shows when it is read.
            with suppress(BadRecordError, RecursionError, ValueError, TypeError, KeyError, AttributeError):
                nodes += format.nodes(record.value)
    return step_names(nodes)


class _Answers:
    """Counts answers that are null: of model calls, where a file has any, else of all steps."""

    def __init__(self) -> None:
        self._seen = {True: [0, 0], False: [0, 0]}
        self._first: dict[bool, tuple[int, list[str]]] = {}

    def count(self, item: Row | BadLine, record: Record) -> None:
        if not isinstance(item, Step) or item.error != NULL:
            return
        is_call = item.messages != NULL or item.model is not None
        self._seen[is_call][0] += 1
        if item.output == NULL:
            self._seen[is_call][1] += 1
            keys = [str(key) for key in record.value] if isinstance(record.value, dict) else []
            self._first.setdefault(is_call, (record.number, keys))

    def check(self, path: Path, format: str) -> None:
        """Raise InputError where more than half of the answers are null."""
        of_calls = self._seen[True][0] > 0
        steps, null = self._seen[of_calls]
        if format == "journal" or 2 * null <= steps:
            return
        number, keys = self._first[of_calls]
        raise InputError(
            f"{path}, read as {format}, has no answer in {null:,} of its {steps:,} {'model calls' if of_calls else 'steps'}. "
            f"The first of them, record {number}, has the keys {', '.join(keys)[:200] or 'none'}. Nothing was imported. If the "
            f"file is of another format, say --format ({', '.join(FORMATS)}); if it holds questions alone, --questions-only."
        )


def detect(path: Path) -> str:
    """The format that most of the file's first records look like. Raises InputError where none does."""
    found = detect_or_none(path)
    if found is None:
        seen = _sample(path)
        keys = f"Its first record has the keys {', '.join(seen[0])[:200]}." if seen else "It holds no JSON object."
        raise UnknownFileError(
            f"{path} is of no known format. {keys} Formats: {', '.join(FORMATS)}; name one with --format. A table of "
            "answers or verdicts needs --step."
        )
    return found


def detect_or_none(path: Path) -> str | None:
    """The format that most of the file's first records look like, if any."""
    votes = Counter(name for value in _sample(path) for name in FORMATS if FORMATS[name].recognises(value))
    # Formats are listed from the most to the least particular; of equally many votes the first wins.
    return votes.most_common(1)[0][0] if votes else None


def _sample(path: Path) -> list[dict[str, Any]]:
    """The first readable records; a log may begin with many that are not."""
    values = (record.value for record in islice(_records(path), 100 * SAMPLE))
    return list(islice((value for value in values if isinstance(value, dict)), SAMPLE))


def _lines(path: Path) -> Iterator[Record]:
    """Every line as it stands, blank ones too: what our journal holds is judged as strictly as when it is ingested."""
    for number, line in numbered_lines(path):
        yield Record(number, line, {})


def _origin(path: Path, raw: bytes, step: str | None, names: Mapping[str, str] | None = None) -> Origin:
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return Origin(hashlib.sha256(raw).hexdigest(), step, written, {} if step or names is None else names)


def _items(
    record: Record,
    format: str,
    form: Format,
    path: Path,
    step: str | None,
    spool: SpanSpool,
    names: Mapping[str, str],
    session: Session | None,
) -> Iterator[Row | BadLine]:
    """What a record says: rows, or why it is none. Its spans go to the spool."""
    if isinstance(record.value, BadLine):
        yield record.value
        return
    if format == "journal":
        item = read_line(record.raw)
        if isinstance(item, Span):
            spool.add(item.request_id, path.name, record.number, record.raw)
            return
        for row in understood(item):
            yield _renamed(row, step) if isinstance(row, Step) and step else row
        return
    if not form.recognises(record.value):
        yield BadLine("unknown_kind", f"not of the format {format}; keys: {', '.join(record.value)[:120]}")
        return
    if format == "otlp":
        yield from put_spans(record.value, path.name, record.number, spool)
        return
    read = session.take if session else form.read
    assert read is not None
    yield from _guarded(read(record.value, _origin(path, record.raw, step, names)))


def _guarded(items: Iterator[Step | Feedback | BadRecordError]) -> Iterator[Row | BadLine]:
    try:
        for found in items:
            yield BadLine(found.reason, str(found)) if isinstance(found, BadRecordError) else found
    except BadRecordError as error:
        yield BadLine(error.reason, str(error))
    except (RecursionError, ValueError, TypeError, KeyError, AttributeError) as error:
        # A shape that the format does not foresee: the record is kept, not the import lost.
        yield BadLine("wrong_type", f"{type(error).__name__}: {error}")


def _renamed(item: Step, step: str) -> Step:
    return msgspec.structs.replace(item, step=step)


def _example(item: Step) -> dict[str, Any]:
    return {
        "request_id": item.request_id,
        "step": item.step,
        "started_at": when(item.started_at).isoformat(),
        "model": item.model,
        "inputs": text(item.inputs),
        "messages": text(item.messages),
        "output": plain(item.output),
        "error": text(item.error),
        "input_tokens": item.input_tokens,
        "output_tokens": item.output_tokens,
        "cost_usd": item.cost_usd,
    }


def _import_tournaments(lake: Lake, path: Path, digest: str, step: str | None, dry_run: bool) -> ImportReport:
    report = ImportReport(str(path), "llmonpy")
    tournaments = llmonpy.Tournaments()
    writer = BlockWriter(lake, f"import/file-{digest[:16]}", "llmonpy", skip_known=True)
    for record in records(path):
        report.records += 1
        try:
            if isinstance(record.value, BadLine):
                bad: list[BadLine] = [record.value]
            else:
                bad = [BadLine(e.reason, str(e)) for e in tournaments.add(record.value, step)]
        except BadRecordError as error:
            bad = [BadLine(error.reason, str(error))]
        except (KeyError, TypeError, AttributeError) as error:
            bad = [BadLine("wrong_type", f"{type(error).__name__}: {error}")]
        for item in bad:
            writer.add(path.name, record.number, record.raw, item)
    written: Counter[str] = Counter()
    for name, answers, verdicts in tournaments.tables():
        for result in (
            import_answers(lake, answers, name, dry_run=dry_run),
            *([import_verdicts(lake, verdicts, name, dry_run=dry_run)] if verdicts.height else []),
        ):
            written.update(result.written)
            report.changed |= result.changed
        report.steps[name] = answers["request"].n_unique()
    report.by_reason = dict(writer.counts.by_reason)
    report.quarantined = writer.counts.quarantined
    if not dry_run and report.quarantined:
        report.changed |= writer.close().changed
    report.written = dict(written)
    return report


def _import_contests(
    lake: Lake,
    path: Path,
    name: str,
    format: str,
    form: Format,
    step: str | None,
    dry_run: bool,
    progress: Callable[[int], None] | None,
    *,
    strict: bool,
) -> ImportReport:
    """Write a file's questions with their answers and what was said of them. Raises InputError where most say nothing.

    That is, where `strict`; else they are only counted.
    """
    report = ImportReport(str(path), format)
    empty, first = 0, ""
    for record, contests, bad in _contests(path, form, step):
        report.records += 1
        if contests or isinstance(record.value, BadLine):
            continue
        empty += 1
        first = first or f"record {record.number}: {bad[0] if bad else 'nothing was found in it'}"
    if strict and 2 * empty > report.records:
        raise InputError(
            f"{path}, read as {format}, says nothing in {empty:,} of its {report.records:,} records. The first of them, "
            f"{first}. Nothing was imported."
        )
    writer = ContestWriter(lake, f"{path.name} ({format})", dry_run=dry_run)
    refused = BlockWriter(lake, name, format, skip_known=True)
    steps: Counter[str] = Counter()
    for record, contests, bad in _contests(path, form, step, progress):
        for contest in contests:
            called = step or contest.step or "chat"
            steps[called] += 1
            writer.add(called, contest)
            if dry_run and len(report.examples) < SAMPLE:
                report.examples.append(_contest_example(called, contest))
        for number, item in enumerate(bad):
            # One large record may hold much that is wrong, and is kept once.
            refused.add(path.name, record.number, b"" if number else record.raw, item)
    writer.close()
    report.steps, report.written, report.skipped = dict(steps.most_common()), dict(writer.written), dict(writer.skipped)
    report.rows = report.written.pop("recordings", 0)
    report.by_reason, report.quarantined = dict(refused.counts.by_reason), refused.counts.quarantined
    report.changed = writer.changed
    if not dry_run and report.quarantined:
        report.changed |= refused.close().changed
    return report


def _contests(
    path: Path, form: Format, step: str | None, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Record, list[Contest], list[BadLine]]]:
    for record in _records(path, progress):
        contests, bad = list[Contest](), list[BadLine]()
        if isinstance(record.value, BadLine):
            bad.append(record.value)
        elif not form.recognises(record.value):
            bad.append(BadLine("unknown_kind", f"keys: {', '.join(map(str, record.value))[:120]}"))
        elif form.contests:
            try:
                for item in form.contests(record.value, _origin(path, record.raw, step)):
                    if isinstance(item, Contest):
                        contests.append(item)
                    else:
                        bad.append(BadLine(item.reason, str(item)))
            except BadRecordError as error:
                bad.append(BadLine(error.reason, str(error)))
            except (RecursionError, ValueError, TypeError, KeyError, AttributeError) as error:
                bad.append(BadLine("wrong_type", f"{type(error).__name__}: {error}"))
        yield record, contests, bad


def _contest_example(step: str, contest: Contest) -> dict[str, Any]:
    shown = {f"answer {number} ({given.strategy})": given.answer for number, given in enumerate(contest.answers[:4], 1)}
    return {
        "step": step,
        "request_id": contest.request,
        "messages": msgspec.json.encode(contest.messages).decode(),
        **shown,
        "said": "; ".join(
            f"{one.judge}: {one.preference} towards answer {one.a + 1} of {one.a + 1} and {one.b + 1}"
            for one in contest.opinions[:3]
        )
        or None,
    }


def proposed(path: Path) -> Proposal | None:
    """A mapping for a file of no known format, by the names and shapes of what it holds; None where it says nothing."""
    return propose(_sample(path))


def table_kind(path: Path, columns: Mapping[str, str]) -> str:
    """`answers` or `verdicts` by the columns; `auto` for a log of a known format.

    Raises InputError that says what either would need where it is none of these.
    """
    table = _is_table(path)
    if (not table or is_parquet(path)) and not columns and detect_or_none(path):
        return "auto"
    present = set(_column_names(path, table))
    for kind, fields in (("verdicts", VERDICT_FIELDS), ("answers", ANSWER_FIELDS)):
        if all(present & {columns.get(f.name, f.name), *f.names} for f in fields if f.required):
            return kind
    if table and not columns and detect_or_none(path):
        return "auto"
    needed = "; ".join(
        f"{kind}: {', '.join(field.name for field in fields if field.required)}"
        for kind, fields in (("answers", ANSWER_FIELDS), ("verdicts", VERDICT_FIELDS))
    )
    raise UnknownFileError(
        f"{path}{'' if table else ', which is JSON,'} is neither a log of a known format nor a table of answers or verdicts. "
        f"{_first_bad(path)}"
        f"Present: {', '.join(sorted(present)) or 'none'}. Required for {needed}. "
        "Where one is called otherwise, say --map strategy=COLUMN; name the format of a log with --format."
    )


def _first_bad(path: Path) -> str:
    """What is wrong with the first of a file's first records that cannot be read."""
    bad = next((r for r in islice(_records(path), SAMPLE) if isinstance(r.value, BadLine)), None)
    return f"Record {bad.number} cannot be read: {bad.value}. " if bad else ""


def _column_names(path: Path, table: bool) -> list[str]:
    """The names of a table's columns, or of the fields of a JSON file's records."""
    names = [] if table else list(dict.fromkeys(name for value in _sample(path) for name in value))
    # What holds no object at all is told why it is no table.
    return names or load_table(path).columns


def _is_table(path: Path) -> bool:
    """Whether the file is Parquet or CSV rather than JSON. Raises InputError where there is no such file."""
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PK\x03\x04"):
        return False
    # .gz: JSON, for tables are not read packed
    return not head.startswith(b"\x1f\x8b") and head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"[", b"")
