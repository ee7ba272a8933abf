"""What is recorded is a setting: where to, which requests, or nothing; and the manual says so."""

import inspect
from pathlib import Path

import pytest
from recording import CALL, rows, written

import qbawa
from qbawa.errors import ConfigError

MANUAL = Path(__file__).parents[2] / "docs" / "recording.md"


def test_sampling_takes_whole_requests_and_the_same_ones_everywhere(tmp_path):
    @qbawa.step
    def inner(number):
        return number

    @qbawa.step
    def outer(number):
        inner(number)
        qbawa.llm_call(**CALL)

    found = []
    for attempt in range(2):
        qbawa.configure(tmp_path / str(attempt), sample_rate=0.3)
        for number in range(200):
            with qbawa.request(request_id=f"r{number}") as request:
                outer(number)
                request.feedback(1)
        found.append(written(tmp_path / str(attempt)))
        kept = {row["request_id"] for row in found[attempt]}
        assert {row["request_id"] for row in rows(tmp_path / str(attempt), "feedback")} == kept
    qbawa.configure()
    assert 30 < len(kept) < 90
    assert [(row["request_id"], row["step"]) for row in found[0]] == [
        (row["request_id"], row["step"]) for row in found[1]
    ]
    assert len(found[0]) == 2 * len(kept)


def test_an_unsampled_step_takes_what_is_nested_in_it_along(tmp_path):
    @qbawa.step
    def inner():
        pass

    @qbawa.step
    def outer():
        inner()

    qbawa.configure(tmp_path, sample_rate=0.5)
    for _ in range(100):
        outer()
    found = written(tmp_path)
    qbawa.configure()
    assert 0 < len(found) < 200
    assert len(found) == 2 * len({row["request_id"] for row in found})


def test_sampling_by_rule(tmp_path):
    @qbawa.step
    def work():
        pass

    rates = {"always": True, "never": False, "rate": 0.0, "default": None}
    qbawa.configure(tmp_path, sample_rate=1.0, sample_rule=lambda request: rates[request.tags["kind"]])
    for kind in (*rates, "unknown"):
        with qbawa.request(tags={"kind": kind}):
            work()
    kinds = [row["tags"]["kind"] for row in written(tmp_path)]
    dropped = qbawa.stats().dropped
    qbawa.configure()
    assert kinds == ["always", "default", "unknown"]  # a rule that fails loses nothing
    assert dropped == {"sample_rule_failed": 1}


def test_settings_that_make_no_sense_are_refused_with_what_would_be_right():
    with pytest.raises(ConfigError, match="from 0"):
        qbawa.configure("x", sample_rate=2)
    with pytest.raises(ConfigError, match="regular expression"):
        qbawa.configure("x", redact_patterns={"bad": "("})


def test_without_a_journal_steps_just_run(monkeypatch, tmp_path):
    monkeypatch.delenv("QBAWA_JOURNAL", raising=False)
    monkeypatch.chdir(tmp_path)
    qbawa.configure(pipeline="p")

    @qbawa.step
    def work(number):
        return number

    @qbawa.step
    def stream():
        yield 1

    with qbawa.request(user="u") as request:
        assert work(1) == 1 and list(stream()) == [1]
        request.feedback(1)
        qbawa.llm_call(**CALL)
    assert request.request_id.startswith("r_")
    assert qbawa.flush() and qbawa.stats().recorded == 0
    assert list(tmp_path.iterdir()) == []


def test_the_journal_may_be_changed_and_loses_nothing(tmp_path):
    @qbawa.step
    def work(name):
        if name == "first":
            qbawa.configure(tmp_path / "second")
        return name

    qbawa.configure(tmp_path / "first")
    work("zeroth")
    work("first")  # began under one journal, ends under the other
    work("second")
    assert qbawa.flush(10)
    qbawa.configure()
    found = [row["output"] for folder in ("first", "second") for row in rows(tmp_path / folder)]
    assert sorted(found) == ["first", "second", "zeroth"]


def test_the_manual_names_every_setting_and_every_field():
    manual = MANUAL.read_text()
    public = [qbawa.configure, qbawa.request.__init__, qbawa.llm_call, qbawa.feedback, qbawa.flush]
    names = {name for function in public for name in inspect.signature(function).parameters} - {"self", "folder"}
    names |= {"recording_id", "parent_id", "inputs", "started_at", "llm_calls", "traceback", "qbawa.cut"}
    assert [name for name in sorted(names) if name not in manual] == []
    assert [name for name in qbawa.__all__ if f"qbawa.{name}" not in manual] == []


def test_the_example_of_the_manual_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manual = MANUAL.read_text()
    code = manual.split("```python\n")[1].split("```")[0]
    exec(compile(code, "docs/recording.md", "exec"), {"text": "a contract"})
    found = written(tmp_path / "journal")
    qbawa.configure()
    assert found[0]["inputs"] == {"contract": "a contract"} and found[0]["user"] == "u42"
