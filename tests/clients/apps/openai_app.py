"""An app on the openai package: both APIs, every way of calling them."""

import asyncio
import sys

import qbawa

qbawa.instrument(sys.argv[2])

import openai  # noqa: E402
from pydantic import BaseModel  # noqa: E402


class Place(BaseModel):
    name: str
    people: int


url = f"{sys.argv[1]}/v1"
client = openai.OpenAI(base_url=url, api_key="k", max_retries=1)
aclient = openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=1)
schema = {"type": "object", "properties": {"city": {"type": "string"}}}
tools = [{"type": "function", "function": {"name": "look", "parameters": schema}}]
flat_tools = [{"type": "function", "name": "look", "parameters": schema}]
picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


def asked(text):
    return {
        "model": "gpt-x",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}],
    }


@qbawa.step
def ask(text):
    return client.chat.completions.create(**asked(text)).choices[0].message.content


@qbawa.step
def ask_twice(text):
    first = client.chat.completions.create(**asked(f"{text} tools"), tools=tools).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in first.tool_calls]
    messages = [*asked(f"{text} tools")["messages"], first, *results]
    return client.chat.completions.create(model="gpt-x", messages=messages, tools=tools).choices[0].message.content


@qbawa.step
def respond(text):
    return client.responses.create(model="gpt-x", input=text).output_text


ask("in a step")
ask_twice("twice")
respond("responses in a step")
with qbawa.request(request_id="outside"):
    client.chat.completions.create(**asked("hello"), stop=["x"], extra_body={"top_k": 3}, timeout=9, logprobs=True, n=1)
    client.chat.completions.create(
        model="gpt-x", messages=[{"role": "user", "content": [{"type": "text", "text": "see"}, picture]}]
    )
    client.chat.completions.parse(**asked("schema"), response_format=Place)
    list(client.chat.completions.create(**asked("stream think"), stream=True, stream_options={"include_usage": True}))
    list(client.chat.completions.create(**asked("stream uncounted tools"), tools=tools, stream=True))
    with client.chat.completions.stream(**asked("helper schema"), response_format=Place) as stream:
        stream.get_final_completion()
    client.chat.completions.with_raw_response.create(**asked("raw")).parse()
    client.chat.completions.create(**asked("busy"))
    client.responses.create(model="gpt-x", input="responses tools think", instructions="Be brief.", tools=flat_tools)
    client.responses.parse(model="gpt-x", input="responses schema", text_format=Place)
    list(client.responses.create(model="gpt-x", input="responses stream tool", tools=flat_tools, stream=True))
    with client.responses.stream(model="gpt-x", input="responses helper") as stream:
        stream.get_final_response()
    for call in (
        lambda: client.chat.completions.create(**asked("fail")),
        lambda: client.responses.create(model="gpt-x", input="responses fail"),
        lambda: list(client.chat.completions.create(**asked("break one two three"), stream=True)),
        lambda: list(client.responses.create(model="gpt-x", input="break responses one two three", stream=True)),
    ):
        try:
            call()
        except Exception as error:
            print(type(error).__name__)
    with client.chat.completions.create(**asked("left one two three"), stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content == "echo ":
                break


async def main():
    with qbawa.request(request_id="async"):
        await aclient.chat.completions.create(**asked("async"))
        async for _ in await aclient.chat.completions.create(**asked("async stream"), stream=True):
            pass
        await aclient.responses.create(model="gpt-x", input="async responses")
        async with aclient.responses.stream(model="gpt-x", input="async responses stream") as stream:
            await stream.get_final_response()
        async with aclient.chat.completions.with_streaming_response.create(**asked("async raw")) as raw:
            await raw.parse()
        await asyncio.gather(*[aclient.chat.completions.create(**asked(f"task {n}")) for n in range(5)])


asyncio.run(main())
