"""Answers of evaluations: promptfoo's results, MT-Bench's answers, OpenAssistant's trees with their ranks."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from qbawa.ingest.formats.content import json_value
from qbawa.ingest.formats.contests import Contest, Given, canonical, ranked
from qbawa.ingest.formats.step_rows import BadRecordError, Origin, amount, count, moment
from qbawa.model_apis.any_form import conversation


def is_promptfoo(record: dict[str, Any]) -> bool:
    found = _results(record)
    return bool(found) and isinstance(found[0], dict) and "vars" in found[0] and "provider" in found[0]


def read_promptfoo(record: dict[str, Any], origin: Origin) -> Iterator[Contest | BadRecordError]:
    """One question a test, an answer a provider and prompt; their scores are opinions on every two of them."""
    tests: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, result in enumerate(_results(record)):
        if isinstance(result, dict):
            place = result.get("testIdx")
            # Before promptfoo numbered its tests, what was filled in told them apart.
            tests[repr(place if place is not None else result.get("vars"))].append(result)
        else:
            yield BadRecordError("wrong_type", f"result {number} is {result!r:.60}, not an object")
    prompts = {_prompt(result)[1] for results in tests.values() for result in results}
    for results in tests.values():
        answers, worth = list[Given](), list[tuple[int, float]]()
        for result in results:
            given = _promptfoo_answer(result, several=len(prompts) > 1)
            if isinstance(given, BadRecordError):
                yield given
                continue
            score = result.get("score", result.get("success"))
            if isinstance(score, int | float):
                worth.append((len(answers), float(score)))
            answers.append(given)
        if not answers:
            continue
        asked = _prompt(results[0])[0]
        named = results[0].get("vars")
        yield Contest(
            _messages(asked),
            answers,
            ranked(worth, "promptfoo", "by the scores of its assertions"),
            inputs=named if isinstance(named, dict) and named else None,
        )
        if len(worth) == 1:
            yield BadRecordError(
                "lone_score", f"score {worth[0][1]:g} of {answers[worth[0][0]].strategy}: nothing to compare it with"
            )


def _results(record: dict[str, Any]) -> list[Any]:
    found = record.get("results")
    found = found.get("results") if isinstance(found, dict) else found
    return found if isinstance(found, list) else []


def _prompt(result: dict[str, Any]) -> tuple[Any, str]:
    prompt = result.get("prompt")
    if isinstance(prompt, dict):
        return prompt.get("raw"), str(prompt.get("label") or prompt.get("raw") or "")
    return prompt, str(result.get("promptId") or "")


def _messages(asked: Any) -> list[dict[str, Any]] | None:
    found = conversation(json_value(asked)) if asked else None
    return found.messages if found else [{"role": "user", "content": asked}] if isinstance(asked, str) else None


def _promptfoo_answer(result: dict[str, Any], *, several: bool) -> Given | BadRecordError:
    provider, response = result.get("provider"), result.get("response")
    info = provider if isinstance(provider, dict) else {"id": provider}
    name = str(info.get("label") or info.get("id") or "provider")
    model = str(info.get("id") or name)
    response = response if isinstance(response, dict) else {"output": response}
    output = response.get("output")
    if output is None:
        return BadRecordError("no_answer", f"{name}: {result.get('error') or response.get('error') or 'no output'}")
    usage = result.get("tokenUsage") or response.get("tokenUsage") or {}
    usage = usage if isinstance(usage, dict) else {}
    latency = amount(result.get("latencyMs"), "latency")
    # The label of a prompt is its text unless it was given one.
    label = " ".join(_prompt(result)[1].split())[:60]
    return Given(
        f"{name} | {label}" if several and label else name,
        canonical(output),
        model,
        count(usage.get("prompt"), "input tokens"),
        count(usage.get("completion"), "output tokens"),
        amount(result.get("cost", response.get("cost")), "cost"),
        None if latency is None else latency / 1_000,
    )


def is_mt_bench(record: dict[str, Any]) -> bool:
    choices = record.get("choices")
    return (
        "question_id" in record
        and "model_id" in record
        and isinstance(choices, list)
        and bool(choices)
        and isinstance(choices[0], dict)
        and "turns" in choices[0]
    )


def read_mt_bench(record: dict[str, Any], origin: Origin) -> Iterator[Contest | BadRecordError]:
    """Answers of one model, a step a turn; what was asked stands in another file, under the same question id."""
    at = moment(record["tstamp"]) if record.get("tstamp") else None
    model = str(record["model_id"])
    for number, choice in enumerate(record["choices"]):
        turns = choice.get("turns") if isinstance(choice, dict) else None
        if not isinstance(turns, list):
            yield BadRecordError("missing_field", f"turns of choice {number}")
            continue
        for turn, said in enumerate(turns, 1):
            said = said.get("content", said.get("answer")) if isinstance(said, dict) else said
            if not isinstance(said, str):
                yield BadRecordError("wrong_type", f"turn {turn} is {said!r:.60}, not a text")
                continue
            name = model if number == 0 else f"{model} #{number + 1}"
            yield Contest(
                None,
                [Given(name, said, model)],
                request=str(record["question_id"]),
                step=f"mt_bench.turn_{turn}",
                at=at,
            )


def is_oasst(record: dict[str, Any]) -> bool:
    prompt = record.get("prompt")
    return isinstance(prompt, dict) and "text" in prompt and "replies" in prompt and "role" in prompt


def read_oasst(record: dict[str, Any], origin: Origin) -> Iterator[Contest | BadRecordError]:
    """Every message of a prompter with its replies: ranks, where there are any, are opinions on every two of them."""
    waiting: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [([], record["prompt"])]
    while waiting:
        before, message = waiting.pop(0)
        if not isinstance(message, dict) or not isinstance(message.get("text"), str):
            yield BadRecordError("wrong_type", f"a message is {message!r:.60}")
            continue
        asked = message.get("role") == "prompter"
        so_far = [*before, {"role": "user" if asked else "assistant", "content": message["text"]}]
        replies = [r for r in message.get("replies") or [] if isinstance(r, dict)]
        waiting += [(so_far, reply) for reply in replies]
        if asked and replies:
            yield from _siblings(so_far, message, replies)


def _siblings(
    messages: list[dict[str, Any]], message: dict[str, Any], replies: list[dict[str, Any]]
) -> Iterator[Contest | BadRecordError]:
    answers, order, unranked = list[Given](), list[tuple[int, float]](), 0
    for reply in replies:
        if not isinstance(reply.get("text"), str):
            continue  # said when its own turn comes
        rank, model = reply.get("rank"), reply.get("model_name")
        if isinstance(rank, int):
            order.append((len(answers), -float(rank)))
            name = f"rank {rank + 1}"
        else:
            unranked += 1
            name = "unranked" if unranked == 1 else f"unranked #{unranked}"
        answers.append(Given(name, reply["text"], model if isinstance(model, str) else None))
    if answers:
        at = moment(message["created_date"]) if message.get("created_date") else None
        id = message.get("message_id")
        yield Contest(
            messages, answers, ranked(order, "oasst", "by the ranks that people gave"),
            request=id if isinstance(id, str) and id else None, at=at,
        )  # fmt: skip
