"""When a call is tried again, how soon, and when no more."""

import pytest

from qbawa.engine.retry import LONGEST_HOLD_S, LONGEST_PAUSE_S, RetryState
from qbawa.errors import FinalError, ModelStoppedError, TransientError

LIMITED = TransientError("rate_limited", "slow down")


def test_a_429_is_borne_five_times_as_often_as_other_errors() -> None:
    retries = RetryState(max_attempts=2)
    pauses = [retries.pause_s(LIMITED) for _ in range(10)]
    assert 0.25 <= pauses[0] <= 0.5 and 15 <= pauses[-1] <= LONGEST_PAUSE_S
    with pytest.raises(FinalError, match="after 11 attempts"):
        retries.pause_s(LIMITED)


def test_a_429_does_not_count_as_a_failure_of_the_call() -> None:
    retries = RetryState(max_attempts=2)
    retries.pause_s(LIMITED)
    retries.pause_s(TransientError("http_500", "broken"))
    with pytest.raises(FinalError, match="gave up after 2 attempts"):
        retries.pause_s(TransientError("http_500", "broken"))


@pytest.mark.parametrize("asked_s", [0.0, 7.5, LONGEST_HOLD_S])
def test_a_provider_that_names_a_pause_gets_that_pause(asked_s: float) -> None:
    assert RetryState(max_attempts=5).pause_s(TransientError("http_503", "busy", asked_s)) == asked_s
    assert RetryState(max_attempts=5).pause_s(TransientError("rate_limited", "slow down", asked_s)) == asked_s
    assert RetryState(max_attempts=5).backoff_s(TransientError("rate_limited", "slow down", asked_s)) == asked_s


def test_a_pause_longer_than_a_run_can_wait_is_not_kept() -> None:
    too_long = LONGEST_HOLD_S + 1
    assert RetryState(max_attempts=5).pause_s(TransientError("http_503", "busy", too_long)) <= LONGEST_PAUSE_S
    with pytest.raises(ModelStoppedError, match="301 s"):
        RetryState(max_attempts=5).backoff_s(TransientError("rate_limited", "slow down", too_long))
