"""Whether models can be used, before anything is spent: key, price, limits, and one free request to each server.

`GET {base_url}/models` asks no model and is billed by nobody. Each server is asked once for each key, all at the same time;
what does not answer in a few seconds counts as unreachable. Models behind litellm have no such request: of them keys and
prices are checked.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import resource
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp

from qbawa.engine.calls import ModelSettings
from qbawa.engine.error_classes import readable
from qbawa.engine.providers.litellm import missing_keys
from qbawa.engine.providers.native import speaks_openai, wire_name
from qbawa.engine.providers.openai_http import MAX_FILES, OPENAI_URL, HttpSession
from qbawa.engine.providers.openai_wire import parse_json
from qbawa.engine.providers.registry import key_variable, provider_price
from qbawa.errors import FinalError
from qbawa.text import shorten

REACH_S = 5.0
"""How long a server may take to say which models it has."""
MOST_BYTES = 4 << 20
"""Of its answer; the longest lists have a few hundred kilobytes."""
SPARE_FILES = 64

Kind = Literal["unknown_model", "key", "price", "limits", "unreachable"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a model cannot be used, or may not be, in a sentence that says what would be right."""

    model: str
    kind: Kind
    used_by: tuple[str, ...]
    text: str
    certain: bool = True
    """False where its calls may succeed all the same."""

    def line(self) -> str:
        """The sentence, with whom it concerns."""
        return f"{self.text} Used by {shorten(', '.join(self.used_by), 120)}." if self.used_by else self.text


async def examine(
    uses: Mapping[str, Sequence[str]],
    models: Mapping[str, ModelSettings],
    *,
    reach: bool = True,
    timeout_s: float = REACH_S,
) -> list[Problem]:
    """What is wrong with the models that a run would call, by model. `uses` says who calls each; `offline/…` need nothing.

    With `reach` their servers are asked; without it nothing leaves this machine.
    """
    found: dict[str, list[Problem]] = defaultdict(list)
    servers: dict[tuple[str, str | None], list[str]] = defaultdict(list)

    def note(model: str, kind: Kind, text: str, certain: bool = True) -> None:
        found[model].append(Problem(model, kind, tuple(uses[model]), readable(text), certain))

    for model in sorted(uses):
        if model.startswith("offline/"):
            continue
        settings = models.get(model)
        if settings is None:
            known = ", ".join(models) or "none"
            note(
                model, "unknown_model",
                f"Model '{model}' does not stand under `models` in qbawa.yaml. There: {known}. Add it, or take it out of "
                "the strategies and judges.",
            )  # fmt: skip
            continue
        try:
            await asyncio.to_thread(provider_price, model, settings)
        except FinalError as error:
            note(model, "price", str(error))
        if limit := _too_many_in_flight(model, settings):
            note(model, "limits", limit, False)
        direct, variable = speaks_openai(model, settings), key_variable(model, settings)
        key = os.environ.get(variable, "").strip() if variable else None
        lacking: tuple[str, ...] = (variable,) if variable and not key else ()
        if variable is None and not direct and settings.base_url is None:
            lacking = missing_keys(settings.litellm_model or model)
        if lacking:
            either = " or ".join(lacking)
            note(
                model, "key",
                f"Model '{model}' needs a key in the environment variable {either}, which is not set. export {lacking[0]}=… "
                f"before the run, or name another variable in models.{model}.api_key_env.",
            )  # fmt: skip
        elif direct:
            servers[(settings.base_url or OPENAI_URL).rstrip("/"), key].append(model)
    if reach and servers:
        session = HttpSession()
        try:
            answers = await asyncio.gather(*(_ask(session, url, key, timeout_s) for url, key in servers))
        finally:
            await session.close()
        for ((url, key), behind), answer in zip(servers.items(), answers, strict=True):
            for model in behind:
                for kind, text, certain in _judge(model, models[model], url, key is not None, answer):
                    note(model, kind, text, certain)
    return [problem for model in sorted(found) for problem in found[model]]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server said: its status and the ids of its models, or why it said nothing."""

    status: int = 0
    models: frozenset[str] = frozenset()
    silence: str = ""


async def _ask(session: HttpSession, url: str, key: str | None, timeout_s: float) -> _Answer:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        async with session.open().get(
            f"{url}/models", headers=headers, timeout=aiohttp.ClientTimeout(total=timeout_s), allow_redirects=False
        ) as response:
            data = await response.content.read(MOST_BYTES) if response.status == 200 else b""
            while response.status == 200 and len(data) < MOST_BYTES and (more := await response.content.read(1 << 16)):
                data += more
            return _Answer(response.status, _ids(data))
    except TimeoutError:
        return _Answer(silence=f"no answer within {timeout_s:g} s")
    except aiohttp.InvalidURL:
        return _Answer(silence="not a usable address")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # The error's own text may hold the address with credentials; its kind says enough.
        number = error.errno if isinstance(error, OSError) else None
        return _Answer(silence=os.strerror(number) if number and number > 0 else type(error).__name__)


def _ids(data: bytes) -> frozenset[str]:
    try:
        body: Any = parse_json(data)
    except ValueError:
        return frozenset()
    listed = body.get("data") if isinstance(body, dict) else None
    entries = listed if isinstance(listed, list) else []
    return frozenset(entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str))


def _judge(
    model: str, settings: ModelSettings, url: str, has_key: bool, answer: _Answer
) -> list[tuple[Kind, str, bool]]:
    shown = _without_login(url)
    if answer.silence:
        text = (
            f"Model '{model}' cannot be reached at {shown} ({answer.silence}). Start that server, or correct "
            f"models.{model}.base_url."
        )
        return [("unreachable", text, True)]
    if answer.status in (401, 403):
        variable = key_variable(model, settings)
        mend = f"Put a valid key into {variable}." if has_key else f"Name its variable in models.{model}.api_key_env."
        what = (
            f"refuses the key in the environment variable {variable}"
            if has_key
            else "asks for a key, and none is named"
        )
        # What 403 forbids may be the list alone.
        return [("key", f"{shown} {what} for model '{model}' (HTTP {answer.status}). {mend}", answer.status == 401)]
    name = wire_name(model, settings)
    if not answer.models or name in answer.models or any(each.partition(":")[0] == name for each in answer.models):
        return []
    near = difflib.get_close_matches(name, sorted(answer.models), 3, 0.3) or sorted(answer.models)[:3]
    text = (
        f"{shown} does not list the model '{name}', which models.{model} asks for. It has {len(answer.models)}, such as "
        f"{', '.join(shorten(each, 60) for each in near)}. Correct the name, or models.{model}.litellm_model."
    )
    # Gateways may serve more than they list.
    return [("unknown_model", text, False)]


def _without_login(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def _too_many_in_flight(model: str, settings: ModelSettings) -> str | None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MAX_FILES if most == resource.RLIM_INFINITY else min(most, MAX_FILES)
    if settings.max_in_flight + SPARE_FILES <= files:
        return None
    return (
        f"Model '{model}' may have {settings.max_in_flight:,} calls in flight (models.{model}.max_in_flight), each an open "
        f"connection, and a process may open {files:,} files here. Lower it, or raise `ulimit -n`."
    )
