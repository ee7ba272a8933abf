"""An app on Pydantic AI: agents with tools and typed answers, on three providers."""

import asyncio
import sys

import qbawa

qbawa.instrument(sys.argv[2])

from google import genai  # noqa: E402
from google.genai import types  # noqa: E402
from pydantic import BaseModel  # noqa: E402
from pydantic_ai import Agent  # noqa: E402
from pydantic_ai.models.anthropic import AnthropicModel  # noqa: E402
from pydantic_ai.models.google import GoogleModel  # noqa: E402
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel  # noqa: E402
from pydantic_ai.providers.anthropic import AnthropicProvider  # noqa: E402
from pydantic_ai.providers.google import GoogleProvider  # noqa: E402
from pydantic_ai.providers.openai import OpenAIProvider  # noqa: E402

url = sys.argv[1]


class Place(BaseModel):
    """A place."""

    name: str
    people: int


openai = OpenAIProvider(base_url=f"{url}/v1", api_key="k")
gemini = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=url))
models = {
    "chat": OpenAIChatModel("gpt-x", provider=openai),
    "responses": OpenAIResponsesModel("gpt-x", provider=openai),
    "claude": AnthropicModel("claude-x", provider=AnthropicProvider(base_url=url, api_key="k")),
    "gemini": GoogleModel("gemini-x", provider=GoogleProvider(client=gemini)),
}


def look(city: str) -> str:
    """Looks."""
    return "sunny"


@qbawa.step
async def ask(name, text):
    return (await Agent(models[name], instructions="Be brief.").run(text)).output


@qbawa.step
async def agent(name, text):
    return (await Agent(models[name], tools=[look]).run(text)).output


async def main():
    for name, model in models.items():
        await ask(name, f"{name} in a step")
        with qbawa.request(request_id="outside"):
            await agent(name, f"{name} agent tools")
            await Agent(model, output_type=Place).run(f"{name} schema")
            async with Agent(model).run_stream(f"{name} stream") as stream:
                async for _ in stream.stream_text():
                    pass
            try:
                await Agent(model, retries=0).run(f"{name} fail")
            except Exception as error:
                print(type(error).__name__)


asyncio.run(main())
