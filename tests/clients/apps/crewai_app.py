"""An app on CrewAI: its own clients of three providers, and a crew at work."""

import os
import sys

os.environ.update(CREWAI_DISABLE_TELEMETRY="true", OTEL_SDK_DISABLED="true", CREWAI_TRACING_ENABLED="false")

import qbawa  # noqa: E402

qbawa.instrument(sys.argv[2])

from crewai import LLM, Agent, Crew, Task  # noqa: E402
from crewai.tools import tool  # noqa: E402

url = sys.argv[1]


@tool("look")
def look(city: str) -> str:
    """Looks."""
    return "sunny"


models = {
    "chat": LLM(model="openai/gpt-4o-mini", base_url=f"{url}/v1", api_key="k", max_retries=0),
    "responses": LLM(model="openai/gpt-4o-mini", base_url=f"{url}/v1", api_key="k", max_retries=0, api="responses"),
    "claude": LLM(model="anthropic/claude-sonnet-4-5", base_url=url, api_key="k", max_retries=0, max_tokens=99),
}


@qbawa.step
def ask(name, text):
    return models[name].call([{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}])


@qbawa.step
def crew(name, text):
    worker = Agent(role="scout", goal="look", backstory="old", llm=models[name], tools=[look], max_iter=3)
    task = Task(description=text, expected_output="weather", agent=worker)
    return str(Crew(agents=[worker], tasks=[task]).kickoff())


for name, model in models.items():
    ask(name, f"{name} in a step")
    with qbawa.request(request_id="outside"):
        crew(name, f"{name} crew tools")
        try:
            model.call(f"{name} fail")
        except Exception as error:
            print(type(error).__name__)
