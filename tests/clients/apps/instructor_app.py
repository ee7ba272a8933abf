"""An app on Instructor: typed answers by tools and by schema, from two providers."""

import asyncio
import sys

import qbawa

qbawa.instrument(sys.argv[2])

import anthropic  # noqa: E402
import instructor  # noqa: E402
import openai  # noqa: E402
from pydantic import BaseModel  # noqa: E402

url = sys.argv[1]


class Place(BaseModel):
    """A place."""

    name: str
    people: int


v1 = {"base_url": f"{url}/v1", "api_key": "k", "max_retries": 0}
clients = {
    "tools": instructor.from_openai(openai.OpenAI(**v1)),
    "json": instructor.from_openai(openai.OpenAI(**v1), mode=instructor.Mode.JSON_SCHEMA),
    "claude": instructor.from_anthropic(anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)),
}
aclient = instructor.from_openai(openai.AsyncOpenAI(**v1))


def asked(name, text):
    more = {"max_tokens": 99} if name == "claude" else {}
    return {"model": f"{name}-x", "messages": [{"role": "user", "content": text}], "response_model": Place, **more}


@qbawa.step
def ask(name, text):
    return clients[name].create(**asked(name, text), max_retries=0)


for name, client in clients.items():
    ask(name, f"{name} in a step")
    with qbawa.request(request_id="outside"):
        client.create(**asked(name, f"{name} again"))
        try:
            client.create(**asked(name, f"{name} fail"), max_retries=0)
        except Exception as error:
            print(type(error).__name__)
with qbawa.request(request_id="outside"):
    asyncio.run(aclient.create(**asked("tools", "async")))
    list(clients["tools"].create_partial(**asked("tools", "stream")))
