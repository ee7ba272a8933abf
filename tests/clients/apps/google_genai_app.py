"""An app on the google-genai package: generate_content, streams, chats, functions called by itself."""

import asyncio
import sys

import qbawa

qbawa.instrument(sys.argv[2])

from google import genai  # noqa: E402
from google.genai import types  # noqa: E402
from pydantic import BaseModel  # noqa: E402


class Place(BaseModel):
    name: str
    people: int


def look(city: str) -> str:
    """Looks."""
    return "sunny"


client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=sys.argv[1]))
models, amodels, model = client.models, client.aio.models, "gemini-x"
declared = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name="look", parameters={"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}
        )
    ]
)


@qbawa.step
def ask(text):
    return models.generate_content(model=model, contents=text).text


@qbawa.step
def ask_twice(text):  # the client calls the function and asks again
    config = types.GenerateContentConfig(tools=[look])
    return models.generate_content(model=model, contents=f"{text} tool", config=config).text


ask("in a step")
ask_twice("twice")
with qbawa.request(request_id="outside"):
    config = types.GenerateContentConfig(system_instruction="Be brief.", temperature=0.2, stop_sequences=["x"], seed=7)
    models.generate_content(model=model, contents="hello", config=config)
    picture = types.Part.from_bytes(data=b"hi", mime_type="image/png")
    models.generate_content(model=model, contents=["see", picture])
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Place)
    models.generate_content(model=model, contents="schema", config=config)
    list(models.generate_content_stream(model=model, contents="stream think"))
    list(models.generate_content_stream(model=model, contents="stream uncounted"))
    config = types.GenerateContentConfig(tools=[declared])
    models.generate_content(model=model, contents="tools", config=config)
    list(models.generate_content_stream(model=model, contents="stream tools", config=config))
    chat = client.chats.create(model=model)
    chat.send_message("chat one")
    chat.send_message("chat two")
    for call in (
        lambda: models.generate_content(model=model, contents="fail"),
        lambda: list(models.generate_content_stream(model=model, contents="break one two three")),
    ):
        try:
            call()
        except Exception as error:
            print(type(error).__name__)
    stream = models.generate_content_stream(model=model, contents="left one two three")
    next(stream)
    stream.close()


async def main():
    with qbawa.request(request_id="async"):
        await amodels.generate_content(model=model, contents="async")
        async for _ in await amodels.generate_content_stream(model=model, contents="async stream"):
            pass
        await asyncio.gather(*[amodels.generate_content(model=model, contents=f"task {n}") for n in range(5)])


asyncio.run(main())
