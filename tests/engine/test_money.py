"""What a provider may bill is counted: on the exception, in the ledger, under the caps. Against a real server on loopback."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _mock_provider import MockProvider

from qbawa.config import ModelConfig
from qbawa.engine.budget import Budget
from qbawa.engine.calls import ModelCall, Native
from qbawa.engine.engine import Engine
from qbawa.engine.largest_bill import most_output_tokens
from qbawa.engine.ledger.ledger import Ledger
from qbawa.errors import BudgetError, FinalError, ModelStoppedError, NotMadeError, ProviderError
from qbawa.storage.journal import all_segments, read_lines

PRICES = {"input_usd_per_million": 10.0, "output_usd_per_million": 10.0}
BILLED_WITH_USAGE = {
    "cut off": {"fault": "cut_off"},
    "content null": {"fault": "null_content"},
    "content filter": {"fault": "content_filter"},
    "tool call": {"fault": "tool_call"},
    "reasoning in the total alone": {"fault": "reasoning"},
}
NOBODY_COUNTS = {
    "no usage": {"fault": "no_usage"},
    "negative usage": {"fault": "negative_usage"},
    "timeout": {"fault": "hang"},
    "reset": {"fault": "reset"},
    "cut body": {"body": '{"choices": [{"message": {"content": "cut'},
    "error object in a 200": {"fault": "error_200"},
    "gateway timeout": {"status": 504},
}
NOT_BILLED = {
    "bad request": {"status": 400},
    "rate limit": {"status": 429, "times": 1},
    "overloaded": {"status": 503, "times": 1},
    "unreachable": {},
}


def paid(provider: MockProvider, **settings: Any) -> ModelConfig:
    fields = {"base_url": provider.base_url, "timeout_s": 0.3, "max_attempts": 2} | PRICES | settings
    return ModelConfig.model_validate(fields)


def ask(text: str = "", **orders: Any) -> ModelCall:
    content = f"[[mock {json.dumps({'tokens': [300, 700]} | orders)}]] {text}"
    return ModelCall("m", ({"role": "user", "content": content},), {"max_tokens": 700}, step="s")


async def outcome(engine: Engine, call: ModelCall) -> Any:
    try:
        return await engine.call(call)
    except (ProviderError, NotMadeError) as error:
        return error


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for segment in all_segments(folder) for line in read_lines(segment)]


def billed_usd(provider: MockProvider) -> float:
    stats = provider.stats()
    return (stats["billed_input_tokens"] + stats["billed_output_tokens"]) * 10 / 1e6


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qbawa.engine.retry.FIRST_PAUSE_S", 0.01)


@pytest.mark.parametrize("orders", BILLED_WITH_USAGE.values(), ids=BILLED_WITH_USAGE)
async def test_a_reply_that_is_no_answer_is_settled_and_journalled_with_what_it_cost(
    provider: MockProvider, tmp_path: Path, orders: dict[str, Any]
) -> None:
    budget = Budget(usd_per_run=1.0)
    async with Engine({"m": paid(provider)}, Ledger(tmp_path), budget) as engine:
        await outcome(engine, ask(**orders))
    billed = billed_usd(provider)
    (line,) = lines(tmp_path)
    assert billed > 0 and budget.spent_usd == pytest.approx(billed)
    assert line["cost_usd"] == pytest.approx(billed) == line["charged_usd"]
    assert line["input_tokens"] + line["output_tokens"] == pytest.approx(billed * 1e5)
    assert engine.stats.cost_usd == pytest.approx(billed)


@pytest.mark.parametrize("orders", NOBODY_COUNTS.values(), ids=NOBODY_COUNTS)
async def test_where_nobody_counts_the_largest_possible_bill_is_charged_and_the_cost_stays_unknown(
    provider: MockProvider, tmp_path: Path, orders: dict[str, Any]
) -> None:
    budget = Budget(usd_per_run=1.0)
    async with Engine({"m": paid(provider)}, Ledger(tmp_path), budget) as engine:
        await outcome(engine, ask(**orders))
    (line,) = lines(tmp_path)
    assert line["cost_usd"] is None and line["charged_usd"] == pytest.approx(budget.spent_usd)
    assert line["charged_usd"] >= line["attempts"] * 700 * 10 / 1e6, "every attempt counts, those retried too"
    assert engine.stats.cost_usd == 0 and engine.stats.unknown_usd == pytest.approx(line["charged_usd"])


@pytest.mark.parametrize("orders", NOT_BILLED.values(), ids=NOT_BILLED)
async def test_what_a_provider_turns_away_costs_nothing(
    provider: MockProvider, tmp_path: Path, orders: dict[str, Any]
) -> None:
    budget = Budget(usd_per_run=1.0)
    settings = paid(provider) if orders else paid(provider, base_url="http://127.0.0.1:9/v1")
    async with Engine({"m": settings}, Ledger(tmp_path), budget) as engine:
        result = await outcome(engine, ask(**orders))
    cost = 0.0 if isinstance(result, Exception) else result.cost_usd
    assert budget.spent_usd == pytest.approx(cost) and lines(tmp_path)[0]["charged_usd"] == pytest.approx(cost)


async def test_caps_stop_a_provider_that_only_ever_times_out(provider: MockProvider, tmp_path: Path) -> None:
    budget = Budget(usd_per_run=0.1)
    settings = paid(provider, timeout_s=0.1, max_in_flight=4)
    async with Engine({"m": settings}, Ledger(tmp_path), budget) as engine:
        results = await asyncio.gather(*(outcome(engine, ask(str(n), fault="hang")) for n in range(50)))
    assert any(isinstance(result, BudgetError) for result in results)
    assert billed_usd(provider) == 0 or billed_usd(provider) <= 0.1 + 8 * 0.01
    assert sum(line["charged_usd"] for line in lines(tmp_path)) == pytest.approx(budget.spent_usd)


async def test_a_model_whose_answers_nobody_counts_is_stopped_after_a_few(
    provider: MockProvider, tmp_path: Path
) -> None:
    async with Engine({"m": paid(provider, max_in_flight=1)}, Ledger(tmp_path)) as engine:
        results = [await outcome(engine, ask(str(n), fault="no_usage")) for n in range(8)]
    answered = [result for result in results if not isinstance(result, Exception)]
    assert len(answered) == 5 and all(result.cost_usd is None for result in answered)
    assert isinstance(results[5], ModelStoppedError) and results[5].reason == "unpriced"


async def test_an_answer_that_nobody_counted_is_not_paid_again(provider: MockProvider, tmp_path: Path) -> None:
    for cached in (False, True):
        async with Engine({"m": paid(provider)}, Ledger(tmp_path)) as engine:
            result = await engine.call(ask(fault="no_usage"))
        assert result.cached is cached and result.cost_usd is None
    assert provider.stats()["billed_replies"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["content_filter", "cut_off", "null_content"])
async def test_a_billed_refusal_is_paid_again_only_where_somebody_asks(
    provider: MockProvider, tmp_path: Path, fault: str
) -> None:
    call, found = ask(fault=fault), []
    for again in (False, False, True):
        async with Engine({"m": paid(provider)}, Ledger(tmp_path), retry_refused=again) as engine:
            found.append((await outcome(engine, call), provider.stats()["billed_replies"]))
    first, second, third = found
    assert type(first[0]) is type(second[0]) is FinalError and first[0].reason == second[0].reason
    assert first[0].cost_usd == second[0].cost_usd > 0, "what it cost once is still told"
    assert first[1] == second[1] < third[1]


async def test_a_call_given_up_at_the_end_is_charged_and_journalled(provider: MockProvider, tmp_path: Path) -> None:
    provider.control(latency_s=[20.0, 20.0])
    engine = Engine({"m": paid(provider, timeout_s=60.0)}, Ledger(tmp_path), drain_s=0.1)
    async with engine:
        waiting = asyncio.create_task(outcome(engine, ask()))
        while not engine.stats.attempts:
            await asyncio.sleep(0.01)
    assert isinstance(await waiting, NotMadeError)
    (line,) = lines(tmp_path)
    assert line["error"].startswith("cancelled: ") and line["cost_usd"] is None and line["charged_usd"] > 0.007


async def test_attempts_before_a_cap_stopped_the_call_stand_in_the_ledger(
    provider: MockProvider, tmp_path: Path
) -> None:
    # Room for one attempt at the most it can cost, and not for its retry.
    budget = Budget(usd_per_run=0.012, hard=True)
    async with Engine({"m": paid(provider)}, Ledger(tmp_path), budget) as engine:
        assert isinstance(await outcome(engine, ask(fault="reset")), BudgetError)
    (line,) = lines(tmp_path)
    assert line["charged_usd"] == pytest.approx(budget.spent_usd) and line["attempts"] == 1


async def test_hard_caps_send_a_maximum_where_the_call_has_none(provider: MockProvider, tmp_path: Path) -> None:
    provider.control(record=True)
    calls = [
        ModelCall("m", ({"role": "user", "content": "a"},)),
        ModelCall("m", ({"role": "user", "content": "b"},), {"max_completion_tokens": 50}),
        ModelCall("short", ({"role": "user", "content": "c"},)),
    ]
    models = {"m": paid(provider, timeout_s=5), "short": paid(provider, timeout_s=5, max_output_tokens=80)}
    async with Engine(models, Ledger(tmp_path), Budget(usd_per_run=1.0, hard=True)) as engine:
        for call in calls:
            await engine.call(call)
    sent = [{k: v for k, v in seen["body"].items() if "max" in k} for seen in provider.recorded()]
    assert sent == [{"max_tokens": 4096}, {"max_completion_tokens": 50}, {"max_tokens": 80}]


async def test_hard_caps_price_pictures_and_refuse_what_has_no_bound(provider: MockProvider, tmp_path: Path) -> None:
    def sending(part: dict[str, Any]) -> ModelCall:
        return ModelCall("m", ({"role": "user", "content": [{"type": "text", "text": "?"}, part]},), {"max_tokens": 9})

    picture = sending({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}})
    sound = sending({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}})
    asked = ({"role": "user", "content": "?"},)
    hosted = Native("openai.responses", {"input": "?", "tools": [{"type": "web_search"}]})
    searching = ModelCall("m", asked, {"max_tokens": 9}, native=hosted)
    async with Engine({"m": paid(provider)}, Ledger(tmp_path), Budget(usd_per_run=0.4, hard=True)) as engine:
        assert isinstance(await outcome(engine, picture), BudgetError), "50,000 tokens at $10 a million are $0.5"
        refused = [await outcome(engine, sound), await outcome(engine, searching)]
    assert all(isinstance(each, FinalError) and each.reason == "unbounded" for each in refused)
    assert not provider.stats()["counts"]


def test_several_answers_are_bounded_together(provider: MockProvider) -> None:
    settings = paid(provider)
    one = ModelCall("m", ({"role": "user", "content": "?"},), {"max_tokens": 9})
    assert most_output_tokens(replace(one, params={**one.params, "n": 4}), settings) == 36
    assert most_output_tokens(one, settings) == 9


async def test_a_provider_that_ignores_max_tokens_is_stopped_under_hard_caps(
    provider: MockProvider, tmp_path: Path
) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 90_000, "total_tokens": 90_010}
    body = {"choices": [{"message": {"content": "x"}}], "usage": usage}
    async with Engine({"m": paid(provider)}, Ledger(tmp_path), Budget(usd_per_run=5, hard=True)) as engine:
        await engine.call(ask(body=json.dumps(body)))
        stopped = await outcome(engine, ask("another"))
    assert isinstance(stopped, ModelStoppedError) and stopped.reason == "over_bound"
