"""An app on the OpenAI Agents SDK: responses and chat completions, tools, hand-offs, streams."""

import asyncio
import sys

import qbawa

qbawa.instrument(sys.argv[2])

from agents import (  # noqa: E402
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI  # noqa: E402
from pydantic import BaseModel  # noqa: E402

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="k", max_retries=0)


class Place(BaseModel):
    name: str
    people: int


@function_tool
def look(city: str) -> str:
    """Looks."""
    return "sunny"


models = {
    "responses": OpenAIResponsesModel(model="gpt-x", openai_client=client),
    "chat": OpenAIChatCompletionsModel(model="gpt-x", openai_client=client),
}


@qbawa.step
async def ask(name, text):
    return (await Runner.run(Agent(name="a", instructions="Be brief.", model=models[name]), text)).final_output


@qbawa.step
async def agent(name, text):
    return (await Runner.run(Agent(name="a", model=models[name], tools=[look]), text)).final_output


async def main():
    for name, model in models.items():
        await ask(name, f"{name} in a step")
        with qbawa.request(request_id="outside"):
            await agent(name, f"{name} agent tools")
            await Runner.run(Agent(name="a", model=model, output_type=Place), f"{name} schema")
            streamed = Runner.run_streamed(Agent(name="a", model=model), f"{name} stream")
            async for _ in streamed.stream_events():
                pass
            try:
                await Runner.run(Agent(name="a", model=model), f"{name} fail")
            except Exception as error:
                print(type(error).__name__)


asyncio.run(main())
