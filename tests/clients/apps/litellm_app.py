"""An app on litellm: three providers, the Responses API, streams."""

import asyncio
import sys

import qbawa

qbawa.instrument(sys.argv[2])

import litellm  # noqa: E402
import openai  # noqa: E402
from pydantic import BaseModel  # noqa: E402


class Place(BaseModel):
    name: str
    people: int


plain = {"api_base": sys.argv[1], "api_key": "k", "max_retries": 0, "num_retries": 0}
v1 = {**plain, "api_base": f"{sys.argv[1]}/v1"}
schema = {"type": "object", "properties": {"city": {"type": "string"}}}
tools = [{"type": "function", "function": {"name": "look", "parameters": schema}}]
flat_tools = [{"type": "function", "name": "look", "parameters": schema}]
GPT, CLAUDE, GEMINI = "openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash"


def asked(text):
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


@qbawa.step
def ask(text):
    return litellm.completion(GPT, asked(text), **v1).choices[0].message.content


@qbawa.step
def respond(text):
    return litellm.responses(model=GPT, input=text, instructions="Be brief.", tools=flat_tools, **v1).id


@qbawa.step
def beside(text):  # what the app itself asks through the openai package is recorded too
    client = openai.OpenAI(base_url=v1["api_base"], api_key="k")
    return client.chat.completions.create(model="gpt-4o-mini", messages=asked(text)).choices[0].message.content


ask("in a step")
respond("responses tools")
beside("beside")
with qbawa.request(request_id="outside"):
    litellm.completion(GPT, asked("gpt tools"), tools=tools, temperature=0.3, **v1)
    litellm.completion(CLAUDE, asked("claude tools"), tools=tools, max_tokens=77, **plain)
    litellm.completion(GEMINI, asked("gemini tools"), tools=tools, **plain)
    litellm.completion(GPT, asked("schema"), response_format=Place, **v1)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "aGkh" * 5_000}}
    litellm.completion(GPT, [{"role": "user", "content": [{"type": "text", "text": "see"}, picture]}], **v1)
    list(litellm.completion(GPT, asked("gpt stream"), stream=True, **v1))
    list(litellm.completion(CLAUDE, asked("claude stream"), stream=True, **plain))
    list(litellm.responses(model=GPT, input="responses stream", stream=True, **v1))
    litellm.responses(model=CLAUDE, input="responses claude", instructions="Be brief.", **plain)
    for call in (
        lambda: litellm.completion(GPT, asked("fail"), **v1),
        lambda: litellm.responses(model=GPT, input="responses fail", **v1),
    ):
        try:
            call()
        except Exception as error:
            print(type(error).__name__)


async def main():
    with qbawa.request(request_id="async"):
        await litellm.acompletion(GPT, asked("async"), **v1)
        async for _ in await litellm.acompletion(GPT, asked("async stream"), stream=True, **v1):
            pass
        await litellm.aresponses(model=GPT, input="async responses", **v1)
        await litellm.anthropic_messages(model=CLAUDE, messages=asked("async messages")[1:], max_tokens=9, **plain)
        await asyncio.gather(*[litellm.acompletion(CLAUDE, asked(f"task {n}"), **plain) for n in range(5)])


asyncio.run(main())
