"""The engine against a real HTTP server on loopback; only the model's words are scripted."""

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from _mock_provider import FAULTS, MockProvider

from qbawa.config import ModelConfig
from qbawa.engine.budget import Budget
from qbawa.engine.calls import ModelCall
from qbawa.engine.engine import Engine
from qbawa.engine.ledger.ledger import Ledger
from qbawa.engine.prices import Price, price_of
from qbawa.engine.progress import Progress
from qbawa.engine.providers.litellm import LitellmProvider, table_price
from qbawa.engine.providers.openai_http import HttpSession, OpenAIProvider
from qbawa.errors import BudgetError, FinalError, ModelStoppedError, NotMadeError, TransientError
from qbawa.storage.journal import all_segments, read_lines

SECRET = "sk-verysecret-0123456789abcdef"


def model(provider: MockProvider, **settings: Any) -> ModelConfig:
    return ModelConfig.model_validate({"base_url": provider.base_url, "free": True, "timeout_s": 5.0} | settings)


def ask(text: str, **fields: Any) -> ModelCall:
    return ModelCall("m", ({"role": "user", "content": text},), **fields)


def order(**orders: Any) -> str:
    """A message that tells the server how to behave."""
    return f"[[mock {json.dumps(orders)}]]"


async def outcomes(engine: Engine, calls: list[ModelCall]) -> list[Any]:
    return await asyncio.gather(*(engine.call(call) for call in calls), return_exceptions=True)


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for segment in all_segments(folder) for line in read_lines(segment)]


async def test_an_answer_is_journalled_with_what_it_used_and_cost(provider: MockProvider, tmp_path: Path) -> None:
    prices = {"input_usd_per_million": 2.0, "output_usd_per_million": 6.0, "free": False}
    call = ask(
        order(tokens=[1000, 500], answer='four\nlines\r\n\u2028"}'), request_id="r", strategy_id="s", step="write"
    )
    async with Engine({"m": model(provider, **prices)}, Ledger(tmp_path), run_id="run") as engine:
        result = await engine.call(call)
    assert result.text == 'four\nlines\r\n\u2028"}'
    assert (result.input_tokens, result.output_tokens, result.cached) == (1000, 500, False)
    assert result.cost_usd == pytest.approx(0.005)
    (line,) = journal(tmp_path)
    assert line["kind"] == "call" and line["v"] == 1
    assert line["call_key"] == call.key == result.call_key
    assert line["response_text"] == result.text
    assert line["cost_usd"] == pytest.approx(0.005)
    assert (line["request_id"], line["strategy_id"], line["step"], line["run_id"]) == ("r", "s", "write", "run")
    assert line["error"] is None and line["called_at"].endswith("+00:00")


async def test_the_same_call_is_paid_once_at_once_and_later(provider: MockProvider, tmp_path: Path) -> None:
    models = {"m": model(provider)}
    async with Engine(models, Ledger(tmp_path)) as engine:
        results = await asyncio.gather(*(engine.call(ask("same", request_id=str(n))) for n in range(20)))
        assert sorted(result.cached for result in results) == [False] + [True] * 19
        assert (await engine.call(ask("same", purpose="judge"))).cached
        assert not (await engine.call(ask("same", sample=1))).cached, "another sample is another answer"
    async with Engine(models, Ledger(tmp_path)) as engine:
        later = await engine.call(ask("same"))
    assert later.cached and later.text == results[0].text
    assert sum(provider.answered().values()) == 2


def test_the_key_depends_on_what_the_model_sees_and_on_nothing_else() -> None:
    base = ask("q", params={"temperature": 0, "max_tokens": None})
    assert base.key == ask("q", params={"temperature": 0.0}, purpose="judge", request_id="r", judge="j").key
    others = [
        ask("q"),
        ask("p", params={"temperature": 0}),
        ask("q", params={"temperature": 0}, sample=1),
        ModelCall("n", base.messages, base.params),
    ]
    assert len({base.key, *(other.key for other in others)}) == 5


@pytest.mark.slow
async def test_transient_faults_are_retried_until_every_call_is_answered(
    provider: MockProvider, tmp_path: Path
) -> None:
    provider.control(faults=dict.fromkeys(FAULTS, 0.03), fault_retry_after_s=0.02)
    async with Engine({"m": model(provider, timeout_s=3.0, max_attempts=8)}, Ledger(tmp_path)) as engine:
        results = await outcomes(engine, [ask(f"q{n}") for n in range(200)])
    assert [r for r in results if isinstance(r, BaseException)] == []
    assert set(engine.stats.retries) == {"http_500", "http_503", "rate_limited", "connection", "timeout", "malformed"}
    assert all(count == 1 for count in provider.answered().values())


@pytest.mark.parametrize(
    ("orders", "error", "reason"),
    [
        ({"status": 400, "code": "context_length_exceeded"}, FinalError, "context_too_long"),
        ({"status": 400, "code": "content_filter"}, FinalError, "refused"),
        ({"status": 400, "code": "invalid_request_error"}, FinalError, "bad_request"),
        ({"status": 404, "code": "model_not_found"}, FinalError, "unknown_model"),
        ({"status": 302, "headers": {"location": "http://127.0.0.1:9/"}}, FinalError, "http_302"),
        ({"finish_reason": "content_filter"}, FinalError, "refused"),
        ({"answer": "", "finish_reason": "length"}, FinalError, "cut_off"),
        ({"status": 401, "code": "invalid_api_key"}, ModelStoppedError, "wrong_key"),
        ({"status": 429, "code": "insufficient_quota"}, ModelStoppedError, "quota_exhausted"),
        ({"status": 429, "code": "rate_limit_exceeded", "headers": {"retry-after": "86400"}}, ModelStoppedError,
         "rate_limited"),
    ],
)  # fmt: skip
async def test_a_final_error_fails_its_call_at_once(
    provider: MockProvider, tmp_path: Path, orders: dict[str, Any], error: type[FinalError], reason: str
) -> None:
    async with Engine({"m": model(provider)}, Ledger(tmp_path)) as engine:
        with pytest.raises(error) as caught:
            await engine.call(ask(order(**orders)))
    assert type(caught.value) is error and caught.value.reason == reason
    assert engine.stats.attempts == 1
    (line,) = journal(tmp_path)
    assert line["error"].startswith(f"{reason}: ") and line["response_text"] is None


@pytest.mark.parametrize(
    "orders",
    [
        {"body": '{"choices": [{"message": {"content": "cut'},
        {"body": "<html>gateway</html>", "content_type": "text/html"},
        {"body": ""},
        {"body": "[]"},
        {"body": "null"},
        {"body": '{"choices": []}'},
        {"body": '{"choices": [{"message": null}]}'},
        {"body": '{"choices": [{"message": {"content": 7}}]}'},
        {"body": '{"error": {"message": "overloaded", "code": "server_error"}}'},
        {"body": '{"error": "something odd"}'},
        {"status": 500},
        {"status": 529},
        {"status": 408},
        {"fault": "reset"},
    ],
)
async def test_a_broken_response_is_retried_and_then_said(
    provider: MockProvider, tmp_path: Path, orders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qbawa.engine.retry.FIRST_PAUSE_S", 0.01)
    async with Engine({"m": model(provider, max_attempts=3)}, Ledger(tmp_path)) as engine:
        recovered = await engine.call(ask(order(**orders, times=2)))
        with pytest.raises(FinalError, match="gave up after 3 attempts") as caught:
            await engine.call(ask(order(**orders)))
    assert recovered.attempts == 3
    assert caught.value.reason != "none"
    assert [line["error"] is None for line in journal(tmp_path)] == [True, False]


async def test_a_failed_call_is_made_again_when_asked_again(provider: MockProvider, tmp_path: Path) -> None:
    call = ask(order(status=400, code="content_filter", times=1))
    for answered in (False, True):
        async with Engine({"m": model(provider)}, Ledger(tmp_path)) as engine:
            (result,) = await outcomes(engine, [call])
        assert isinstance(result, FinalError) is not answered


async def test_a_wrong_key_stops_its_model_and_says_so_once(
    provider: MockProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WRONG_KEY", SECRET)
    provider.control(key="sk-the-right-one")
    models = {
        "m": model(provider, api_key_env="WRONG_KEY", max_in_flight=3),
        "other": model(provider, api_key_env="RIGHT_KEY"),
    }
    monkeypatch.setenv("RIGHT_KEY", "sk-the-right-one")
    with caplog.at_level(logging.INFO):
        async with Engine(models, Ledger(tmp_path)) as engine:
            failed = await outcomes(engine, [ask(f"q{n}") for n in range(100)])
            answered = await engine.call(ModelCall("other", ask("q").messages))
    assert all(isinstance(error, ModelStoppedError) and error.reason == "wrong_key" for error in failed)
    assert answered.text
    assert provider.stats()["counts"]["wrong_key"] <= 3, "only those in flight at that moment"
    assert len([record for record in caplog.records if "stopped" in record.message]) == 1
    everything = caplog.text + "".join(map(str, failed)) + json.dumps(journal(tmp_path))
    assert SECRET not in everything and "sk-the-right-one" not in everything


async def test_a_key_that_a_model_repeats_is_stored_nowhere(
    provider: MockProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", SECRET)
    async with Engine({"m": model(provider, api_key_env="KEY")}, Ledger(tmp_path)) as engine:
        result = await engine.call(ask(order(answer=f"my key is {SECRET}!", times=1).replace(SECRET, "" + SECRET)))
    assert result.text == "my key is [secret]!"
    assert SECRET not in json.dumps([line["response_text"] for line in journal(tmp_path)])


async def test_a_missing_key_is_named_before_anything_is_sent(provider: MockProvider, tmp_path: Path) -> None:
    async with Engine({"m": model(provider, api_key_env="QBAWA_NO_SUCH_KEY")}, Ledger(tmp_path)) as engine:
        with pytest.raises(ModelStoppedError, match="QBAWA_NO_SUCH_KEY"):
            await engine.call(ask("q"))
    assert not provider.stats()["counts"]


async def test_no_key_is_sent_to_a_server_that_was_given_none(
    provider: MockProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    provider.control(record=True)
    async with Engine({"m": model(provider)}, Ledger(tmp_path)) as engine:
        await engine.call(ask("q"))
    assert "Authorization" not in provider.recorded()[0]["headers"]


@pytest.mark.slow
async def test_a_paid_model_without_a_price_is_never_called(provider: MockProvider, tmp_path: Path) -> None:
    async with Engine({"m": model(provider, free=False)}, Ledger(tmp_path)) as engine:
        with pytest.raises(FinalError, match="input_usd_per_million") as caught:
            await engine.call(ask("q"))
    assert caught.value.reason == "unpriced"
    assert not provider.stats()["counts"]


async def test_an_answer_without_token_counts_is_kept_and_its_cost_is_unknown_where_tokens_cost(
    provider: MockProvider, tmp_path: Path
) -> None:
    paid = model(provider, free=False, input_usd_per_million=1, output_usd_per_million=1)
    async with Engine({"m": paid, "own": model(provider)}, Ledger(tmp_path)) as engine:
        assert (await engine.call(ask(order(usage=False)))).cost_usd is None
        assert (await engine.call(ModelCall("own", ask(order(usage=False)).messages))).cost_usd == 0
    line = journal(tmp_path)[0]
    assert line["response_text"] and line["cost_usd"] is None and line["charged_usd"] > 0


def test_prices_come_from_the_configuration_before_the_table() -> None:
    def table(name: str) -> Price | None:
        return {"known": Price(1e-6, 2e-6), "zero": Price(0, 0)}.get(name)

    def settings(**fields: Any) -> ModelConfig:
        return ModelConfig.model_validate(fields)

    assert price_of("known", settings(), table) == Price(1e-6, 2e-6)
    assert price_of("alias", settings(litellm_model="known"), table) == Price(1e-6, 2e-6)
    assert price_of("known", settings(input_usd_per_million=3, output_usd_per_million=4), table) == Price(3e-6, 4e-6)
    assert price_of("unknown", settings(free=True), table) == Price(0, 0)
    assert price_of("own", settings(input_usd_per_million=0, output_usd_per_million=0), table) == Price(0, 0)
    for name in ("unknown", "zero"):
        with pytest.raises(FinalError, match="has no price"):
            price_of(name, settings(), table)


async def test_a_budget_stops_new_calls_and_a_second_run_continues(provider: MockProvider, tmp_path: Path) -> None:
    provider.control(latency_s=[0.01, 0.05], prompt_tokens=500, completion_tokens=[500, 500])
    # 1,000 tokens at $10 a million: a cent each, $2 for all.
    paid = model(provider, free=False, input_usd_per_million=10, output_usd_per_million=10, max_in_flight=20)
    calls = [ask(f"q{n}") for n in range(200)]
    spent = []
    for _ in range(2):
        budget = Budget(usd_per_run=1.0)
        async with Engine({"m": paid}, Ledger(tmp_path), budget) as engine:
            results = await outcomes(engine, calls)
        spent.append(engine.stats.cost_usd)
        stopped = [result for result in results if isinstance(result, BudgetError)]
    assert spent[0] == pytest.approx(1.0, abs=0.02) and spent[0] <= 1.0
    assert sum(spent) == pytest.approx(2.0, abs=0.03)
    assert "$1 a run" in str(stopped[0]) if stopped else sum(spent) == pytest.approx(2.0)
    assert all(count == 1 for count in provider.answered().values())


async def test_caps_of_day_and_step_count_what_was_spent_before(provider: MockProvider, tmp_path: Path) -> None:
    provider.control(prompt_tokens=500, completion_tokens=[500, 500])
    paid = model(provider, free=False, input_usd_per_million=10, output_usd_per_million=10)
    today = Budget(usd_per_day=1.0, spent_today_usd=0.995)
    async with Engine({"m": paid}, Ledger(tmp_path / "a"), today) as engine:
        (refused,) = await outcomes(engine, [ask("q")])
    assert isinstance(refused, BudgetError) and "a day" in str(refused)
    steps = Budget(usd_per_step=1.0, spent_by_step_usd={"full": 0.995})
    async with Engine({"m": paid}, Ledger(tmp_path / "b"), steps) as engine:
        with pytest.raises(BudgetError, match="'full'"):
            await engine.call(ask("q", step="full"))
        assert (await engine.call(ask("q", step="fresh"))).text


async def test_what_another_process_paid_today_counts_under_the_day_cap(provider: MockProvider, tmp_path: Path) -> None:
    provider.control(prompt_tokens=500, completion_tokens=[500, 500])
    paid = model(provider, free=False, input_usd_per_million=10, output_usd_per_million=10)
    async with Engine({"m": paid}, Ledger(tmp_path), run_id="one") as engine:
        await outcomes(engine, [ask(f"q{n}") for n in range(10)])
    async with Engine({"m": paid}, Ledger(tmp_path), Budget(usd_per_day=0.105), run_id="two") as engine:
        with pytest.raises(BudgetError, match="a day"):
            await engine.call(ask("another"))


async def test_stopping_drains_what_is_in_flight_and_journals_it(provider: MockProvider, tmp_path: Path) -> None:
    provider.control(latency_s=[0.3, 0.3])
    engine = Engine({"m": model(provider, max_in_flight=5)}, Ledger(tmp_path))

    async def run() -> None:
        async with engine, asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(engine.call(ask(f"q{number}")))

    running_task = asyncio.create_task(run())
    while engine.stats.attempts < 5:
        await asyncio.sleep(0.01)
    running_task.cancel()  # what Ctrl-C does under asyncio.run
    with pytest.raises(asyncio.CancelledError):
        await running_task
    assert len(journal(tmp_path)) == 5 == sum(provider.answered().values())


async def test_a_stopped_engine_makes_no_call_and_says_that_cells_stay_missing(
    provider: MockProvider, tmp_path: Path
) -> None:
    async with Engine({"m": model(provider)}, Ledger(tmp_path)) as engine:
        engine.stop("The user pressed Ctrl-C")
        with pytest.raises(NotMadeError, match="Ctrl-C"):
            await engine.call(ask("q"))
    assert not provider.stats()["counts"]


async def test_offline_models_need_no_settings_and_cost_nothing(tmp_path: Path) -> None:
    call = ModelCall("offline/lead", ({"role": "user", "content": "Summarise. The first sentence. The second."},))
    async with Engine({}, Ledger(tmp_path)) as engine:
        result = await engine.call(call)
        with pytest.raises(FinalError, match="offline/lead"):
            await engine.call(ModelCall("offline/nothing", call.messages))
        with pytest.raises(FinalError, match="models"):
            await engine.call(ModelCall("nothing", call.messages))
    assert result.text and result.cost_usd == 0 and not result.cached


async def test_limits_in_the_headers_slow_the_gate_down(provider: MockProvider, tmp_path: Path) -> None:
    provider.control(rpm=6_000, limit_headers=True)
    async with Engine({"m": model(provider, requests_per_minute=60_000)}, Ledger(tmp_path)) as engine:
        await engine.call(ask("a"))
        await engine.call(ask("b"))
        assert engine.models["m"].limiter.requests_per_second == pytest.approx(99.5)


async def test_models_that_share_provider_key_and_name_share_one_limit(provider: MockProvider, tmp_path: Path) -> None:
    shared = {"litellm_model": "openai/m", "api_key_env": None}
    models = {
        "fast": model(provider, requests_per_minute=600, **shared),
        "slow": model(provider, requests_per_minute=60, **shared),
        "apart": model(provider, litellm_model="openai/n"),
    }
    async with Engine(models, Ledger(tmp_path)) as engine:
        for name in models:
            await engine.call(ModelCall(name, ask("q").messages))
        assert engine.models["fast"].limiter is engine.models["slow"].limiter is not engine.models["apart"].limiter


async def test_progress_says_cells_rate_dollars_and_whence(provider: MockProvider, tmp_path: Path) -> None:
    lines: list[str] = []
    progress = Progress(4, lines.append, every_s=0.05)
    paid = model(provider, free=False, input_usd_per_million=10, output_usd_per_million=10, requests_per_minute=6_000)
    async with Engine({"m": paid}, Ledger(tmp_path), Budget(usd_per_run=1), progress) as engine:
        for text in ("a", "b", "a", order(status=400)):
            (result,) = await outcomes(engine, [ask(text)])
            engine.progress.cell("failed" if isinstance(result, Exception) else "ok")
    last = lines[-1]
    assert last.startswith("4/4 cells · 1 failed (bad_request 1)")
    for part in ("calls/min", "of limit", "25% from the ledger", "of $1.00"):
        assert part in last


# Both providers: the same request, the same answer, the same errors.

BOTH = [
    ask("plain", params={"temperature": 0, "max_tokens": 5}),
    ask("shape", params={"response_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}),
    ask("format", params={"response_format": {"type": "json_object"}}),
    ask("logprobs", params={"logprobs": True, "top_logprobs": 1}),
    ask("seed", params={"seed": 5, "stop": ["\n"], "top_p": 0.9}),
    *(
        ask(order(**orders))
        for orders in (
            {"usage": False},
            {"finish_reason": "content_filter"},
            {"no_choices": True},
            {"status": 400, "code": "context_length_exceeded", "message": "This model's maximum context length is 8"},
            {"status": 400, "code": "content_filter", "message": "flagged"},
            {"status": 401, "code": "invalid_api_key"},
            {"status": 403},
            {"status": 404, "code": "model_not_found"},
            {"status": 422},
            {"status": 429, "code": "insufficient_quota"},
            {"status": 429, "code": "rate_limit_exceeded", "headers": {"retry-after": "3"}},
            {"status": 500},
            {"status": 503},
            {"fault": "reset"},
            {"body": '{"choices": [{'},
            {"body": "<html>", "content_type": "text/html"},
        )
    ),
]


@pytest.mark.slow
async def test_both_providers_send_the_same_request_and_bring_back_the_same(provider: MockProvider) -> None:
    provider.control(record=True)
    settings = model(provider, timeout_s=60.0, extra={"frequency_penalty": 0.5})
    session = HttpSession()
    providers = [
        OpenAIProvider("openai/m", settings, session, "sk-test-key"),
        LitellmProvider("openai/m", settings, "sk-test-key"),
    ]
    try:
        for call in BOTH:
            found = []
            for way in providers:
                try:
                    found.append(await way.send(call))
                except (FinalError, TransientError) as error:
                    found.append((type(error), error.reason, getattr(error, "retry_after_s", None)))
            assert found[0] == found[1], call.messages
    finally:
        await session.close()
    recorded = provider.recorded()
    assert len(recorded) == 2 * len(BOTH)
    for ours, theirs in zip(recorded[::2], recorded[1::2], strict=True):
        assert ours["body"] == theirs["body"]
        assert ours["path"] == theirs["path"]
        assert ours["headers"]["Authorization"] == theirs["headers"]["Authorization"] == "Bearer sk-test-key"


@pytest.mark.slow
def test_litellm_prices_what_it_knows_and_nothing_else() -> None:
    assert table_price("no-such-model") is None
    price = table_price("gpt-4o-mini")
    assert price is not None and 0 < price.input_usd < price.output_usd


@pytest.mark.slow
async def test_thousands_in_flight_need_no_setting_of_the_shell(provider: MockProvider, tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    provider.control(latency_s=[1.0, 1.0])
    # As a shell with `ulimit -n 256` would give, besides what the tests before have left open.
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 256, hard))
    try:
        async with Engine({"m": model(provider, timeout_s=60, max_in_flight=600)}, Ledger(tmp_path)) as engine:
            results = await outcomes(engine, [ask(f"q{n}") for n in range(600)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [r for r in results if isinstance(r, BaseException)] == []
    assert not engine.stats.retries


@pytest.mark.slow
async def test_an_error_shared_by_many_calls_gathers_no_tracebacks(provider: MockProvider, tmp_path: Path) -> None:
    async with Engine({"m": model(provider, api_key_env="QBAWA_NO_SUCH_KEY")}, Ledger(tmp_path)) as engine:
        errors = [(await outcomes(engine, [ask(f"q{n}")]))[0] for n in range(50)]
    depths = []
    for error in errors:
        depth, step = 0, error.__traceback__
        while step is not None:
            depth, step = depth + 1, step.tb_next
        depths.append(depth)
    assert max(depths) < 20
    assert {str(error) for error in errors} == {str(errors[0])}
