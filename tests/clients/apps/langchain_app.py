"""An app on LangChain and LangGraph: three providers' models and one that no provider stands behind."""

import asyncio
import sys

import qbawa

qbawa.instrument(sys.argv[2])

from langchain_anthropic import ChatAnthropic  # noqa: E402
from langchain_core.language_models.chat_models import BaseChatModel  # noqa: E402
from langchain_core.messages import AIMessage, AIMessageChunk  # noqa: E402
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from langchain_google_genai import ChatGoogleGenerativeAI  # noqa: E402
from langchain_openai import ChatOpenAI  # noqa: E402
from langgraph.prebuilt import create_react_agent  # noqa: E402
from pydantic import BaseModel  # noqa: E402

url = sys.argv[1]


class Place(BaseModel):
    """A place."""

    name: str
    people: int


@tool
def look(city: str) -> str:
    """Looks."""
    return "sunny"


class OwnModel(BaseChatModel):
    """A model that speaks none of the APIs that are recorded by themselves."""

    temperature: float = 0.5

    @property
    def _llm_type(self):
        return "own"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        said = str(messages[-1].content)
        if "fail" in said:
            raise ValueError("refused")
        usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
        calls = [{"name": "look", "args": {"city": "Rome"}, "id": "call_0"}] if "tool" in said else []
        message = AIMessage("" if calls else f"echo {said}", tool_calls=calls, usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        for word in ("echo ", str(messages[-1].content)):
            yield ChatGenerationChunk(message=AIMessageChunk(word))

    def bind_tools(self, tools, **kwargs):
        from langchain_core.utils.function_calling import convert_to_openai_tool

        return self.bind(tools=[convert_to_openai_tool(one) for one in tools], **kwargs)


models = {
    "chat": ChatOpenAI(model="gpt-x", base_url=f"{url}/v1", api_key="k", max_retries=0, stop=["x"]),
    "responses": ChatOpenAI(model="gpt-x", base_url=f"{url}/v1", api_key="k", max_retries=0, use_responses_api=True),
    "claude": ChatAnthropic(model="claude-x", base_url=url, api_key="k", max_retries=0, max_tokens=99),
    "gemini": ChatGoogleGenerativeAI(model="gemini-x", google_api_key="k", base_url=url, max_retries=0),
    "own": OwnModel(),
}


def name_step(name):
    @qbawa.step(f"{name}_step")
    def ask(text):
        return models[name].invoke([("system", "Be brief."), ("user", text)]).content

    return ask


@qbawa.step
def agent(name, text):
    graph = create_react_agent(models[name], [look])
    return str(graph.invoke({"messages": [("user", text)]})["messages"][-1].content)


async def use(name, model):
    await model.ainvoke(f"{name} async")
    async for _ in model.astream(f"{name} async stream"):
        pass


runner = asyncio.Runner()
for name, model in models.items():
    name_step(name)(f"{name} in a step")
    with qbawa.request(request_id="outside"):
        model.bind_tools([look]).invoke(f"{name} tools")
        list(model.stream(f"{name} stream"))
        model.batch([f"{name} batch {n}" for n in range(3)])
        if name != "own":
            model.with_structured_output(Place).invoke(f"{name} schema")
            agent(name, f"{name} agent tool")
        try:
            model.invoke(f"{name} fail")
        except Exception as error:
            print(type(error).__name__)
        runner.run(use(name, model))
