"""What holds for every committed file: it stands for itself, its links lead somewhere, its modules say what they are."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")

DATA = "../shared/data"
"""Published labels beside the checkout: the one thing outside it that tests and benchmarks may name."""
MOST_LOOSE_MODULES = 10
INDEX = re.compile(
    r"--(extra-)?index-url|\bpypi\.|\bpythonhosted\b|/simple/|\bindex\.crates\b|\bdevpi\b|\bartifactory\b", re.I
)
MACHINE = re.compile(r"(?<![\w.<{$/-])/(work|home|root|Users)/\w")


@cache
def committed() -> tuple[Path, ...]:
    """Every file of the working tree that git knows or would take, texts and pictures alike."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    return tuple(path for name in listed.split("\0")[:-1] if (path := ROOT / name).is_file())


@cache
def text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def lines() -> Iterator[tuple[str, str]]:
    """(file:line, line) of every committed text, this one left out, since it has to spell what it looks for."""
    for path in committed():
        if path != Path(__file__):
            for number, line in enumerate(text(path).splitlines(), start=1):
                yield f"{path.relative_to(ROOT)}:{number}", line


def pages() -> list[Path]:
    """Prose for readers: Markdown at the root and under docs/."""
    return [path for path in committed() if path.suffix == ".md" and path.parent.name not in ("fixtures",)]


def modules() -> list[Path]:
    return [path for path in committed() if path.suffix == ".py"]


def test_no_file_cites_what_lies_outside_the_repository() -> None:
    """A link out of the tree is dead for everybody else; `..` may go up within it, and to the data beside it in tests."""
    wrong = []
    for place, line in lines():
        if MACHINE.search(line) or re.search(r"\bMEASUREMENTS\b|\b(DESIGN|LAYOUT|STYLE|FORMATS)\.md\b", line):
            wrong.append(f"{place}: {line.strip()[:100]}")
        allowed = place.startswith(("tests/", "benchmarks/"))
        rest = line.replace(DATA, "") if allowed else line
        if "../shared" in rest:
            wrong.append(f"{place}: {line.strip()[:100]}")
    assert not wrong


def test_no_file_names_a_package_index() -> None:
    """Where packages come from is the user's own setting."""
    assert not [f"{place}: {line.strip()[:100]}" for place, line in lines() if INDEX.search(line)]


def test_links_between_pages_lead_somewhere() -> None:
    dead = []
    for page in pages():
        for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
            target, _, heading = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            there = page if not target else (page.parent / target).resolve()
            if not there.exists() or not there.is_relative_to(ROOT) or heading and heading not in headings(there):
                dead.append(f"{page.relative_to(ROOT)}: {link}")
    assert not dead


def headings(page: Path) -> set[str]:
    """The anchors of a page, as hosts of repositories make them."""
    found = re.findall(r"^#+ (.*)$", text(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


NAMED = re.compile(r"\b((?:docs|qbawa|qbawa_assets|resources|sensors|tests|tools|benchmarks)/[\w./-]*\w)")


def test_pages_that_are_named_exist() -> None:
    """`docs/lake.md` in a docstring, a message or a page; a page that was renamed leaves no name behind."""
    wrong = {f"{place}: {name}" for place, line in lines() for name in re.findall(r"\bdocs/[\w./-]+\.md\b", line)
             if not (ROOT / name).exists()}  # fmt: skip
    assert not wrong


def test_files_and_modules_that_pages_name_exist() -> None:
    wrong = []
    for page in pages():
        if page.name == "CHANGELOG.md":  # tells of what was there once
            continue
        for quoted in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text(page), flags=re.M | re.S)):
            for name in NAMED.findall(quoted):
                if quoted.startswith(name) and "NAME" not in name and not exists(name):
                    wrong.append(f"{page.relative_to(ROOT)}: {name}")
            dotted = re.fullmatch(r"(qbawa(?:\.[a-z_]+)+)(?:\.\w+)?", quoted)
            if dotted and not importable(quoted):
                wrong.append(f"{page.relative_to(ROOT)}: {quoted}")
    assert not wrong


MADE_AT_BUILD = "qbawa/dagster_project"


def exists(name: str) -> bool:
    return (ROOT / name).exists() or name == MADE_AT_BUILD


def importable(name: str) -> bool:
    """Whether `qbawa.a.b.name` is a module, or a name that stands in one; public names of `qbawa` itself included."""
    path = ROOT / name.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    for module in (path.parent.with_suffix(".py"), path.parent / "__init__.py"):
        if module.exists() and re.search(rf"\b{path.name}\b", text(module)):
            return True
    # `qbawa.cut` is a tag of rows, `qbawa.pair_id` a column of the view.
    return name.count(".") == 1


def test_code_blocks_of_pages_import_what_is_there() -> None:
    """`from qbawa.… import …` in the Python blocks of a page."""
    wrong = []
    for page in pages():
        for module, names in re.findall(r"^from (qbawa[\w.]*) import (.+)$", text(page), flags=re.M):
            for name in re.findall(r"\w+", names):
                if not importable(f"{module}.{name}"):
                    wrong.append(f"{page.relative_to(ROOT)}: {module}.{name}")
    assert not wrong


def test_every_module_says_what_it_is() -> None:
    ours = [path for path in modules() if path.relative_to(ROOT).parts[0] not in ("tests",)]
    assert not [str(path.relative_to(ROOT)) for path in ours if not ast.get_docstring(ast.parse(text(path)))]


def test_every_test_file_says_what_it_holds() -> None:
    tests = [path for path in modules() if path.name.startswith("test_")]
    assert not [str(path.relative_to(ROOT)) for path in tests if not ast.get_docstring(ast.parse(text(path)))]


def test_few_modules_stand_loose_under_the_package() -> None:
    loose = [path.name for path in (ROOT / "qbawa").glob("*.py") if not path.name.startswith("__")]
    assert len(loose) <= MOST_LOOSE_MODULES, loose


def test_every_room_stands_in_the_table_of_rooms() -> None:
    """docs/architecture.md names every package and loose module of `qbawa`, in the order that lint-imports keeps."""
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [rooms] = [contract for contract in contracts if contract.get("exhaustive")]
    ordered = [set(layer.split(" | ")) for layer in reversed(rooms["layers"])]
    table = text(ROOT / "docs" / "architecture.md").split("## Rooms")[1].split("## Where is")[0]
    drawn = [set(re.findall(r"`(\w+)(?:\.py|/)`", row.split("|")[1] if " \\| " not in row else row.split(" | ")[0]))
             for row in table.splitlines() if row.startswith("| `")]  # fmt: skip
    named = [name for row in drawn for name in row]
    assert sorted(named) == sorted(name for layer in ordered for name in layer)
    place = {name: number for number, layer in enumerate(ordered) for name in layer}
    numbers = [place[name] for row in drawn for name in sorted(row, key=lambda name: place[name])]
    loose_floor = [number for number in numbers if number > place["plotting"]]
    assert loose_floor == sorted(loose_floor)
