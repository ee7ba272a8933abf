"""A home with everything real: journal, lake, private PostgreSQL, and Dagster's instance on it."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from dagster import (
    AssetKey,
    DagsterInstance,
    ExecuteInProcessResult,
    RunRequest,
    ScheduleDefinition,
    SkipReason,
    build_schedule_context,
)
from dagster._core.definitions.partitions.definition import PartitionsDefinition
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.partition_status_cache import get_partition_subsets
from scripted_provider import ScriptedProvider

import qbawa
from qbawa.cli.launch.dagster import dagster_environment
from qbawa.project import Home, Project, open_project
from qbawa_assets.definitions import definitions
from qbawa_assets.partitions import cells
from qbawa_assets.run_job import keep_connections
from resources import ProjectResource

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
TOPICS = ("the tides", "sourdough", "old maps", "violins", "glaciers", "semaphores", "copper roofs", "the moon")


@dataclass(frozen=True)
class DagsterHome:
    """A home in use, and the environment in which another process would work on it."""

    home: Home
    instance: DagsterInstance
    environment: Mapping[str, str]

    @property
    def project(self) -> Project:
        return open_project(self.home)

    def run(self, job: str, config: Mapping[str, Any] | None = None) -> ExecuteInProcessResult:
        """A job run to its end, whatever that is."""
        with mock.patch.dict(os.environ, self.environment):
            return definitions.resolve_job_def(job).execute_in_process(
                instance=self.instance, run_config=dict(config or {}), raise_on_error=False
            )

    def materialize(self, asset: str, first: str | None = None, last: str | None = None) -> ExecuteInProcessResult:
        """An asset as the UI runs it: one run for all partitions between two keys."""
        tags = {} if first is None else {RANGE_START: first, RANGE_END: last or first}
        with mock.patch.dict(os.environ, self.environment):
            return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
                instance=self.instance, asset_selection=[AssetKey(asset)], tags=tags, raise_on_error=False
            )

    def row(self, request: str) -> list[str]:
        """Keys of one request's cells, in the order in which Dagster lists them."""
        return [f"{request}|{strategy}" for strategy in self.instance.get_dynamic_partitions("strategy")]

    def tick(self, schedule: ScheduleDefinition) -> RunRequest | SkipReason:
        """What a tick of a schedule asks for."""
        with (
            mock.patch.dict(os.environ, self.environment),
            build_schedule_context(instance=self.instance, resources={"project": ProjectResource()}) as context,
        ):
            asked = schedule(context)
        assert isinstance(asked, RunRequest | SkipReason)
        return asked

    def command(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """`qbawa …` started in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "qbawa", *arguments],
            env={**self.environment},
            cwd=self.home.root,
            start_new_session=True,
            text=True,
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.STDOUT),
            **options,
        )

    def statuses(self, asset: str = "replay_matrix", partitions: PartitionsDefinition = cells) -> dict[str, set[str]]:
        """Keys of the partitions that Dagster itself shows as materialized, failed and in progress."""
        found = asyncio.run(
            get_partition_subsets(
                self.instance, LoadingContextForTest(self.instance), AssetKey(asset), self.instance, partitions
            )
        )
        names = ("materialized", "failed", "in_progress")
        return {
            name: set(part.get_partition_keys()) if part else set() for name, part in zip(names, found, strict=True)
        }

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a user's SQL sees."""
        import duckdb

        with duckdb.connect(str(self.home.catalog), read_only=True) as connection:
            return connection.execute(sql).fetchall()


@contextmanager
def dagster_home() -> Iterator[DagsterHome]:
    """A fresh home, gone afterwards. Its path is short, since a UNIX socket's may have about 100 characters."""
    home = Home(Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp")))
    try:
        shutil.copytree(_with_database(), home.root, symlinks=True, dirs_exist_ok=True)
        with dagster_on(home) as here:
            yield here
    finally:
        shutil.rmtree(home.root, ignore_errors=True)


@cache
def _with_database() -> Path:
    """A home with nothing but Dagster's database, empty: making it takes a CPU second, so once a process."""
    root = Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    with dagster_on(Home(root)):
        pass
    return root


@contextmanager
def dagster_on(home: Home) -> Iterator[DagsterHome]:
    """A home that is there, with its PostgreSQL and its instance; whoever else works on it goes on."""
    with dagster_environment(home) as environment:
        with mock.patch.dict(os.environ, environment):
            instance = DagsterInstance.from_config(str(home.dagster))
        with instance:
            keep_connections(instance)
            yield DagsterHome(home, instance, environment)


def configure(home: Home, provider: ScriptedProvider | None = None, **sections: Any) -> None:
    """Write qbawa.yaml: a model `scripted` at the provider, and these sections."""
    models = {}
    if provider is not None:
        models["scripted"] = {"base_url": provider.base_url, "free": True, "max_in_flight": 8, "max_attempts": 2}
    home.root.mkdir(parents=True, exist_ok=True)
    home.config.write_text(yaml.safe_dump({"models": models, **sections}))


def prompts(count: int) -> dict[str, Any]:
    """Strategies of the step `explain`, one a prompt."""
    return {
        "step": "explain",
        "name": "way",
        "prompts": {f"w{n}": f"In way {n}, explain {{{{ topic }}}}." for n in range(count)},
        "model": "scripted",
    }


def record(home: Home, requests: Sequence[str], step: str = "explain", first: int = 0) -> None:
    """These requests of a sample app, numbered from `first`, recorded by the real recorder into a closed segment."""

    def explain(topic: str) -> str:
        answer = f"All about {topic}."
        messages = [{"role": "user", "content": f"Explain {topic}."}]
        qbawa.llm_call(model="house/model", messages=messages, output=answer, cost_usd=0.0)
        return answer

    qbawa.configure(home.journal, pipeline="sample")
    recorded = qbawa.step(name=step)(explain)
    for number, request_id in enumerate(requests, first):
        with qbawa.request(request_id=request_id):
            recorded(f"{TOPICS[number % len(TOPICS)]}, part {number}")
    assert qbawa.flush()
    qbawa.configure(None)
