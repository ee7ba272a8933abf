"""The home's files beside journals and lake: people's verdicts, exports, logs; and what else mentions a request."""

import contextlib
import csv
import gzip
import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import orjson
import polars as pl

from qbawa.erasure.quotes import Quotes
from qbawa.project import Home
from qbawa.storage.files import atomic_swap, is_draft

PEOPLE = "human_verdicts"
"""The folder of the home with people's tables of verdicts."""
REQUEST_COLUMNS = ("request", "request_id", "question_id")
"""What a table of verdicts may call its request (`qbawa.tournaments.import_verdicts.FIELDS`)."""
_ROWS = 5_000
"""Rows or lines that are searched at once."""
_PIECE = 8 << 20
_LARGEST = 64 << 20
"""Bytes of a file of the home that is searched whole for mentions."""


def rewrite(path: Path, data: bytes, *, mode: int | None = None, keep_time: bool = False) -> None:
    """Replace a file's content at once; with `keep_time` nobody takes it for a new one."""
    before = path.stat() if path.exists() else None
    permissions = mode if mode is not None else before.st_mode & 0o777 if before else 0o640
    with atomic_swap(path) as draft:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, permissions), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep_time and before:
            os.utime(draft, ns=(before.st_atime_ns, before.st_mtime_ns))


def delete_drafts(home: Home, journals: Iterable[Path]) -> None:
    """Delete what killed writers have left of files that they were about to swap in."""
    inside = [home.root / PEOPLE, home.exports, home.calls, *journals]
    for path in (*home.root.glob(".*"), *(path for folder in inside for path in folder.rglob(".*"))):
        # Any command may be writing the catalog, whose views hold nobody's words.
        if is_draft(path) and path.is_file() and not path.name.startswith(f".{home.catalog.name}."):
            path.unlink(missing_ok=True)


def cut_verdict_files(home: Home, request_id: str) -> int:
    """Remove the request's rows from people's tables of verdicts; how many went."""
    return sum(_cut_table(path, request_id) for path in sorted((home.root / PEOPLE).glob("*")) if path.is_file())


def remove_exports(home: Home, folders: Iterable[str]) -> list[str]:
    """Remove these dataset versions as far as they lie in `exports/`, and drafts of killed exports; the others' paths."""
    elsewhere = []
    for folder in map(home.whole_path, folders):
        if not folder.resolve().is_relative_to(home.exports.resolve()):
            # As where the home was copied: what another one exported is not ours to delete.
            elsewhere += [str(folder)] if folder.exists() else []
        elif folder.exists():
            # Out of its place at once, so that nobody reads half of it.
            draft = folder.with_name(f".staging-{uuid.uuid4().hex}")
            os.replace(folder, draft)
    for draft in home.exports.glob("*/.staging-*"):
        shutil.rmtree(draft, ignore_errors=True)
    return elsewhere


def cut_logs(home: Home, quotes: Quotes) -> int:
    """Remove the lines of Dagster's and PostgreSQL's log files that name or quote the request; files without lines go
    whole. How many lines and files went."""
    # 0.1.0 had PostgreSQL's log in its data folder.
    logs = [home.postgres / "data" / "log", *home.postgres.glob("server*.log")]
    # Outputs that stages hand to one another, what they printed, and Dagster's own log.
    logs += [path for path in home.dagster.rglob("*") if path.is_file() and path.name != "dagster.yaml"]
    return sum(_cut_log(path, quotes) for path in logs if path.is_file())


def mentions(home: Home, quotes: Quotes, also: Iterable[Path] = ()) -> list[str]:
    """Where files that are the user's own still name or quote the request: `qbawa.yaml:12`, or the file alone.

    `also` are files outside the home. Lake, journals and PostgreSQL's files are not searched: what they held is gone.
    """
    ours = [home.lake, home.postgres, home.calls, home.journal, home.catalog]
    found = []
    for path in sorted({*_files(home.root, ours), *(p for p in also if p.is_file())}):
        with contextlib.suppress(OSError, EOFError):
            found += _mentioned(path, quotes)
    return found


def _mentioned(path: Path, quotes: Quotes) -> list[str]:
    if path.suffix == ".parquet":
        with contextlib.suppress(pl.exceptions.PolarsError):
            if any(quotes.among(texts) for texts in _texts(path)):
                return [str(path)]
        return []
    if path.stat().st_size > _LARGEST:
        return [str(path)] if _contains(path, quotes.request_id.encode()) else []
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError:
        return [str(path)] if quotes.in_binary(data) else []
    # Some at a time: the search holds every line several times over.
    hits = {hit for start in range(0, len(lines), _ROWS) for hit in quotes.among(lines[start : start + _ROWS])}
    return [f"{path}:{number}" for number, line in enumerate(lines, 1) if line in hits]


def _texts(path: Path) -> Iterator[pl.Series]:
    """The texts in a Parquet file, some thousands at a time. Raises PolarsError where it is none."""
    # A dataset may have a million rows, and Polars reads a row group whole. Slow to import.
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [name for name, kind in pl.read_parquet_schema(path).items() if kind == pl.String]
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=_ROWS, columns=names, use_threads=False):
                yield from (column.drop_nulls().unique() for column in pl.DataFrame(batch).iter_columns())
    except pa.ArrowException as error:
        raise pl.exceptions.ComputeError(str(error)) from None


def _contains(path: Path, name: bytes) -> bool:
    """Whether a file holds these bytes; read by pieces that overlap by a name's length."""
    before = b""
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            if name in before + piece:
                return True
            before = piece[-len(name) :]
    return False


def _files(root: Path, but: list[Path]) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name) not in but]
        for name in names:
            path = Path(folder, name)
            if path not in but and path.is_file() and not path.is_symlink() and name != "forgetting.json":
                yield path


def _cut_table(path: Path, request_id: str) -> int:
    data = path.read_bytes()
    if data.startswith(b"PAR1"):
        return _cut_parquet(path, request_id)
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    try:
        if start == b"{":
            return _cut_lines(path, data, lambda line: _is_of(orjson.loads(line), request_id))
        if start == b"[":
            rows = orjson.loads(data)
            kept = [row for row in rows if not _is_of(row, request_id)]
            if len(kept) < len(rows):
                rewrite(path, orjson.dumps(kept), keep_time=True)
            return len(rows) - len(kept)
        return _cut_csv(path, data.decode(), request_id)
    except ValueError:
        return 0  # no table; `mentions` names the file where it holds the request


def _cut_csv(path: Path, text: str, request_id: str) -> int:
    marked = text.startswith("\ufeff")
    separator = "\t" if path.suffix == ".tsv" else ","
    rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=separator))
    places = [k for k, name in enumerate(rows[0]) if name in REQUEST_COLUMNS] if rows else []
    kept = [row for row in rows if not any(k < len(row) and row[k] == request_id for k in places)]
    if len(kept) < len(rows):
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=separator).writerows(kept)
        rewrite(path, (("\ufeff" if marked else "") + out.getvalue()).encode(), keep_time=True)
    return len(rows) - len(kept)


def _cut_parquet(path: Path, request_id: str) -> int:
    rows = pl.read_parquet(path, glob=False)
    places = [name for name in rows.columns if name in REQUEST_COLUMNS]
    if not places:
        return 0
    kept = rows.filter(~pl.any_horizontal(pl.col(name).cast(pl.String).eq_missing(request_id) for name in places))
    if kept.height < rows.height:
        out = io.BytesIO()
        kept.write_parquet(out)
        rewrite(path, out.getvalue(), keep_time=True)
    return rows.height - kept.height


def _cut_lines(path: Path, data: bytes, gone: Callable[[bytes], bool]) -> int:
    lines = data.splitlines(keepends=True)
    kept = [line for line in lines if not (line.strip() and gone(line))]
    if len(kept) < len(lines):
        rewrite(path, b"".join(kept), keep_time=True)
    return len(lines) - len(kept)


def _cut_log(path: Path, quotes: Quotes) -> int:
    data = path.read_bytes()
    try:
        lines = data.decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        if quotes.in_binary(data):
            path.unlink()
            return 1
        return 0
    hits = quotes.among(lines)
    kept = [line for line in lines if line not in hits]
    if len(kept) < len(lines):
        # In its place: whoever writes on has it open, to append.
        with path.open("r+b") as file:
            file.write("".join(kept).encode())
            file.truncate()
            os.fsync(file.fileno())
    return len(lines) - len(kept)


def _is_of(row: object, request_id: str) -> bool:
    return isinstance(row, dict) and any(row.get(name) == request_id for name in REQUEST_COLUMNS)
