"""Model calls stand in the row of their step or below it, and no dollar counts twice."""

from recording import CALL, rows, step_named, written

import qbawa
from qbawa.record import recorder
from qbawa.record.context import Call
from qbawa.record.llm_call import begin_call


def test_the_only_model_call_of_a_step_is_part_of_its_row(journal):
    @qbawa.step
    def ask(q):
        qbawa.llm_call(**CALL)
        return {"parsed": 1}

    ask("q")
    [row] = written(journal)
    assert (row["step"], row["inputs"], row["output"], row["llm_calls"]) == ("ask", {"q": "q"}, {"parsed": 1}, 1)
    assert row["messages"] == CALL["messages"] and row["model"] == "m" and row["parameters"] == {"temperature": 0}
    assert (row["input_tokens"], row["output_tokens"], row["cost_usd"]) == (3, 4, 0.5)


def test_several_model_calls_are_rows_below_their_step_and_no_dollar_counts_twice(journal):
    @qbawa.step
    def ask():
        qbawa.llm_call(**CALL)
        qbawa.llm_call(**CALL)

    ask()
    found = written(journal)
    step = step_named(found, "ask")
    calls = [row for row in found if row["step"] == "ask.llm"]
    assert step["llm_calls"] == 2 and step["model"] is None and step["cost_usd"] is None
    assert [row["parent_id"] for row in calls] == [step["recording_id"]] * 2
    assert sum(row["cost_usd"] or 0 for row in found) == 1.0
    assert {row["output"] for row in calls} == {"said"}


def test_a_model_call_outside_any_step_is_a_row_of_its_own(journal):
    qbawa.llm_call(**CALL)
    with qbawa.request(request_id="r"):
        qbawa.llm_call(**{**CALL, "messages": "bare prompt"})
    alone, inside = written(journal)
    assert alone["step"] == inside["step"] == "llm" and alone["parent_id"] is None
    assert inside["request_id"] == "r" and inside["messages"] == [{"role": "user", "content": "bare prompt"}]


def test_a_failed_model_call_that_the_step_got_over_does_not_explain_its_output(journal):
    @qbawa.step
    def ask():
        qbawa.llm_call(model="m", messages=[], error=TimeoutError("slow"))
        return "fallback"

    ask()
    found = written(journal)
    assert step_named(found, "ask")["model"] is None and step_named(found, "ask")["error"] is None
    assert step_named(found, "ask.llm")["error"]["message"] == "slow"


def test_a_step_waits_for_the_report_of_its_model_call(journal):
    pending: list[Call] = []

    @qbawa.step
    def ask():
        pending.append(begin_call("m", [], {}))
        return "answer"

    ask()
    assert not qbawa.flush(0.1) and rows(journal) == []
    pending[0].end("said", cost_usd=0.25)
    [row] = written(journal)
    assert (row["output"], row["model"], row["cost_usd"]) == ("answer", "m", 0.25)


def test_a_report_that_comes_too_late_is_a_row_below_its_step(journal, monkeypatch):
    monkeypatch.setattr(recorder, "HOLD_S", 0.0)
    pending: list[Call] = []

    @qbawa.step
    def ask():
        pending.append(begin_call("m", [], {}))

    ask()
    while not rows(journal):
        qbawa.flush(0.1)
    pending[0].end("said", cost_usd=0.25)
    step, call = written(journal)
    assert (step["step"], step["model"], step["llm_calls"]) == ("ask", None, 1)
    assert (call["step"], call["parent_id"], call["cost_usd"]) == ("ask.llm", step["recording_id"], 0.25)


def test_a_model_call_that_never_reports_holds_up_no_flush_and_is_given_up_in_the_end(journal, monkeypatch):
    monkeypatch.setattr(recorder, "HOLD_S", 0.0)
    begin_call("m", "left early", {})
    assert qbawa.flush(10) and rows(journal) == [] and qbawa.stats().open_calls == 1
    monkeypatch.setattr(recorder, "GIVE_UP_S", 0.0)
    qbawa.step(lambda: None)()
    step, call = sorted(written(journal), key=lambda row: row["step"])
    assert call["error"]["type"] == "qbawa.Unfinished" and call["messages"] == [
        {"role": "user", "content": "left early"}
    ]
    assert qbawa.stats().open_calls == 0
