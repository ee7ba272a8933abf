"""`qbawa.instrument()`: one line that records every model client that an application has.

A client that is imported already is recorded from now on, by its classes, so objects made before count too; any other
as soon as it is imported. Nothing is imported for the sake of being recorded.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from types import ModuleType
from typing import Any, NamedTuple

from qbawa.record import api
from qbawa.record.integrations import dspy, google_genai, langchain, stainless
from qbawa.record.snapshot import described
from qbawa.record.writer import log


class Instrumented(NamedTuple):
    """What `instrument` found installed."""

    recorded: tuple[str, ...]
    """Packages whose calls are recorded, now or as soon as they are imported."""
    not_recorded: dict[str, str]
    """Packages whose calls are not, and what to do about it."""


class _Client(NamedTuple):
    package: str  # as it is installed
    module: str  # the one whose import is waited for
    record: Callable[[ModuleType], None]


def _record_litellm(_: ModuleType) -> None:
    from qbawa.record.integrations.litellm import record_litellm

    record_litellm()


_CLIENTS = (
    _Client("openai", "openai._base_client", stainless.record_package),
    _Client("anthropic", "anthropic._base_client", stainless.record_package),
    _Client("groq", "groq._base_client", stainless.record_package),
    _Client("google-genai", "google.genai._api_client", google_genai.record_package),
    _Client("litellm", "litellm", _record_litellm),
    _Client("langchain-core", "langchain_core.language_models.chat_models", langchain.record_package),
    _Client("dspy", "dspy.clients.execution", dspy.record_package),
)
_BY_HAND = "Call qbawa.llm_call() after each call, or reach the model through litellm."
_OTHERS = {
    "cohere": f"The cohere package is not recorded. {_BY_HAND}",
    "google-generativeai": "The package google-generativeai is retired and not recorded. Move to google-genai.",
    "mistralai": f"The mistralai package is not recorded. {_BY_HAND}",
    "ollama": "The ollama package is not recorded. Ask Ollama through the openai package, base_url='http://…/v1'.",
}


def instrument(folder: str | os.PathLike[str] | None = None) -> Instrumented:
    """Record every model call of the process from now on, whichever of the clients below makes it. Never raises for one.

    With `folder` this is `configure(folder)` as well, so that one line is enough; put it before the first model call.
    Returns what is recorded and what cannot be, and logs both. Calling it again changes nothing.
    """
    if folder is not None:
        api.configure(folder)
    if api.recorder is None:
        log.warning("qbawa: model calls are not recorded: no folder was given and QBAWA_JOURNAL is not set")
    recorded, failed = [], {}
    for client in _CLIENTS:
        version = _version(client.package)
        if version is None and client.module not in sys.modules:
            continue
        problem = _record(client)
        if problem:
            failed[client.package] = problem
        else:
            recorded.append(client.package)
    for package, why in _OTHERS.items():
        if _version(package) is not None:
            failed[package] = why
    for why in failed.values():
        log.warning("qbawa: %s", why)
    log.info("qbawa records model calls of %s", ", ".join(recorded) or "no package: none that it knows is installed")
    return Instrumented(tuple(recorded), failed)


def _record(client: _Client) -> str | None:
    """Why the client cannot be recorded, if so."""
    module = sys.modules.get(client.module)
    try:
        if module is None or getattr(getattr(module, "__spec__", None), "_initializing", False):
            _when_imported(client)
        else:
            client.record(module)
        return None
    except Exception as problem:
        return _unknown(client, problem)


def _unknown(client: _Client, problem: Exception) -> str:
    return (
        f"{client.package} {_version(client.package)} is not recorded: {described(problem)}. It is built differently from "
        "the versions that this qbawa knows; upgrade qbawa, or call qbawa.llm_call() after each call."
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except Exception:  # not installed, or metadata that cannot be read
        return None


def _when_imported(client: _Client) -> None:
    finder = next((finder for finder in sys.meta_path if isinstance(finder, _Finder)), None)
    if finder is None:
        finder = _Finder()
        sys.meta_path.insert(0, finder)
    finder.awaited[client.module] = client


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the import system do its work and has a client recorded once its module has run."""

    def __init__(self) -> None:
        self.awaited: dict[str, _Client] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        client = self.awaited.get(fullname)
        if client is None:
            return None
        del self.awaited[fullname]  # else the search below would end here again
        spec = _found(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, client)
        return spec


def _found(fullname: str, path: Sequence[str] | None, target: Any) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find(fullname, path, target) if find and not isinstance(finder, _Finder) else None
        if spec is not None:
            return spec
    return None


class _Loader(importlib.abc.Loader):
    """The loader that was found, and what is to be done afterwards."""

    def __init__(self, loader: Any, client: _Client) -> None:
        self._loader, self._client = loader, client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self._loader.exec_module(module)
        except BaseException:
            _when_imported(self._client)  # the application may try again
            raise
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._loader  # the module looks as if it had been imported without us
        module.__loader__ = self._loader
        try:
            self._client.record(module)
        except Exception as problem:
            log.warning("qbawa: %s", _unknown(self._client, problem))
