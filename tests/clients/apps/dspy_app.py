"""An app on DSPy: its own engine for three providers, litellm behind another, and a model of the app's own."""

import asyncio
import sys

import qbawa

qbawa.instrument(sys.argv[2])

import dspy  # noqa: E402

url = sys.argv[1]
options = {"api_key": "k", "cache": False, "num_retries": 0}
models = {
    "chat": dspy.LM("openai/gpt-4o-mini", api_base=f"{url}/v1", temperature=0.3, **options),
    "responses": dspy.LM("openai/gpt-4o-mini", api_base=f"{url}/v1", model_type="responses", **options),
    "claude": dspy.LM("anthropic/claude-sonnet-4-5", api_base=url, max_tokens=99, **options),
    "gemini": dspy.LM("gemini/gemini-2.5-flash", api_base=url, **options),
    "litellm": dspy.LM("openai/gpt-4o-mini", api_base=f"{url}/v1", engine="litellm", **options),
}


@qbawa.step
def ask(name, text):
    return models[name](text)[0]


async def use(name, model):
    await model.acall(f"{name} async")


for name, model in models.items():
    ask(name, f"{name} in a step")
    with qbawa.request(request_id="outside"):
        model(messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{name} messages"}])
        try:
            model(f"{name} fail")
        except Exception as error:
            print(type(error).__name__)
        asyncio.run(use(name, model))
