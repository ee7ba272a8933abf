"""The command line: help with an example everywhere, clear refusals, nothing half-written, and a quick start."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from qbawa.cli import COMMANDS, main
from qbawa.cli.sample import write_sample
from qbawa.project import Home, open_project


class Said(NamedTuple):
    code: int
    out: str
    err: str


Qbawa = Callable[..., Said]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the sample configuration and an empty lake, to be copied."""
    made = Home(tmp_path_factory.mktemp("empty") / "home")
    write_sample(made)
    open_project(made).publish()
    return made


@pytest.fixture
def home(empty: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Such a home, of one's own."""
    shutil.copytree(empty.root, tmp_path / "home")
    monkeypatch.setenv("QBAWA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return Home.find()


@pytest.fixture
def qbawa(home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Qbawa:
    """Runs a command: its exit code and what it said."""

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["qbawa", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        said = capsys.readouterr()
        return Said(code if isinstance(code, int) else int(code is not None), said.out, said.err)

    return run


def refused(said: Said, *words: str) -> None:
    """One clear message on standard error, nothing else, and exit code 2."""
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("qbawa: ") and "Traceback" not in said.err
    for word in words:
        assert word in said.err


def files(home: Home) -> dict[str, bytes]:
    """What every file of the home holds, locks aside."""
    found = (path for path in sorted(home.root.rglob("*")) if path.is_file() and path.suffix != ".lock")
    return {str(path): path.read_bytes() for path in found}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(qbawa: Qbawa, command: str) -> None:
    said = qbawa(command, "--help")
    assert said.code == 0
    assert "Example" in said.out
    assert f"  qbawa {command}" in said.out or f"qbawa {command}" in said.out.split("Example", 1)[1]


def test_the_list_of_commands_names_all_of_them(qbawa: Qbawa) -> None:
    said = qbawa("--help")
    assert all(f"  {command} " in said.out for command in COMMANDS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("strategies: [", ("qbawa.yaml", "YAML")),
        ("- a list", ("qbawa.yaml", "list", "strategies:")),
        ("strategis: []", ("strategis", "no such key", "strategies")),
        ("models: {m: {requests_per_minute: -5}}", ("models.m.requests_per_minute", "greater than 0", "-5")),
        ("judges: {j: {model: gpt-9}}", ("judges.j.model", "gpt-9", "models")),
        ("judges: {j: {model: offline/judge}}\nsteps: {s: {jury: [k]}}", ("steps.s.jury", "'k'", "j")),
        ("pairs: {splits: {train: 0.5, test: 0.2}}", ("pairs", "sum to 1", "0.7")),
        ("lake: {storage_options: {key: $NOT_THERE}}", ("lake.storage_options.key", "NOT_THERE")),
    ],
)
@pytest.mark.parametrize("command", [("status",), ("run", "replay_sweep"), ("up",)])
def test_a_broken_configuration_is_one_clear_message(
    qbawa: Qbawa, home: Home, text: str, words: tuple[str, ...], command: tuple[str, ...]
) -> None:
    home.config.write_text(text)
    before = files(home)
    refused(qbawa(*command), *words)
    assert files(home) == before


def test_a_missing_configuration_names_the_command_that_writes_one(qbawa: Qbawa, home: Home) -> None:
    home.config.unlink()
    refused(qbawa("status"), "qbawa.yaml", "qbawa init")


def test_init_never_overwrites(qbawa: Qbawa, home: Home) -> None:
    home.config.write_text("budget: {usd_per_run: 1}")
    refused(qbawa("init"), "exists", "--force")
    assert home.config.read_text() == "budget: {usd_per_run: 1}"
    assert qbawa("init", "--force").code == 0
    assert home.config.with_suffix(".yaml.bak").read_text() == "budget: {usd_per_run: 1}"


@pytest.mark.parametrize(
    ("table", "arguments", "words"),
    [
        (None, ("--step", "s"), ("answers.csv",)),
        ("request,strategy\nr,a\n", ("--step", "s", "--as", "answers"), ("answer", "request, strategy")),
        ("request,strategy,answer\nr,a,b\n", (), ("--step",)),
        (
            "request,strategy,answer\nr,a,b\n",
            ("--step", "s", "--as", "answers", "--map", "strategy=nothere"),
            ("nothere",),
        ),
        ("request,strategy,answer\nr,a,b\n", ("--step", "s", "--map", "strategy"), ("--map", "strategy")),
        (
            "request,strategy_a,strategy_b,judge\nr,a,b,j\n",
            ("--step", "s", "--as", "verdicts"),
            ("preference", "request, strategy_a, strategy_b, judge"),
        ),
        (
            "request,strategy_a,strategy_b,judge,preference\nr,a,b,j,1.5\n",
            ("--step", "s"),
            ("preference", "1.5"),
        ),
        (
            "request,strategy_a,strategy_b,judge,verdict\nr,a,b,j,perhaps\n",
            ("--step", "s"),
            ("verdict", "perhaps"),
        ),
    ],
)
def test_a_table_that_cannot_be_imported_is_refused_whole(
    qbawa: Qbawa, home: Home, tmp_path: Path, table: str | None, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    path = tmp_path / "answers.csv"
    if table is not None:
        path.write_text(table)
    before = files(home)
    refused(qbawa("import", str(path), *arguments), *words)
    assert files(home) == before


def test_an_unknown_strategy_is_refused_before_anything_starts(qbawa: Qbawa, home: Home, tmp_path: Path) -> None:
    table = tmp_path / "answers.csv"
    table.write_text("request,strategy,answer\nr,terse,b\n")
    assert qbawa("import", str(table), "--step", "s").code == 0
    before = files(home)
    refused(qbawa("run", "replay_sweep", "--strategies", "tersse"), "tersse", "terse")
    assert files(home) == before
    refused(qbawa("plan", "--strategies", "tersse"), "tersse", "terse")


def test_an_unknown_dataset_is_refused(qbawa: Qbawa, home: Home) -> None:
    before = files(home)
    refused(qbawa("export", "nothere"), "nothere", "summaries_dpo")
    assert files(home) == before


def test_an_unknown_id_is_refused(qbawa: Qbawa) -> None:
    refused(qbawa("trace", "nothere"), "nothere")


def test_options_that_choose_cells_are_refused_where_no_cell_is_answered(qbawa: Qbawa) -> None:
    refused(qbawa("run", "judge_anew", "--strategies", "x"), "judge_anew", "--strategies")


def test_an_unknown_job_or_option_is_a_usage_error(qbawa: Qbawa) -> None:
    said = qbawa("run", "nothere")
    assert said.code == 2
    assert "replay_sweep" in said.err
    assert qbawa("status", "--nothere").code == 2
    assert qbawa("nothere").code == 2


def test_wrong_sql_is_one_message_and_sql_changes_nothing(qbawa: Qbawa, home: Home) -> None:
    refused(qbawa("sql", "SELEC 1"), "SELEC")
    refused(qbawa("sql", "SELECT * FROM nothere"), "nothere")
    before = files(home)
    for attempt in ("CREATE TABLE x (a INT)", "DROP VIEW recordings", "DELETE FROM qbawa"):
        assert qbawa("sql", attempt).code == 2
    assert files(home) == before


def test_sql_answers_as_table_json_and_csv(qbawa: Qbawa) -> None:
    question = "SELECT 1 AS one, 'a,b' AS two"
    assert "one" in qbawa("sql", question).out
    assert json.loads(qbawa("sql", "--json", question).out) == {"one": 1, "two": "a,b"}
    assert qbawa("sql", "--csv", question).out.splitlines() == ["one,two", '1,"a,b"']


def test_a_table_of_many_numbers_cuts_none(qbawa: Qbawa) -> None:
    numbers = {f"a_number_with_a_name_{n}": f"{n}.123456789::DOUBLE" for n in range(12)} | {
        "large": "123456789.5::DOUBLE"
    }
    question = "SELECT 'some long text in a narrow place' AS said, " + ", ".join(
        f"{v} AS {k}" for k, v in numbers.items()
    )
    shown = qbawa("sql", question).out
    assert all(f" {n}.123 " in shown for n in range(1, 10)) and " 11.12 " in shown and " 123456790 " in shown
    assert "…" not in shown
    exact = json.loads(qbawa("sql", "--json", question).out)
    assert exact["a_number_with_a_name_3"] == 3.123456789 and exact["large"] == 123456789.5
    assert "3.123456789" in qbawa("sql", "--csv", question).out


def test_sql_without_a_question_describes_every_view(qbawa: Qbawa) -> None:
    rows = [json.loads(line) for line in qbawa("sql", "--json").out.splitlines()]
    assert {"recordings", "replay_matrix", "qbawa", "champions"} <= {row["view"] for row in rows}
    assert all(row["columns"] for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("sql", "SELECT 1"), ("status",), ("run", "--help")])
def test_commands_that_ask_no_model_start_without_the_heavy_libraries(home: Home, arguments: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom qbawa.cli import main\n"
        f"sys.argv = ['qbawa', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'litellm', 'dagster', 'sklearn', 'matplotlib', 'dspy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
