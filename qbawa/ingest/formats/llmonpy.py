"""LLMonPy tournaments: contestants become cells, contests become matches and verdicts of the kind `imported`.

Malformed verdicts and ties of LLMonPy fall to contestant two, so its contests are kept for comparison, flagged in judge
and rationale, and no question is written for them: without one no pair can be built, nothing reaches training data.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import polars as pl

from qbawa.ingest.formats.step_rows import BadRecordError, moment

FLAG = "llmonpy"
_FLAW = "LLMonPy counts ties and malformed verdicts for contestant two, who was shown second."


def is_llmonpy(record: dict[str, Any]) -> bool:
    return isinstance(record.get("contestant_list"), list) and isinstance(record.get("contest_result_list"), list)


class Tournaments:
    """Collects tournaments; `tables` then has them as the tables that `import_answers` and `import_verdicts` take."""

    def __init__(self) -> None:
        self._answers: dict[str, list[dict[str, Any]]] = {}
        self._verdicts: dict[str, list[dict[str, Any]]] = {}

    def add(self, record: dict[str, Any], step: str | None = None) -> Iterator[BadRecordError]:
        """Take one TourneyResult; yields what is wrong with contests that are left out."""
        request = record.get("tourney_result_id")
        if not isinstance(request, str) or not request:
            raise BadRecordError("missing_field", "tourney_result_id")
        step = step or str(record.get("step_name") or "tournament")
        began = moment(record["start_time"]) if record.get("start_time") else None
        names: dict[str, str] = {}
        answers, verdicts, used = [], [], Counter[str]()
        for contestant in record["contestant_list"]:
            name, model = _strategy(contestant)
            used[name] += 1
            # One way of answering may stand in a tournament more than once.
            names[contestant["output_id"]] = name = name if used[name] == 1 else f"{name} #{used[name]}"
            answer = _text(contestant.get("step_output"))
            answers.append(
                {"request": request, "strategy": name, "answer": answer, "model": model, "answered_at": began}
            )
        for contest in record["contest_result_list"]:
            try:
                verdicts.append({"request": request, "judged_at": began, **_verdict(contest, names, record)})
            except BadRecordError as error:
                yield error
        self._answers.setdefault(step, []).extend(answers)
        self._verdicts.setdefault(step, []).extend(verdicts)

    def tables(self) -> Iterator[tuple[str, pl.DataFrame, pl.DataFrame]]:
        """step, answers, verdicts."""
        at = {"answered_at": pl.Datetime("us", "UTC"), "judged_at": pl.Datetime("us", "UTC")}
        for step, answers in self._answers.items():
            frames = [pl.DataFrame(rows, schema_overrides=_only(at, rows)) for rows in (answers, self._verdicts[step])]
            yield step, frames[0], frames[1]


def _verdict(contest: Any, names: dict[str, str], record: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(contest, dict):
        raise BadRecordError("wrong_type", f"a contest is {contest!r:.60}, not an object")
    one, two, winner = (contest.get(f"{who}_output_id") for who in ("contestant_one", "contestant_two", "winner"))
    if one not in names or two not in names or winner not in (one, two):
        raise BadRecordError(
            "missing_field", f"contest {contest.get('step_id')}: contestants or winner are not in the list"
        )
    judges, dissent = record.get("number_of_judges"), contest.get("dissenting_judges") or 0
    if not isinstance(dissent, int) or (
        judges is not None and (not isinstance(judges, int) or not 0 <= dissent < judges)
    ):
        raise BadRecordError("wrong_type", f"contest {contest.get('step_id')}: {dissent} dissenting of {judges} judges")
    share = 1 - dissent / judges if judges else 1.0
    # A winner with half of the votes or fewer won by LLMonPy's rule for ties, not by the judges.
    preference = max(share, 0.5) if winner == one else min(1 - share, 0.5)
    return {
        "strategy_a": names[one],
        "strategy_b": names[two],
        "judge": f"{FLAG}: jury of {judges}" if judges else f"{FLAG}: jury",
        "preference": preference,
        "order_shown": "a",
        "rationale": f"{dissent} of {judges or '?'} judges dissented. {_FLAW}",
    }


def _strategy(contestant: Any) -> tuple[str, str | None]:
    if not isinstance(contestant, dict) or not isinstance(contestant.get("output_id"), str):
        raise BadRecordError("missing_field", "output_id of a contestant")
    info = contestant.get("llm_model_info")
    info = info if isinstance(info, dict) else {}
    model, settings = info.get("model_name"), info.get("client_settings_dict")
    settings = " ".join(f"{k}={v}" for k, v in sorted(settings.items())) if isinstance(settings, dict) else ""
    return " ".join(filter(None, (f"{FLAG}/{model or 'unknown'}", settings))), model if isinstance(model, str) else None


def _text(output: Any) -> str:
    return output if isinstance(output, str) else msgspec.json.encode(output).decode()


def _only(types: dict[str, pl.Datetime], rows: list[dict[str, Any]]) -> dict[str, pl.Datetime]:
    return {name: type_ for name, type_ in types.items() if rows and name in rows[0]}
