"""Google's generateContent, as its REST API (camelCase) and as its Python client (snake_case) write it."""

import re
from typing import Any

from qbawa.errors import InputError
from qbawa.model_apis.answers import joined, made, one_or_all, text_of, tool_call
from qbawa.model_apis.shapes import (
    ACCOUNTING,
    Answered,
    Asked,
    Untranslated,
    count_of,
    json_text,
    kind_of,
    mapping,
    objects,
    request_body,
    shown,
    string_or_none,
    without,
)

_underscore = re.compile(r"_([a-z0-9])")
_NAMES = {
    "temperature": "temperature",
    "topP": "top_p",
    "maxOutputTokens": "max_completion_tokens",
    "stopSequences": "stop",
    "candidateCount": "n",
    "seed": "seed",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
    "responseLogprobs": "logprobs",
    "logprobs": "top_logprobs",
}
_SAYS_NOTHING = frozenset(
    {"automaticFunctionCalling", "safetySettings", "serviceTier", "shouldReturnHttpResponse", "store"}
)
"""When the provider withholds an answer, how it is served, and what the client library does by itself."""
_AUDIO = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mp3": "mp3", "audio/mpeg": "mp3"}
_MODES = {"AUTO": "auto", "ANY": "required", "NONE": "none", "VALIDATED": "auto"}
_FINISHES = {"STOP": "stop", "MAX_TOKENS": "length"}
_FILTERS = frozenset({"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE"})


def read_request(body: Any) -> Asked:
    """Contents and system instruction as chat messages; configuration under chat's names."""
    asked = _camel(request_body(body, "The request"))
    if asked.get("contents") is None:
        raise InputError(f"The request of generateContent needs contents; it is {shown(body)}.")
    unknown = Untranslated()
    settings = _settings(asked)
    messages = [
        *_system(settings.pop("systemInstruction", None), unknown),
        *messages_of(asked["contents"], "contents", unknown),
    ]
    return Asked(messages, _parameters(settings, unknown), unknown.paths())


def _settings(asked: dict[str, Any]) -> dict[str, Any]:
    """Everything but model and contents, on one level: REST nests some of it, the Python client all."""
    settings = without(asked, "model", "contents", "config", "generationConfig")
    for name in ("config", "generationConfig"):
        nested = asked.get(name)
        settings |= _camel(without(nested)) if isinstance(nested, dict) else {}
    return settings


def messages_of(contents: Any, where: str, unknown: Untranslated) -> list[dict[str, Any]]:
    """Chat messages of contents: a text, a part, a content, or a list of these."""
    found: list[dict[str, Any]] = []
    waiting: dict[str, list[str]] = {}
    for number, item in enumerate(contents if isinstance(contents, list) else [contents]):
        place = f"{where}[{number}]"
        if isinstance(item, str):
            item = {"parts": [{"text": item}]}
        content = mapping(item, place)
        parts = content.get("parts") if "parts" in content or "role" in content else [content]
        found += _messages(content, parts, place, number, waiting, unknown)
    return found


def _messages(
    content: dict[str, Any], parts: Any, place: str, number: int, waiting: dict[str, list[str]], unknown: Untranslated
) -> list[dict[str, Any]]:
    """A message of the model, or of the user; each function's response is a message of its own."""
    role = content.get("role")
    shared: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    thoughts = []
    texts = [{"text": part} if isinstance(part, str) else part for part in parts] if isinstance(parts, list) else parts
    for where, raw in objects([texts] if isinstance(texts, dict) else texts, f"{place}.parts"):
        part = _camel(raw)
        if part.get("thought") and isinstance(part.get("text"), str):
            thoughts.append(part["text"])
        elif isinstance(part.get("functionCall"), dict):
            call, name = part["functionCall"], str(part["functionCall"].get("name"))
            # This API needs no ids; chat completions do.
            id = string_or_none(call.get("id")) or f"call_{number}_{len(calls)}"
            waiting.setdefault(name, []).append(id)
            function = {"name": call.get("name"), "arguments": json_text(call.get("args") or {})}
            calls.append({"id": id, "type": "function", "function": function})
        elif isinstance(part.get("functionResponse"), dict):
            results.append(_result(part["functionResponse"], waiting))
            if part["functionResponse"].get("parts"):
                unknown.add(f"{where}.functionResponse.parts")
        else:
            shared.append(_part(part, raw, where, unknown))
    said: list[dict[str, Any]] = []
    if role == "model":
        plain = len(shared) == 1 and shared[0].keys() == {"type", "text"}
        message: dict[str, Any] = {"role": "assistant", "content": shared[0]["text"] if plain else shared or None}
        message |= {"tool_calls": calls} if calls else {}
        thought = joined(thoughts)
        said = [{**message, "reasoning_content": thought} if thought else message]
    elif shared or not results:
        said = [{"role": role if isinstance(role, str) and role != "function" else "user", "content": shared}]
    return [*results, *said]


def _result(response: dict[str, Any], waiting: dict[str, list[str]]) -> dict[str, Any]:
    name = str(response.get("name"))
    known = waiting.get(name) or []
    id = string_or_none(response.get("id"))
    if id is None:
        id = known.pop(0) if known else f"call_{name}"
    elif id in known:
        known.remove(id)
    return {"role": "tool", "tool_call_id": id, "name": name, "content": json_text(response.get("response"))}


def _system(value: Any, unknown: Untranslated) -> list[dict[str, Any]]:
    if not value:
        return []
    if isinstance(value, str):
        return [{"role": "system", "content": value}]
    parts = []
    for number, item in enumerate(value if isinstance(value, list) else [value]):
        if isinstance(item, str):
            parts.append({"type": "text", "text": item})
            continue
        place = f"systemInstruction[{number}]" if isinstance(value, list) else "systemInstruction"
        content = mapping(item, place)
        inner = content.get("parts") if "parts" in content else [content]
        for where, part in objects(inner if isinstance(inner, list) else [inner], f"{place}.parts"):
            parts.append(_part(_camel(part), part, where, unknown))
    if all(part.keys() == {"type", "text"} for part in parts):
        return [{"role": "system", "content": "\n".join(str(part["text"]) for part in parts)}]
    return [{"role": "system", "content": parts}]


def _part(part: dict[str, Any], raw: dict[str, Any], place: str, unknown: Untranslated) -> dict[str, Any]:
    if isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    blob, file = part.get("inlineData"), part.get("fileData")
    if isinstance(blob, dict) and (media := _media(_camel(blob))):
        return media
    if isinstance(file, dict):
        about = _camel(file)
        uri, mime = about.get("fileUri"), str(about.get("mimeType") or "")
        # Files of Google's own store are read by nobody else.
        if (
            isinstance(uri, str)
            and uri.startswith("http")
            and mime.startswith("image/")
            and "googleapis.com" not in uri
        ):
            return {"type": "image_url", "image_url": {"url": uri}}
    named = next((name for name in without(part) if name not in ("thought", "thoughtSignature")), None)
    unknown.add(place, named or "an empty part")
    return raw


def _media(blob: dict[str, Any]) -> dict[str, Any] | None:
    """An image, a sound or a file that a part holds itself."""
    data, mime = blob.get("data"), blob.get("mimeType")
    if isinstance(data, dict):  # bytes, as the recorder writes them (docs/recording.md)
        data = data.get("base64")
    if not isinstance(data, str) or not isinstance(mime, str):
        return None
    if mime in _AUDIO:
        return {"type": "input_audio", "input_audio": {"data": data, "format": _AUDIO[mime]}}
    url = f"data:{mime};base64,{data}"
    if mime.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    name = blob.get("displayName")
    return {"type": "file", "file": {"file_data": url, **({"filename": name} if name else {})}}


def _parameters(settings: dict[str, Any], unknown: Untranslated) -> dict[str, Any]:
    found: dict[str, Any] = {}
    schema = next((settings[n] for n in ("responseJsonSchema", "responseSchema") if settings.get(n)), None)
    mime = settings.get("responseMimeType")
    if isinstance(schema, dict):
        format = {"name": "answer", "schema": json_schema(schema)}
        found["response_format"] = {"type": "json_schema", "json_schema": format}
    elif schema is not None:
        unknown.add("responseSchema")
    elif mime == "application/json":
        found["response_format"] = {"type": "json_object"}
    for name, value in settings.items():
        if name in ("responseSchema", "responseJsonSchema") or name in ACCOUNTING or name in _SAYS_NOTHING:
            continue
        if name in _NAMES:
            found[_NAMES[name]] = value
        elif name == "responseMimeType":
            if value not in ("application/json", "text/plain"):
                found["response_mime_type"] = value
                unknown.add(name, value)
        elif name == "tools":
            found["tools"] = [made for place, tool in objects(value, "tools") for made in _tools(tool, place, unknown)]
        elif name == "toolConfig" and isinstance(value, dict):
            found |= _tool_choice(_camel(value), unknown)
        elif name == "thinkingConfig" and isinstance(value, dict):
            found |= _thinking(_camel(value), unknown)
        elif name == "responseModalities" and value in (["TEXT"], ["text"]):
            continue
        else:
            own = "top_k" if name == "topK" else _snake(name)
            found[own] = value
            unknown.add(own)
    return found


def _tools(tool: dict[str, Any], place: str, unknown: Untranslated) -> list[dict[str, Any]]:
    tools = []
    if kind_of(tool) == "function" and isinstance(tool.get("function"), dict):
        return [tool]
    for name, value in without(_camel(tool)).items():
        if name == "functionDeclarations" and isinstance(value, list):
            for where, raw in objects(value, f"{place}.functionDeclarations"):
                declared = _camel(raw)
                schema = declared.get("parametersJsonSchema") or declared.get("parameters")
                function = {"name": declared.get("name"), "description": declared.get("description")}
                if isinstance(schema, dict):
                    function["parameters"] = json_schema(schema)
                elif schema is not None:
                    unknown.add(f"{where}.parameters")
                tools.append({"type": "function", "function": without(function)})
        else:
            unknown.add(place, name)
            tools.append({_snake(name): value})
    return tools


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema as JSON Schema spells it: types in small letters, null among them, keys as they are called there."""
    found: dict[str, Any] = {}
    for key, value in without(schema).items():
        name = (
            "".join(part if n == 0 else part.capitalize() for n, part in enumerate(key.split("_")))
            if key[:1] != "$"
            else key
        )
        if name == "type" and isinstance(value, str):
            found["type"] = value.rsplit(".", 1)[-1].lower()
        elif name in ("properties", "$defs", "defs") and isinstance(value, dict):
            inner = {n: json_schema(v) if isinstance(v, dict) else v for n, v in value.items()}
            found["$defs" if name == "defs" else name] = inner
        elif name in ("items", "additionalProperties") and isinstance(value, dict):
            found[name] = json_schema(value)
        elif name in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            found[name] = [json_schema(v) if isinstance(v, dict) else v for v in value]
        elif name not in ("nullable", "propertyOrdering"):
            found[name] = value
    if schema.get("nullable") is True and isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
    return found


def _tool_choice(config: dict[str, Any], unknown: Untranslated) -> dict[str, Any]:
    calling = config.get("functionCallingConfig")
    for name in without(config, "functionCallingConfig"):
        unknown.add(f"toolConfig.{name}")
    if not isinstance(calling, dict):
        return {}
    calling = _camel(calling)
    mode = str(calling.get("mode") or "AUTO").rsplit(".", 1)[-1].upper()
    allowed = calling.get("allowedFunctionNames")
    if mode not in _MODES:
        unknown.add("toolConfig.functionCallingConfig.mode", mode)
        return {}
    if isinstance(allowed, list) and allowed:
        named = [{"type": "function", "function": {"name": name}} for name in allowed]
        if len(named) == 1 and mode == "ANY":
            return {"tool_choice": named[0]}
        return {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": _MODES[mode], "tools": named}}}
    return {"tool_choice": _MODES[mode]}


def _thinking(config: dict[str, Any], unknown: Untranslated) -> dict[str, Any]:
    rest = without(config, "thinkingLevel", "includeThoughts")
    for name in rest:
        unknown.add(f"thinkingConfig.{name}")
    level = string_or_none(config.get("thinkingLevel"))
    found: dict[str, Any] = {"reasoning_effort": level.rsplit(".", 1)[-1].lower()} if level else {}
    return {**found, "thinking_config": {_snake(k): v for k, v in rest.items()}} if rest else found


def read_response(body: Any) -> Answered:
    """The answer of all candidates; what the provider's own tools did on the way is no part of it."""
    response = _camel(mapping(body, "The response"))
    candidates, feedback = response.get("candidates"), response.get("promptFeedback")
    if not isinstance(candidates, list) and not isinstance(feedback, dict):
        raise InputError(f"The response of generateContent needs candidates; it is {shown(response)}.")
    answers, thoughts, reasons = [], [], []
    for _, candidate in objects(candidates, "candidates"):
        content = candidate.get("content")
        answer, thought = answer_of_parts(content.get("parts") if isinstance(content, dict) else None)
        answers.append(answer)
        thoughts.append(thought)
        reasons.append(_finish(_camel(candidate).get("finishReason"), answer))
    if not answers and isinstance(feedback, dict) and _camel(feedback).get("blockReason"):
        reasons.append("content_filter")
    usage = response.get("usageMetadata")
    counts = _camel(usage) if isinstance(usage, dict) else {}
    said, thought_of = count_of(counts.get("candidatesTokenCount")), count_of(counts.get("thoughtsTokenCount"))
    return Answered(
        one_or_all(answers) if answers else None,
        joined(thoughts),
        string_or_none(response.get("modelVersion")),
        count_of(counts.get("promptTokenCount")),
        None if said is None and thought_of is None else (said or 0) + (thought_of or 0),
        count_of(counts.get("cachedContentTokenCount")),
        reasons[0] if reasons else None,
    )


def answer_of_parts(parts: Any) -> tuple[Any, str | None]:
    """The canonical answer of a candidate's parts, and what the model thought."""
    texts: list[Any] = []
    thoughts: list[Any] = []
    calls, images = [], []
    sound: Any = None
    for _, raw in objects(parts, "parts"):
        part = _camel(raw)
        if isinstance(part.get("text"), str):
            (thoughts if part.get("thought") else texts).append(part["text"])
        elif isinstance(part.get("functionCall"), dict):
            call = part["functionCall"]
            calls.append(tool_call(call.get("name"), call.get("args") or {}))
        elif isinstance(part.get("inlineData"), dict):
            media = _media(_camel(part["inlineData"]))
            if media and media["type"] == "image_url":
                images.append(media)
            elif media:
                sound = media.get("input_audio") or media.get("file")
    return made(text_of(texts), tool_calls=calls, images=images, audio=sound), joined(thoughts)


def _finish(reason: Any, answer: Any) -> str | None:
    word = string_or_none(reason)
    if word is None:
        return None
    word = word.rsplit(".", 1)[-1]  # the client's enumeration prints itself with its class
    if word == "STOP" and isinstance(answer, dict) and answer.get("tool_calls"):
        return "tool_calls"
    return "content_filter" if word in _FILTERS else _FINISHES.get(word, word.lower())


def _camel(value: dict[str, Any]) -> dict[str, Any]:
    """The keys as REST spells them, one level deep."""
    return {_underscore.sub(lambda match: match[1].upper(), key): inner for key, inner in value.items()}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: f"_{match[1].lower()}", name)
