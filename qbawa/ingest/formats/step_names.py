"""After what a model call is named: the task, agent or function that an application's author would name."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

# What instrumentation calls a model call: the client's class, the provider's method.
GENERIC_CALL = re.compile(
    r"(?:[a-z_.-]*(?:openai|anthropic|claude|google|gemini|genai|vertexai?|bedrock|cohere|mistral(?:ai)?|ollama|groq|azure"
    r"|litellm|together|replicate|huggingface|watsonx|deepseek|xai|fireworks)[a-z_]*[._/ -].*)"
    r"|(?:async)?(?:chat|llm|text|raw_gen_ai|litellm|model)?[ ._-]?(?:chat|llm|completions?|responses?|messages?|generate"
    r"|generate_?content|generation|invoke|invoke_?model|converse|request|call|embeddings?|create|parse|stream)"
    r"(?:[ ._-](?:create|parse|stream|call|request))?"
    r"|chat[A-Z]\w*|Chat[A-Z]\w*|\w*(?:LLM|Llm)|ai\.\w+(?:\.\w+)*|[A-Z]\w+\.(?:a?invoke|a?call|a?generate|a?complete|response)"
    r"(?:_stream)?|GenerateContent|(?:OpenAI|Anthropic|AzureOpenAI|Completion|ChatCompletion|Messages|Responses?)(?:-generation)?",
)
# Names of frameworks' own parts, which say nothing about what the application does.
GENERIC_ENTITY = re.compile(
    r"Runnable\w*|LangGraph|\w*PromptTemplate|\w*OutputParser|ChannelWrite.*|_write|__start__|Crew\.\w+|Crew Created"
    r"|Task Created|Task\._\w+|Flow\.\w+|Agent|Agent\.\w+|AgentExecutor|[Aa]gent run|Agent workflow|StateGraph|\w+Chain"
    r"|Chat[A-Z]\w*|invoke_agent|create_agent|invoke_workflow|execute_tool|trace|span|init|solvers?|scorers?"
)
_ID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}|[0-9a-f]{16,}", re.IGNORECASE)
_AROUND = re.compile(r"(?:invoke_agent|create_agent|invoke_workflow|execute_tool|running tool:?) +(.+)|(.+) run")


@dataclass(frozen=True, slots=True)
class Node:
    """One thing of a log that other things stand below."""

    id: str
    parent_id: str | None
    name: str
    kind: str
    """`call` for a model call; else in one word what it is: agent, tool, chain, span."""
    model: str | None = None
    task: str | None = None
    """What it says itself of the task, node or agent that it belongs to."""


def step_names(nodes: Sequence[Node]) -> dict[str, str]:
    """The name of the step that each node is, by id.

    A call keeps a name that its author gave it. Otherwise it is named after what is nearest above it; that itself is
    then called `<name>.<kind>`, for two different things under one name would be replayed as one.
    """
    by_id = {node.id: node for node in nodes}
    names: dict[str, str] = {}
    lent: set[str] = set()
    for node in nodes:
        if node.kind == "call":
            names[node.id] = _call_name(node, by_id, lent)
    called = set(names.values())
    for node in nodes:
        if node.kind != "call":
            own = own_name(node.name) or node.kind
            names[node.id] = f"{own}.{node.kind}" if node.id in lent or own in called else own
    return names


def own_name(name: str, model: str | None = None) -> str:
    """A name without ids and without the words that conventions put around it."""
    around = _AROUND.fullmatch(name)
    inner = (around[1] or around[2]) if around else name
    bare = _ID.sub("", inner).strip(" -_:/")
    if not bare:
        bare = _ID.sub("", name).strip(" -_:/")
    return bare.removesuffix(model).strip(" -_:/") if model and bare != model else bare


def _call_name(node: Node, by_id: Mapping[str, Node], lent: set[str]) -> str:
    own = own_name(node.name, node.model)
    if own and not GENERIC_CALL.fullmatch(own):
        return own
    for above in _above(node, by_id):
        if above.kind == "call":
            continue
        name = own_name(above.name)
        if name == node.task or (name and not GENERIC_ENTITY.fullmatch(name) and not GENERIC_CALL.fullmatch(name)):
            lent.add(above.id)
            return name
    if node.task:
        return node.task
    return own or "llm"


def _above(node: Node, by_id: Mapping[str, Node]) -> Iterator[Node]:
    """Ancestors, nearest first; a circle ends it."""
    seen = {node.id}
    at = by_id.get(node.parent_id or "")
    while at is not None and at.id not in seen:
        seen.add(at.id)
        yield at
        at = by_id.get(at.parent_id or "")
