"""Which lane, key and gate a model uses."""

from __future__ import annotations

import os
from dataclasses import dataclass

from qbawa.config import ModelConfig
from qbawa.engine.gate import Gate
from qbawa.engine.http_lane import OPENAI_URL, HttpLane, HttpSession, speaks_openai, wire_name
from qbawa.engine.secrets import Secrets
from qbawa.engine.types import Lane, ModelSettings
from qbawa.errors import ModelStoppedError

_OFFLINE = ModelConfig.model_validate({"free": True, "max_in_flight": 64})


@dataclass(frozen=True, slots=True)
class Connection:
    settings: ModelSettings
    lane: Lane
    gate: Gate


class Lanes:
    """Connections to models. Models of the same provider, key and name there share a gate, as they share a limit."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._session = HttpSession()
        self._gates: dict[tuple[str, str | None, str], Gate] = {}

    def connect(self, model: str, settings: ModelSettings | None) -> Connection:
        """Lane and gate of a model. Raises ModelStoppedError where the key it needs is not in the environment."""
        if settings is None or model.startswith("offline/"):
            from qbawa.engine.offline_lane import OfflineLane

            return Connection(settings or _OFFLINE, OfflineLane(), Gate(max_in_flight=_OFFLINE.max_in_flight))
        key = self._key(model, settings)
        if speaks_openai(model, settings):
            lane: Lane = HttpLane(model, settings, self._session, key)
            address, name = settings.base_url or OPENAI_URL, wire_name(model, settings)
        else:
            from qbawa.engine.litellm_lane import LitellmLane

            self._secrets.add_environment()
            lane = LitellmLane(model, settings, key)
            address, name = settings.base_url or "", settings.litellm_model or model
        gate = self._gates.get((address, key, name))
        if gate is None:
            gate = Gate(settings.requests_per_minute, settings.tokens_per_minute, settings.max_in_flight)
            self._gates[address, key, name] = gate
        else:
            gate.heed(settings.requests_per_minute, settings.tokens_per_minute)
        return Connection(settings, lane, gate)

    async def close(self) -> None:
        await self._session.close()

    def _key(self, model: str, settings: ModelSettings) -> str | None:
        name = settings.api_key_env
        if name is None and settings.base_url is None and speaks_openai(model, settings):
            name = "OPENAI_API_KEY"
        if name is None:
            return None  # litellm finds its providers' usual variables; a server of one's own may need none
        key = os.environ.get(name, "").strip()
        if not key:
            raise ModelStoppedError(
                "wrong_key", f"Model '{model}' needs a key in the environment variable {name}, which is not set."
            )
        self._secrets.add(key)
        return key
