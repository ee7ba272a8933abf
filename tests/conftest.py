"""What tests of several rooms start from: a provider whose words are scripted, and a journal that is recorded into."""

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
