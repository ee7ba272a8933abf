"""An app on Haystack: pipelines and an agent."""

import asyncio
import sys

import qbawa

qbawa.instrument(sys.argv[2])

from haystack import Pipeline  # noqa: E402
from haystack.components.agents import Agent  # noqa: E402
from haystack.components.builders import ChatPromptBuilder  # noqa: E402
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator  # noqa: E402
from haystack.dataclasses import ChatMessage  # noqa: E402
from haystack.tools import create_tool_from_function  # noqa: E402
from haystack.utils import Secret  # noqa: E402


def look(city: str) -> str:
    """Looks."""
    return "sunny"


tool = create_tool_from_function(look)
options = {"model": "gpt-x", "api_base_url": f"{sys.argv[1]}/v1", "api_key": Secret.from_token("k"), "max_retries": 0}
kinds = {"chat": OpenAIChatGenerator, "responses": OpenAIResponsesChatGenerator}


@qbawa.step
def ask(name, text):
    pipeline = Pipeline()
    template = [ChatMessage.from_system("Be brief."), ChatMessage.from_user("{{text}}")]
    pipeline.add_component("prompt", ChatPromptBuilder(template=template))
    pipeline.add_component("model", kinds[name](**options))
    pipeline.connect("prompt.prompt", "model.messages")
    return pipeline.run({"prompt": {"text": text}})["model"]["replies"][0].text


@qbawa.step
def agent(name, text):
    runner = Agent(chat_generator=kinds[name](**options), tools=[tool])
    return runner.run(messages=[ChatMessage.from_user(text)])["messages"][-1].text


for name, kind in kinds.items():
    ask(name, f"{name} in a step")
    with qbawa.request(request_id="outside"):
        agent(name, f"{name} agent tools")
        kind(**options, streaming_callback=lambda chunk: None).run([ChatMessage.from_user(f"{name} stream")])
        try:
            kind(**options).run([ChatMessage.from_user(f"{name} fail")])
        except Exception as error:
            print(type(error).__name__)
        asyncio.run(kind(**options).run_async([ChatMessage.from_user(f"{name} async")]))
