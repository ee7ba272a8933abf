"""The planted case: on a step with tools, friendly words compete with right tool calls before a judge that likes words.

All is real but the words: a journal as a recorder writes it, a server on loopback that speaks chat completions and the
Responses API, ingest, replay, tournament, pairs, champion.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from qbawa.datasets.stage import build_qbawa, export_datasets
from qbawa.ingest import stage as ingest_stage
from qbawa.judges.prompt import read_blocks
from qbawa.optimize.stage import promote
from qbawa.project import Home, Project, open_project
from qbawa.replay import stage as replay_stage
from qbawa.tournaments import stage as tournaments_stage
from tests.support.scripted_provider import ScriptedProvider, scripted_provider

Json = Any
STEP = "book"
CITIES = ("Rome", "Oslo", "Lisbon", "Kyoto", "Quito", "Accra", "Perth", "Vilnius", "Cusco", "Tunis")
WISHES = (
    "Two nights near the copper roofs of {}, please, for a violin maker and her dog.",
    "My grandmother turns ninety in {} next spring: find us somewhere quiet with a view of the water.",
    "We are four chess players on the way to a tournament in {}; any hostel with tables will do.",
    "{} in July, a whole week, eighty a night at most, and I must have breakfast before six.",
    "Is anything still free in {} during the film festival? I would take a cupboard.",
    "Our choir of thirty sings at the cathedral of {} on Sunday and still has no beds.",
    "Honeymoon! {}, a balcony, no children, no elevators, no conferences.",
    "The glacier expedition was cancelled, so send my whole crew to {} instead, from Friday on.",
    "I lost my passport and am stuck at the airport of {}; where could I sleep tonight?",
    "Please reserve what we had last winter in {}, only this time without the accordion next door.",
)
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "nights": {"type": "integer"}},
    "required": ["city", "nights"],
    "additionalProperties": False,
}
FUNCTION = {"name": "book", "description": "Books a room.", "parameters": SCHEMA}
SYSTEM = "You book rooms by calling book."
STRATEGIES = [
    {"step": STEP, "name": "tool", "keep_prompt": True, "model": "agent", "params": {"temperature": 0}},
    {"step": STEP, "name": "twin", "keep_prompt": True, "model": "agent", "params": {"temperature": 0.5}},
    {"step": STEP, "name": "invalid", "keep_prompt": True, "model": "agent", "params": {"temperature": 1}},
    {"step": STEP, "name": "prose", "prompt": "Be friendly: {{ wish }}", "model": "agent",
     "params": {"tools": None, "tool_choice": None, "temperature": None}},
]  # fmt: skip


def wish(number: int) -> str:
    return WISHES[number].format(CITIES[number])


def friendly(number: int) -> str:
    return f"What a lovely idea! I would be so happy to help you with your stay in {CITIES[number]}. " * 3


def step_line(number: int, api: str) -> dict[str, Json]:
    """What a recorder wrote: the app answered in words, although it had the tool."""
    asked: dict[str, Json] = {"model": "m", "temperature": 0.2}
    if api == "openai.chat":
        said = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": wish(number)}]
        asked |= {"messages": said, "tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "auto"}
        response: Json = chat({"content": friendly(number)})
    else:
        asked |= {
            "instructions": SYSTEM,
            "input": wish(number),
            "tools": [{"type": "function", **FUNCTION, "strict": False}],
        }
        text = {"type": "output_text", "text": friendly(number), "annotations": []}
        response = responses(
            {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
        )
    return {
        "v": 1, "kind": "step", "recording_id": f"rec{number}", "request_id": f"r{number}", "parent_id": None,
        "pipeline": "p", "step": STEP, "inputs": {"wish": wish(number)}, "messages": None, "parameters": None,
        "output": friendly(number), "model": None, "call": {"api": api, "request": asked, "response": response},
        "input_tokens": None, "output_tokens": None, "cost_usd": None, "latency_s": 0.1, "error": None, "tags": {},
        "user": None, "llm_calls": 1, "started_at": f"2026-11-01T00:00:{number:02}Z",
    }  # fmt: skip


def chat(message: dict[str, Json]) -> dict[str, Json]:
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 39}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def responses(item: dict[str, Json]) -> dict[str, Json]:
    usage = {"input_tokens": 30, "output_tokens": 9, "total_tokens": 39}
    return {"id": "resp", "object": "response", "created_at": 1, "status": "completed", "model": "m", "error": None,
            "incomplete_details": None, "output": [item], "usage": usage}  # fmt: skip


@dataclass
class World:
    """The model of all strategies, and a judge that prefers longer, friendlier words unless it sees that a call was right."""

    judged: list[tuple[Json, Json]] = field(default_factory=list)
    """Answers that the judge was shown together."""
    paths: set[str] = field(default_factory=set)
    drawn: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def reply(self, path: str, body: dict[str, Json]) -> dict[str, Json]:
        with self.lock:
            self.paths.add(path)
            self.drawn += 1
            call_id = f"call_{self.drawn}"
        if body["model"] == "judge":
            shown = body["messages"][-1]["content"]
            with self.lock:
                blocks = read_blocks(shown)
                self.judged.append((blocks["answer_1"], blocks["answer_2"]))
            return chat({"content": json.dumps({"rationale": "r", "verdict": verdict(shown)})})
        text = json.dumps(body["messages"] if "messages" in body else body["input"])
        (city,) = [city for city in CITIES if city in text]
        if "tools" not in body:
            return chat({"content": friendly(CITIES.index(city))})
        arguments = {
            0: f'{{"city": "{city}", "nights": 2}}',
            0.5: f'{{"nights":2.0,"city":"{city}"}}',  # says the same in other letters
            1: f'{{"city": "{city}", "nights": "two, if you please, with a view of the water and a kettle"}}',
        }[body["temperature"]]
        if path.endswith("/responses"):
            item = {"type": "function_call", "id": "f", "call_id": call_id, "name": "book", "arguments": arguments}
            return responses({**item, "status": "completed"})
        function = {"name": "book", "arguments": arguments}
        return chat({"tool_calls": [{"id": call_id, "type": "function", "function": function}]})


def verdict(shown: str) -> str:
    """The longer answer, unless the prompt says that tools were on offer and that one answer alone calls them rightly."""
    blocks = read_blocks(shown)
    answers = [blocks["answer_1"], blocks["answer_2"]]
    question = blocks["question"]
    faults = re.search(r"<facts>(.*?)</facts>", shown)
    wrong = {fact["answer"] for fact in json.loads(faults[1])} if faults else set()
    if isinstance(question, dict) and question.get("tools"):
        right = [n for n, a in enumerate(answers, 1) if isinstance(a, dict) and "tool_calls" in a and n not in wrong]
        if len(right) == 1:
            return str(right[0])
        if len(wrong) == 1:
            return str(3 - wrong.pop())
    return "1" if len(json.dumps(answers[0])) > len(json.dumps(answers[1])) else "2"


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with scripted_provider() as running:
        yield running


def turned(folder: Path, provider: ScriptedProvider, api: str) -> tuple[Project, World]:
    """A home that recorded the step by this API, answered, judged, paired and promoted."""
    world = World()
    provider.replies = world.reply
    home = Home(folder)
    served = {"base_url": provider.base_url, "free": True}
    config = {
        "models": {"agent": served, "judge": served},
        "strategies": STRATEGIES,
        "judges": {"judge": {"model": "judge"}},
        "tournament": {"format": "round_robin", "goal": "pairs"},
        "pairs": {"p_best": 0.6},
        "datasets": {"sft": {"p_best": 0.6, "format": "openai_sft"}},
    }
    home.config.write_text(yaml.safe_dump(config))
    home.journal.mkdir(parents=True)
    lines = [json.dumps(step_line(number, api)) for number in range(len(CITIES))]
    (home.journal / "20261101T000000Z-1-aaaa.jsonl").write_text("\n".join(lines) + "\n")
    project = open_project(home)
    ingest_stage.ingest(project, ingest_stage.new_batches(project))
    replay_stage.choose_requests(project)
    replay_stage.declare_strategies(project)
    replay_stage.replay(project, replay_stage.wanted_cells(project.lake), run_id="one")
    tournaments_stage.play(project, run_id="two")
    tournaments_stage.rate_strategies(project)
    build_qbawa(project)
    return project, world


@pytest.mark.slow
@pytest.mark.parametrize("api", ["openai.chat", "openai.responses"])
def test_a_right_tool_strategy_wins_against_friendly_prose(
    api: str, tmp_path: Path, provider: ScriptedProvider
) -> None:
    project, world = turned(tmp_path, provider, api)
    lake = project.lake
    cells = lake.read("replay_matrix")
    assert cells.height == 50 and set(cells["status"]) == {"ok"}
    wanted = {"/v1/chat/completions", *(["/v1/responses"] if api == "openai.responses" else [])}
    assert world.paths == wanted, "what was asked of the Responses API is asked of it again"
    names = dict(lake.read("strategies", ["strategy_id", "name"]).iter_rows())
    kind = {cell: names.get(s, "recorded").split()[0] for cell, s in cells.select("cell_id", "strategy_id").iter_rows()}
    assert set(kind.values()) == {"tool", "twin", "invalid", "prose", "recorded"}

    # The judge would have been wrong: it is the prompt that shows it what was on offer.
    assert verdict(f'<question>"q"</question>\n<answer_1>{json.dumps({"tool_calls": []})}</answer_1>\n'
                   f"<answer_2>{json.dumps(friendly(0))}</answer_2>") == "2"  # fmt: skip

    matches = lake.read("matches")
    won = {"tool": 0, "twin": 0, "invalid": 0, "prose": 0, "recorded": 0}
    for a, b, winner, origin in matches.select("cell_a", "cell_b", "winner", "origin").iter_rows():
        pair = {kind[a], kind[b]}
        if pair in ({"tool", "twin"}, {"prose", "recorded"}):
            assert (origin, winner) == ("identical", "tie")
            continue
        assert origin == "tournament" and winner in ("a", "b"), (pair, origin, winner)
        best = kind[a] if winner == "a" else kind[b]
        won[best] += 1
        assert best in ("tool", "twin") or not pair & {"tool", "twin"}, pair
        assert best != "invalid", "a call that breaks the schema loses to all"
    assert won["tool"] + won["twin"] > 0
    for first, second in world.judged:
        called = [isinstance(answer, dict) and "tool_calls" in answer for answer in (first, second)]
        if all(called):
            nights = [answer["tool_calls"][0]["arguments"]["nights"] for answer in (first, second)]
            assert any(isinstance(n, str) for n in nights), "nobody is asked about equal calls"
        else:
            assert any(called), "nobody is asked about equal words"

    ranks = {kind_of: rank for s, rank in lake.read("ratings", ["strategy_id", "rank"]).iter_rows()
             for kind_of in [names.get(s, "recorded").split()[0]]}  # fmt: skip
    assert {ranks["tool"], ranks["twin"]} == {1, 2} and ranks["invalid"] == max(ranks.values())
    (champion,) = promote(project)["strategy_id"]
    assert names[champion].split()[0] in ("tool", "twin")

    pairs = lake.read("qbawa")
    assert pairs.height >= 20
    for best, worse, asked in pairs.select("best_cell", "worse_cell", "parameters").iter_rows():
        assert kind[best] in ("tool", "twin") or kind[worse] == "invalid", (kind[best], kind[worse])
        assert kind[worse] not in ("tool", "twin")
        assert json.loads(asked)["tools"][0]["function"]["name"] == "book"
    exported = export_datasets(project)
    assert not exported.refused
    folder = project.home.whole_path(exported.rows["path"][0])
    rows = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert rows and all(row["messages"][-1]["tool_calls"] and row["tools"][0]["function"] for row in rows)
