"""An app on the anthropic package: messages, streams, tools, betas."""

import asyncio
import sys

import anthropic

import qbawa

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="k", max_retries=1)  # made before it is recorded
qbawa.instrument(sys.argv[2])
aclient = anthropic.AsyncAnthropic(base_url=sys.argv[1], api_key="k", max_retries=1)
schema = {"type": "object", "properties": {"city": {"type": "string"}}}
tools = [{"name": "look", "description": "Looks.", "input_schema": schema}]
picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


def asked(text):
    return {"model": "claude-x", "max_tokens": 100, "messages": [{"role": "user", "content": text}]}


@qbawa.step
def ask(text):
    return client.messages.create(**asked(text)).content[0].text


@qbawa.step
def ask_twice(text):
    first = client.messages.create(**asked(f"{text} tools"), tools=tools)
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": "sunny"} for block in first.content]
    messages = [*asked(f"{text} tools")["messages"], {"role": "assistant", "content": first.content}]
    messages.append({"role": "user", "content": results})
    return client.messages.create(**{**asked(""), "messages": messages}, tools=tools).content[0].text


ask("in a step")
ask_twice("twice")
with qbawa.request(request_id="outside"):
    client.messages.create(**asked("hello"), system="Be brief.", stop_sequences=["x"])
    client.messages.create(**asked([{"type": "text", "text": "see"}, picture]))
    client.messages.create(**asked("think"), thinking={"type": "enabled", "budget_tokens": 50})
    list(client.messages.create(**asked("stream think"), stream=True))
    with client.messages.stream(**asked("helper tools"), tools=tools) as stream:
        stream.get_final_message()
    client.beta.messages.create(**asked("beta"), betas=["one-2025-01-01", "two-2025-01-01"])
    client.messages.with_raw_response.create(**asked("raw")).parse()
    client.messages.create(**asked("busy"))
    for call in (
        lambda: client.messages.create(**asked("fail")),
        lambda: list(client.messages.create(**asked("break one two three"), stream=True)),
    ):
        try:
            call()
        except Exception as error:
            print(type(error).__name__)
    with client.messages.create(**asked("left one two three"), stream=True) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                break


async def main():
    with qbawa.request(request_id="async"):
        await aclient.messages.create(**asked("async"))
        async with aclient.messages.stream(**asked("async stream")) as stream:
            await stream.get_final_text()
        async for _ in await aclient.messages.create(**asked("async create stream"), stream=True):
            pass
        await asyncio.gather(*[aclient.messages.create(**asked(f"task {n}")) for n in range(5)])


asyncio.run(main())
