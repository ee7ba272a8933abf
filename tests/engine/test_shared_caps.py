"""Caps hold over all processes of a home: real processes, real kills, a provider that counts what it bills."""

import os
import signal
import time
from pathlib import Path

import pytest
from _mock_provider import BILLED_FAULTS, MockProvider
from _paying import INPUT_USD, OUTPUT_USD, Ledger, Payer, pay, write_home

from qbawa.engine.reservations import Lost, SharedReservations, Want

DAY = "day:2026-11-21"


def billed_usd(provider: MockProvider) -> float:
    stats = provider.stats()
    return (stats["billed_input_tokens"] * INPUT_USD + stats["billed_output_tokens"] * OUTPUT_USD) / 1e6


def store(folder: Path, run: str = "r", spent: float = 0.0) -> SharedReservations:
    return SharedReservations(folder, run, lambda account: spent)


def test_processes_share_what_is_left_and_settle_what_they_spent(tmp_path: Path) -> None:
    one, two = store(tmp_path), store(tmp_path)
    (first,) = one.take([Want(DAY, 1.0, 0.1)])
    one.note(DAY, 0.1, 0.1)
    assert first.granted_usd == pytest.approx(0.1), "a portion is a sixteenth, or what the call needs"
    (second,) = two.take([Want(DAY, 1.0, 0.95)])
    assert second.granted_usd == 0 and second.others_under_way, "what the other has in flight is not there"
    one.note(DAY, 0.03, 0.0)
    one.close()
    (third,) = two.take([Want(DAY, 1.0, 0.95)])
    assert third.granted_usd == pytest.approx(0.95) and third.elsewhere_usd == pytest.approx(0.03)
    two.close()
    (later,) = store(tmp_path).take([Want(DAY, 1.0, 0.98)])
    assert later.granted_usd == pytest.approx(0.0 if 0.98 > 0.97 else 0.98)


def test_an_account_begins_with_what_the_ledger_knows(tmp_path: Path) -> None:
    (grant,) = store(tmp_path, spent=0.9).take([Want(DAY, 1.0, 0.2)])
    assert grant.granted_usd == 0 and grant.elsewhere_usd == 0.9


def test_one_without_a_cap_counts_for_those_with_one(tmp_path: Path) -> None:
    free, capped = store(tmp_path), store(tmp_path)
    free.take([Want(DAY, None, 0.5)])
    free.note(DAY, 0.7, 0.2)
    (grant,) = capped.take([Want(DAY, 1.0, 0.4)])
    assert grant.granted_usd == 0 and grant.elsewhere_usd == pytest.approx(0.5)


@pytest.mark.hostile
@pytest.mark.parametrize("same_boot", [True, False])
def test_what_a_killed_process_had_in_flight_stays_counted_and_the_rest_is_free_again(
    tmp_path: Path, same_boot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = os.fork()
    if child == 0:
        mine = store(tmp_path, run="dead")
        mine.take([Want(account, 1.0, 0.3) for account in ("run:dead", DAY, "step:s")])
        for account in ("run:dead", DAY, "step:s"):
            mine.note(account, 0.25, 0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    if not same_boot:  # after a power cut nobody knows how much of what was taken was used
        monkeypatch.setattr("qbawa.engine.reservations._boot_id", lambda: "another")
    mine = store(tmp_path)
    (grant,) = mine.take([Want(DAY, 1.0, 0.72)])
    assert (grant.granted_usd > 0) is same_boot
    assert grant.elsewhere_usd == pytest.approx(0.25 if same_boot else 0.3)
    assert mine.lost() == [Lost("dead", "s", pytest.approx(0.2 if same_boot else 0.25))]
    # Should the one who found it die too, the next one finds it again, until it stands in the ledger.
    mine._slot.close()
    heir = store(tmp_path)
    heir.take([Want(DAY, 1.0)])
    assert [lost.run_id for lost in heir.lost()] == ["dead"]
    heir.noted()
    assert heir.lost() == []


@pytest.mark.slow
@pytest.mark.parametrize("caps", ["soft", "hard"])
def test_four_processes_under_a_dollar_a_day_pay_a_dollar(provider: MockProvider, tmp_path: Path, caps: str) -> None:
    home = write_home(tmp_path, provider.base_url, {"usd_per_day": 1.0, "caps": caps})
    provider.control(latency_s=[0.05, 0.2], completion_tokens=[100, 500])
    results = pay(home, 120, 4, 25)
    assert 0.9 < billed_usd(provider) <= (1.0 if caps == "hard" else 1.05)
    assert sum(result["outcomes"]["not_made"] for result in results) > 0
    assert Ledger.of(home).charged_usd == pytest.approx(billed_usd(provider))


@pytest.mark.slow
def test_processes_of_one_run_share_its_cap(provider: MockProvider, tmp_path: Path) -> None:
    home = write_home(tmp_path, provider.base_url, {"caps": "hard"})
    provider.control(latency_s=[0.05, 0.2], completion_tokens=[100, 500])
    pay(home, 100, 2, 25, "--usd", "0.5", "--run", "together")
    assert 0.4 < billed_usd(provider) <= 0.5


@pytest.mark.hostile
@pytest.mark.slow
def test_hard_caps_hold_over_kills_and_all_faults(provider: MockProvider, tmp_path: Path) -> None:
    home = write_home(tmp_path, provider.base_url, {"usd_per_day": 0.5, "caps": "hard"}, timeout_s=0.5, max_attempts=2)
    provider.control(
        latency_s=[0.05, 0.2], completion_tokens=[100, 500], faults=dict.fromkeys((*BILLED_FAULTS, "500"), 0.06)
    )
    payers = [Payer(home, number * 1_000, 100, 8) for number in range(2)]
    until = time.monotonic() + 30
    while billed_usd(provider) < 0.1 and time.monotonic() < until:
        time.sleep(0.02)
    for payer in payers:
        payer.end(signal.SIGKILL)
    assert billed_usd(provider) > 0
    pay(home, 100, 2)
    ledger = Ledger.of(home)
    assert billed_usd(provider) <= 0.5
    assert ledger.charged_usd >= billed_usd(provider) - 1e-9, "what was in flight at the kill stands in the ledger"
    assert any((line["error"] or "").startswith("killed: ") for line in ledger.lines)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_journals_what_was_in_flight(
    provider: MockProvider, tmp_path: Path, how: signal.Signals
) -> None:
    home = write_home(tmp_path, provider.base_url, {"usd_per_day": 100.0})
    provider.control(latency_s=[0.8, 1.5])
    payer = Payer(home, 0, 1_000)
    until = time.monotonic() + 30
    while provider.stats()["billed_replies"] < 120 and time.monotonic() < until:
        time.sleep(0.02)
    ended = payer.end(how)
    assert ended in ((-signal.SIGTERM,) if how == signal.SIGTERM else (-signal.SIGINT, 1, 130))
    answered = [line for line in Ledger.of(home).lines if line["error"] is None]
    assert len(answered) == provider.stats()["billed_replies"] >= 120
