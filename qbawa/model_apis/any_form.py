"""What a value of unknown form says: logs hold what any API, framework or convention has written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from qbawa.errors import InputError
from qbawa.model_apis import anthropic, chat, frameworks, genai, google, other_parts, responses
from qbawa.model_apis.answers import answer_of, one_or_all, reasoning_of, tool_call
from qbawa.model_apis.canonical import detect_request_api, detect_response_api, read_request, read_response
from qbawa.model_apis.shapes import Answered, Asked, Untranslated, count_of, decoded, kind_of, string_or_none

_ITEMS = frozenset(
    {"function_call", "function_call_output", "reasoning", "custom_tool_call", "custom_tool_call_output", "item_reference",
     "web_search_call", "file_search_call", "computer_call", "computer_call_output", "code_interpreter_call",
     "image_generation_call", "local_shell_call", "local_shell_call_output", "mcp_call", "mcp_list_tools",
     "mcp_approval_request", "mcp_approval_response", "shell_call", "shell_call_output", "apply_patch_call",
     "apply_patch_call_output", "compaction", "tool_search_call"}
)  # fmt: skip
_ITEM_PARTS = frozenset({"input_text", "output_text", "input_image", "input_file"})
_BLOCKS = frozenset({"tool_use", "tool_result", "thinking", "redacted_thinking", "document", "server_tool_use"})
_CONVERSE = frozenset({"text", "toolUse", "toolResult", "image", "reasoningContent", "document", "video", "cachePoint"})
_USAGES = ("usage", "usage_metadata", "usageMetadata")
_COUNTS = (
    ("inputTokens", "outputTokens"),
    ("prompt_token_count", "candidates_token_count"),
    ("promptTokenCount", "candidatesTokenCount"),
)
_SCHEMAS = ("parameters", "input_schema", "inputSchema", "parameters_json_schema", "json_schema", "args_schema")


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    """Definitions that stood among the messages, as some instrumentations write them."""
    untranslated: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked, as far as a value says. `request` is a whole body, where the value is one and no chat completion."""

    asked: Asked
    api: str | None = None
    request: dict[str, Any] | None = None


def question_in(value: Any) -> Question | None:
    """What a request's body, a conversation or a prompt asks; None where the value is none of these."""
    if isinstance(value, str):
        return Question(Asked([{"role": "user", "content": value}], {})) if value.strip() else None
    if isinstance(value, list):
        found = conversation(value)
        return None if found is None else Question(Asked(found.messages, _tools(found.tools), found.untranslated))
    if not isinstance(value, dict):
        return None
    api = detect_request_api(value)
    if api in ("google.generate_content", "openai.responses", "anthropic.messages"):
        try:
            return Question(read_request(api, value), api, value)
        except (InputError, RecursionError):
            pass
    talk = conversation(value["messages"]) if isinstance(value.get("messages"), list) else None
    if talk is None and isinstance(value.get("prompt"), str | list):
        talk = _prompted(value)
    if talk is None and "role" in value:
        talk = conversation([value])
    if talk is None:
        return None
    parameters = {name: value[name] for name in chat.FIELDS if value.get(name) is not None and name != "tools"}
    config = value.get("toolConfig")
    tools = value.get("tools") or value.get("functions") or (config.get("tools") if isinstance(config, dict) else None)
    offered = [tool_of(tool) for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else talk.tools
    messages = talk.messages
    system = value.get("system") or value.get("instructions")
    if isinstance(system, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in system
    ):
        system = "\n".join(part["text"] for part in system)
    if isinstance(system, str) and system and not any(message.get("role") == "system" for message in messages):
        messages = [{"role": "system", "content": system}, *messages]
    return Question(Asked(messages, {**parameters, **_tools(offered)}, talk.untranslated))


def _tools(tools: list[dict[str, Any]]) -> dict[str, Any]:
    return {"tools": tools} if tools else {}


def _prompted(value: dict[str, Any]) -> Conversation | None:
    prompt = value["prompt"]
    if isinstance(prompt, str):
        return Conversation([{"role": "user", "content": prompt}], [], ()) if prompt.strip() else None
    return conversation(prompt)


def conversation(value: Any) -> Conversation | None:
    """The messages of a list, each in whatever style; None where one is none, or the list is empty."""
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]  # LangChain asks in batches
    if not isinstance(value, list) or not value:
        return None
    items = [_paired(item) for item in value]
    styles = [_style(item) for item in items]
    if None in styles:
        return None
    unknown, messages, tools = Untranslated(), list[dict[str, Any]](), list[dict[str, Any]]()
    try:
        for style, run in groupby(zip(styles, items, strict=True), key=lambda pair: pair[0]):
            group = [item for _, item in run]
            if style == "tool definition":
                tools += [tool_of(item["content"]) for item in group]
            else:
                messages += _READ[str(style)](group, "messages", unknown)
    except (InputError, RecursionError, KeyError):
        return None
    return Conversation(messages, tools, unknown.paths())


def _paired(item: Any) -> Any:
    """`["human", "Hi"]` as a message."""
    if isinstance(item, list) and len(item) == 2 and frameworks.role_of(item[0]) and isinstance(item[1], str | list):
        return {"role": item[0], "content": item[1]}
    return item


def _style(item: Any) -> str | None:
    """The style in which a message is written; None for what is no message."""
    if not isinstance(item, dict):
        return None
    content, parts, kind = item.get("content"), item.get("parts"), kind_of(item)
    if isinstance(parts, list) and ("role" in item or "content" not in item):
        if any(isinstance(part, dict) and "part_kind" in part for part in parts):
            return "pydantic_ai"
        typed = any(isinstance(part, dict) and kind_of(part) for part in parts)
        return "genai" if typed else "google"
    if "lc" in item and isinstance(item.get("kwargs"), dict):
        return "langchain"
    if kind == "FunctionExecutionResultMessage" and isinstance(content, list):
        return "autogen_results"
    if isinstance(item.get("data"), dict) and "content" in item["data"] and frameworks.role_of(kind):
        return "langchain"
    if kind in _ITEMS and "role" not in item:
        return "responses"
    if any(key.startswith("message.") for key in item):
        return "openinference"
    inner = item.get("message")
    if "role" not in item and isinstance(inner, dict) and ("role" in inner or "content" in inner):
        return "openinference"
    if "role" not in item and "content" in item and frameworks.role_of(kind):
        return "langchain"
    if isinstance(item.get("blocks"), list) and any(isinstance(b, dict) and "block_type" in b for b in item["blocks"]):
        return "llama_index"
    if frameworks.role_of(item.get("from")) and "value" in item:
        return "sharegpt"
    role = frameworks.role_of(item.get("role"))
    if role is None:
        return None
    if role == "tool" and isinstance(content, dict) and kind_of(content) == "function" and "function" in content:
        return "tool definition"
    kinds = {kind_of(part) for part in content if isinstance(part, dict)} if isinstance(content, list) else set()
    if kinds == {""} and all(isinstance(part, dict) and part.keys() & _CONVERSE for part in content or ()):
        return "bedrock"
    if kinds & _ITEM_PARTS:
        return "responses"
    if kinds & _BLOCKS or any(
        isinstance(p, dict) and isinstance(p.get("source"), dict) for p in content or () if kinds
    ):
        return "anthropic"
    return "vercel" if "tool-result" in kinds else "plain"


def _each(read: Callable[..., Any]) -> Callable[[list[Any], str, Untranslated], list[dict[str, Any]]]:
    def messages(items: list[Any], where: str, unknown: Untranslated) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for number, item in enumerate(items):
            made = read(item, f"{where}[{number}]", unknown)
            found += made if isinstance(made, list) else [made]
        return found

    return messages


def _named(read: Callable[..., Any]) -> Callable[[list[Any], str, Untranslated], list[dict[str, Any]]]:
    """With roles in chat's words first: frameworks put blocks of an API below roles of their own."""

    def messages(items: list[Any], where: str, unknown: Untranslated) -> list[dict[str, Any]]:
        named = [
            {**i, "role": frameworks.role_of(i["role"])} if frameworks.role_of(i.get("role")) else i for i in items
        ]
        found: list[dict[str, Any]] = read(named, where, unknown)
        return found

    return messages


_READ: dict[str, Callable[[list[Any], str, Untranslated], list[dict[str, Any]]]] = {
    "genai": _named(genai.messages_of),
    "google": google.messages_of,
    "responses": _named(responses.messages_of),
    "anthropic": _named(anthropic.messages_of),
    "langchain": _each(frameworks.langchain),
    "openinference": _each(frameworks.openinference),
    "autogen_results": _each(other_parts.autogen_results),
    "bedrock": _each(other_parts.bedrock),
    "pydantic_ai": _each(other_parts.pydantic_ai),
    "llama_index": _each(frameworks.llama_index),
    "sharegpt": _each(frameworks.sharegpt),
    "vercel": _each(frameworks.vercel),
    "plain": _each(frameworks.plain),
}


def tool_of(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool's definition as chat completions write it, of whichever API; what is no function stays as it is."""
    if isinstance(tool.get("function"), dict):
        return {"type": "function", **tool}
    if isinstance(tool.get("toolSpec"), dict):  # Bedrock
        schema = tool["toolSpec"].get("inputSchema")
        inner = schema.get("json", schema) if isinstance(schema, dict) else schema
        return tool_of({**tool["toolSpec"], "inputSchema": inner})
    if not isinstance(tool.get("name"), str) or kind_of(tool) not in ("", "function", "custom", "tool"):
        return tool
    schema = next((decoded(tool[name]) for name in _SCHEMAS if tool.get(name)), None)
    function = {
        "name": tool["name"],
        "description": tool.get("description"),
        "parameters": schema,
        "strict": tool.get("strict"),
    }
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def answer_in(value: Any) -> Answered | None:
    """What a response's body, a message, parts of one or a text answers; None where the value is none of these."""
    if isinstance(value, str):
        return Answered(value)
    api = detect_response_api(value)
    if api:
        try:
            return read_response(api, value)
        except (InputError, RecursionError):
            return None
    if isinstance(value, list):
        return _listed(value)
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("generations"), list):
        return _langchain_result(value)
    for name in ("message", "response", "body", "raw", "output"):  # a choice, or a response in a wrapping
        inner = value.get(name)
        if isinstance(inner, dict) and (
            _style(inner) or detect_response_api(inner) or isinstance(inner.get("message"), dict)
        ):
            found = answer_in(inner)
            return None if found is None else _counted(found, value)
    candidate = value.get("content")
    if isinstance(candidate, dict) and isinstance(
        candidate.get("parts"), list
    ):  # one candidate of Google's, as its ADK logs it
        try:
            output, reasoning = google.answer_of_parts(candidate["parts"])
        except InputError:
            return None
        return _counted(Answered(output, reasoning), value)
    if (
        "role" not in value
        and "content" in value
        and value.keys() & {"finish_reason", "thought", "stop_reason", "finishReason"}
    ):
        value = {**value, "role": "assistant"}
    if isinstance(value.get("toolCalls"), list) or isinstance(value.get("tool_calls"), list) and "role" not in value:
        value = {**value, "role": "assistant", "content": value.get("content", value.get("text"))}
        value["tool_calls"] = value.get("tool_calls") or value.get("toolCalls")
    elif isinstance(value.get("text"), str) and value.keys() <= {"text", "finishReason", "usage", "toolCalls", "files"}:
        return Answered(value["text"])
    return _of_messages([value])


def _counted(answer: Answered, around: dict[str, Any]) -> Answered:
    """The answer with the tokens that its wrapping counts, where it counts none itself."""
    if answer.input_tokens is not None or answer.output_tokens is not None:
        return answer
    usage: dict[str, Any] = next((around[name] for name in _USAGES if isinstance(around.get(name), dict)), {})
    input_tokens, output_tokens, cached = chat.tokens_of(usage)
    for asked, said in _COUNTS:
        if input_tokens is None and asked in usage:
            input_tokens, output_tokens = count_of(usage[asked]), count_of(usage.get(said))
    return replace(answer, input_tokens=input_tokens, output_tokens=output_tokens, cached_tokens=cached)


def _listed(items: list[Any]) -> Answered | None:
    if not items:
        return None
    if all(isinstance(item, str) for item in items):
        return Answered(one_or_all(items))
    if len(items) == 1 and isinstance(items[0], list):
        return _listed(items[0])
    dicts = [item for item in items if isinstance(item, dict)]
    if len(dicts) != len(items):
        return None
    kinds = {kind_of(item) for item in dicts}
    if kinds & _ITEMS and kinds <= _ITEMS | {"message"}:
        output, reasoning = responses.answer_of_items(items)
        return Answered(output, reasoning)
    if all("toolName" in item or "toolCallId" in item for item in dicts):  # the AI SDK, where nothing else is said
        calls = [frameworks.chat_call(item)["function"] for item in dicts]
        return Answered({"role": "assistant", "content": None, "tool_calls": [tool_call(**call) for call in calls]})
    if kinds <= {"text", "tool_use", "thinking", "redacted_thinking", "server_tool_use"} and kinds and "" not in kinds:
        output, reasoning = anthropic.answer_of_blocks(items)
        return Answered(output, reasoning)
    wrapped = [answer_in(item) for item in dicts] if all("message" in item or "role" in item for item in dicts) else []
    if len(wrapped) == 1:
        return wrapped[0]
    return _of_messages(dicts)


def _of_messages(items: list[Any]) -> Answered | None:
    """The answer of one message, of several choices, or of the last turn of a conversation."""
    found = conversation(items)
    if found is None or not found.messages:
        return None
    said = [message for message in found.messages if message.get("role") == "assistant"]
    if not said:
        return None
    if len(said) < len(found.messages):
        said = said[-1:] if found.messages[-1] is said[-1] else []
    if not said:
        return None
    usage = items[-1].get("usage_metadata") or items[-1].get("usage") if isinstance(items[-1], dict) else None
    input_tokens, output_tokens, cached = chat.tokens_of(usage)
    answer = Answered(one_or_all([answer_of(message) for message in said]), reasoning_of(said[-1]))
    return replace(answer, input_tokens=input_tokens, output_tokens=output_tokens, cached_tokens=cached)


def _langchain_result(value: dict[str, Any]) -> Answered | None:
    """`{"generations": [[{"text", "message"}]], "llm_output": {…}}`."""
    flat = list(_generations(value["generations"]))
    answers = []
    for generation in flat:
        message = generation.get("message")
        inner = answer_in(message) if isinstance(message, dict) else None
        answers.append(inner or (Answered(generation["text"]) if isinstance(generation.get("text"), str) else None))
    said = [answer for answer in answers if answer is not None]
    if not said:
        return None
    llm = value.get("llm_output")
    usage = llm.get("token_usage") or llm.get("usage") if isinstance(llm, dict) else None
    counted = chat.tokens_of(usage)
    if counted[0] is None and said[0].input_tokens is not None:
        counted = said[0].input_tokens, said[0].output_tokens, said[0].cached_tokens
    model = string_or_none(llm.get("model_name") or llm.get("model")) if isinstance(llm, dict) else None
    return Answered(one_or_all([answer.output for answer in said]), said[0].reasoning, model, *counted)


def _generations(value: list[Any]) -> Iterator[dict[str, Any]]:
    for item in value:
        if isinstance(item, list):
            yield from (inner for inner in item if isinstance(inner, dict))
        elif isinstance(item, dict):
            yield item
