"""An app on the groq package, which stands for the others that Stainless generates out of OpenAI's form."""

import asyncio
import sys

import qbawa

qbawa.instrument(sys.argv[2])

import groq  # noqa: E402

client = groq.Groq(base_url=sys.argv[1], api_key="k", max_retries=0)
aclient = groq.AsyncGroq(base_url=sys.argv[1], api_key="k", max_retries=0)
schema = {"type": "object", "properties": {"city": {"type": "string"}}}
tools = [{"type": "function", "function": {"name": "look", "parameters": schema}}]


def asked(text):
    return {"model": "llama-x", "messages": [{"role": "user", "content": text}]}


@qbawa.step
def ask(text):
    return client.chat.completions.create(**asked(text)).choices[0].message.content


ask("in a step")
with qbawa.request(request_id="outside"):
    client.chat.completions.create(**asked("tools"), tools=tools, temperature=0.2, stop=["x"])
    list(client.chat.completions.create(**asked("stream"), stream=True))
    list(client.chat.completions.create(**asked("stream tools"), tools=tools, stream=True))
    client.chat.completions.with_raw_response.create(**asked("raw")).parse()
    try:
        client.chat.completions.create(**asked("fail"))
    except groq.BadRequestError as error:
        print(type(error).__name__)


async def main():
    with qbawa.request(request_id="async"):
        await asyncio.gather(*[aclient.chat.completions.create(**asked(f"task {n}")) for n in range(3)])
        async for _ in await aclient.chat.completions.create(**asked("async stream"), stream=True):
            pass


asyncio.run(main())
