"""What tests of several rooms start from: a provider whose words are scripted, and a journal that is recorded into."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from scripted_provider import ScriptedProvider, scripted_provider

import qbawa

# How long an example takes says how busy the machine is, and nothing of what is tested.
hypothesis.settings.register_profile("qbawa", deadline=None)
hypothesis.settings.load_profile("qbawa")

if TYPE_CHECKING:
    from _mock_provider import MockProvider


# With `--dist loadfile` a long file that begins last keeps one worker busy while the others wait.
LONGEST_FIRST = (
    *(
        "tests/cli/test_strangers.py",
        "tests/cli/test_hostile_answers.py",
        "tests/cli/test_up.py",
        "tests/test_readme.py",
        "tests/test_names.py",
    ),
    *("tests/dagster/", "tests/tournaments/test_"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        return next((k for k, path in enumerate(LONGEST_FIRST) if item.nodeid.startswith(path)), len(LONGEST_FIRST))

    items.sort(key=turn)


@pytest.fixture(scope="module", autouse=True)
def frozen_heap() -> None:
    """Whatever is imported by now stays: half a million objects that no collection need look at again, 0.4 s each time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # what stays frozen when Python ends is reported as leaked by extension modules


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedProvider]:
    """A provider for all tests of a file, which may see what the others asked."""
    with scripted_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def mock_server() -> Iterator["MockProvider"]:
    from _mock_provider import running  # the recorder's tests need no aiohttp

    with running() as provider:
        yield provider


@pytest.fixture
def provider(mock_server: "MockProvider") -> "MockProvider":
    """A provider with limits and faults, as if newly started."""
    mock_server.control()
    return mock_server


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    """The folder into which this process records during the test."""
    qbawa.configure(tmp_path / "journal", pipeline="contracts")
    yield tmp_path / "journal"
    qbawa.configure()
