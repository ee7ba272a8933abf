"""Anthropic's messages and Google's generateContent over our own HTTP session, for requests recorded in that form."""

from __future__ import annotations

import functools

from qbawa.engine.calls import Answer, ModelCall, ModelSettings, Provider
from qbawa.engine.providers.native import GENERATE, MESSAGES, native_api, native_body, native_headers, read_native
from qbawa.engine.providers.openai_http import HttpProvider, HttpSession

URLS = {MESSAGES: "https://api.anthropic.com", GENERATE: "https://generativelanguage.googleapis.com"}


class NativeProvider(HttpProvider):
    """Sends requests of the model's own API as they were recorded; everything else goes by another provider."""

    def __init__(
        self, model: str, settings: ModelSettings, session: HttpSession, api_key: str | None, otherwise: Provider
    ) -> None:
        self._api = native_api(model, settings) or MESSAGES
        super().__init__(model, settings, session, URLS[self._api])
        self._name = (settings.litellm_model or model).partition("/")[2]
        self._key = api_key
        self._otherwise = otherwise

    async def send(self, call: ModelCall) -> Answer:
        body = native_body(call, self.settings)
        if body is None:
            return await self._otherwise.send(call)
        headers = {**self.headers, **native_headers(self._api, self._key, body)}
        body.pop("betas", None)
        url = f"{self.base_url}/v1/messages"
        if self._api == GENERATE:
            url = f"{self.base_url}/v1beta/models/{self._name}:generateContent"
        else:
            body["model"] = self._name
        return await self.post(call, url, body, headers, functools.partial(read_native, self._api))
