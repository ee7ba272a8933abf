"""An app on LlamaIndex with the models of three providers."""

import asyncio
import sys

import qbawa

qbawa.instrument(sys.argv[2])

from google.genai import types  # noqa: E402
from llama_index.core.agent.workflow import FunctionAgent  # noqa: E402
from llama_index.core.llms import ChatMessage  # noqa: E402
from llama_index.core.tools import FunctionTool  # noqa: E402
from llama_index.llms.anthropic import Anthropic  # noqa: E402
from llama_index.llms.google_genai import GoogleGenAI  # noqa: E402
from llama_index.llms.openai import OpenAI, OpenAIResponses  # noqa: E402
from pydantic import BaseModel  # noqa: E402

url = sys.argv[1]


class Place(BaseModel):
    """A place."""

    name: str
    people: int


def look(city: str) -> str:
    """Looks."""
    return "sunny"


tool = FunctionTool.from_defaults(look)
v1 = {"model": "gpt-4o-mini", "api_base": f"{url}/v1", "api_key": "k", "max_retries": 0}
models = {
    "chat": OpenAI(**v1),
    "responses": OpenAIResponses(**v1),
    "claude": Anthropic(model="claude-sonnet-4-5", base_url=url, api_key="k", max_retries=0),
    "gemini": GoogleGenAI(
        model="gemini-2.5-flash", api_key="k", max_retries=0, context_window=9_999, max_tokens=99,
        http_options=types.HttpOptions(base_url=url),
    ),
}  # fmt: skip


@qbawa.step
def ask(name, text):
    return (
        models[name].chat([ChatMessage(role="system", content="Be brief."), ChatMessage(content=text)]).message.content
    )


@qbawa.step
async def agent(name, text):
    return str(await FunctionAgent(tools=[tool], llm=models[name], streaming=False).run(text))


async def use(name, model):
    await model.acomplete(f"{name} async")
    async for _ in await model.astream_chat([ChatMessage(content=f"{name} async stream")]):
        pass
    await agent(name, f"{name} agent tool")


runner = asyncio.Runner()
for name, model in models.items():
    ask(name, f"{name} in a step")
    with qbawa.request(request_id="outside"):
        for _ in model.stream_complete(f"{name} stream"):
            pass
        model.chat_with_tools([tool], user_msg=f"{name} tools", allow_parallel_tool_calls=True)
        model.structured_predict(Place, __import__("llama_index.core", fromlist=["x"]).PromptTemplate(f"{name} schema"))
        try:
            model.complete(f"{name} fail")
        except Exception as error:
            print(type(error).__name__)
        runner.run(use(name, model))
