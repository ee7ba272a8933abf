"""`make release`: what it refuses, and what stands in dist/ afterwards. Real git, real hatchling, in a copy of this tree."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOBODY = {f"GIT_{who}_{what}": "nobody" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")


def git(folder: Path, *words: str) -> str:
    environment = os.environ | NOBODY
    return subprocess.run(
        ["git", *words], cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout


def release(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "release.py"), *words]
    return subprocess.run(command, cwd=folder, env=os.environ | NOBODY, capture_output=True, text=True, timeout=120)


def committed(folder: Path) -> Path:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "As it is")
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A committed tree that could be released as 1.2.3."""
    (tmp_path / "qbawa").mkdir()
    (tmp_path / "qbawa" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3\n\n- Better.\n\n## 1.2.2\n\n- Good.\n")
    return committed(tmp_path)


def test_a_clean_tree_with_notes_can_be_released(small: Path) -> None:
    done = release(small, "--check")
    assert (done.returncode, done.stdout) == (0, "1.2.3 can be released.\n")
    assert git(small, "tag") == ""


def test_a_tree_with_changes_is_refused(small: Path) -> None:
    (small / "stray.txt").write_text("not committed")
    done = release(small)
    assert done.returncode == 1 and "not clean" in done.stderr and "stray.txt" in done.stderr
    assert git(small, "tag") == ""


def test_a_version_that_is_tagged_is_refused(small: Path) -> None:
    git(small, "tag", "v1.2.3")
    done = release(small)
    assert done.returncode == 1 and "v1.2.3 is tagged already" in done.stderr


@pytest.mark.parametrize(
    "heading",
    [
        "## 1.2.30",
        "## 1.2.3 (unreleased)",
        "### 1.2.3",
        "## 1.2.3\n\n## 1.2.1",
        "## 1.2.4 (unreleased)\n\n- Not yet.\n\n## 1.2.3",
    ],
)
def test_a_changelog_that_does_not_tell_of_the_version_is_refused(small: Path, heading: str) -> None:
    (small / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n\n- Better.\n\n## 1.2.2\n\n- Good.\n")
    git(small, "commit", "--quiet", "--all", "--message", "Other notes")
    done = release(small)
    assert done.returncode == 1 and "CHANGELOG.md must be `## 1.2.3`" in done.stderr
    assert git(small, "tag") == ""


def test_a_version_that_is_no_release_is_refused(small: Path) -> None:
    (small / "qbawa" / "__init__.py").write_text('__version__ = "1.2.3.dev1"\n')
    git(small, "commit", "--quiet", "--all", "--message", "On the way")
    done = release(small)
    assert done.returncode == 1 and "1.2.3.dev1" in done.stderr


def test_a_build_that_fails_leaves_no_tag(small: Path) -> None:
    done = release(small)  # no pyproject.toml, so hatchling cannot build it
    assert done.returncode == 1 and "hatchling cannot build it" in done.stderr
    assert git(small, "tag") == "" and not (small / "dist").exists()


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this working tree, released as 9.9.9."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")[:-1]:
        source, copy = ROOT / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.exists():
            shutil.copy(source, copy, follow_symlinks=False)
    package, changelog = folder / "qbawa" / "__init__.py", folder / "CHANGELOG.md"
    package.write_text(re.sub(r'__version__ = ".*"', '__version__ = "9.9.9"', package.read_text()))
    changelog.write_text("# Changelog\n\n## 9.9.9 (2026-11-22)\n\n# Not a comment.\n- The last word.\n")
    committed(folder)
    # What git ignores lies about in every checkout that somebody works in; none of it may travel.
    cache = folder / "qbawa_assets" / "__pycache__"
    cache.mkdir()
    (cache / "jobs.cpython-311.pyc").write_bytes(b"stale")
    (folder / ".qbawa").mkdir()
    done = release(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_tag_carries_what_the_changelog_says(released: Path) -> None:
    assert git(released, "tag") == "v9.9.9\n"
    assert git(released, "rev-parse", "v9.9.9^{commit}") == git(released, "rev-parse", "HEAD")
    message = git(released, "tag", "--list", "--format=%(contents)", "v9.9.9")
    assert message.strip() == "qbawa 9.9.9\n\n# Not a comment.\n- The last word."
    assert git(released, "status", "--porcelain") == ""


def test_the_checksums_are_those_of_wheel_and_sdist(released: Path) -> None:
    dist = released / "dist"
    lines = (dist / "SHA256SUMS").read_text().splitlines()
    assert [line.split("  ") for line in lines] == [
        [hashlib.sha256((dist / name).read_bytes()).hexdigest(), name]
        for name in ("qbawa-9.9.9-py3-none-any.whl", "qbawa-9.9.9.tar.gz")
    ]
    assert {path.name for path in dist.iterdir()} == {"SHA256SUMS", *(line.split("  ")[1] for line in lines)}


def test_the_wheel_holds_every_committed_module_and_nothing_at_the_top_but_qbawa(released: Path) -> None:
    with zipfile.ZipFile(released / "dist" / "qbawa-9.9.9-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
    assert {name.split("/")[0] for name in names} == {"qbawa", "qbawa-9.9.9.dist-info"}
    ours = {name for name in git(released, "ls-files", "qbawa").splitlines()}
    project = git(released, "ls-files", "qbawa_assets", "resources", "sensors", "workspace.yaml").splitlines()
    assert ours | {f"qbawa/dagster_project/{name}" for name in project} == {n for n in names if "dist-info" not in n}
    assert "qbawa-9.9.9.dist-info/licenses/LICENSE" in names


def test_the_sdist_builds_the_very_same_wheel(released: Path, tmp_path: Path) -> None:
    with tarfile.open(released / "dist" / "qbawa-9.9.9.tar.gz") as sdist:
        sdist.extractall(tmp_path, filter="data")
    source = tmp_path / "qbawa-9.9.9"
    assert all(
        (source / name).exists() for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md", "SECURITY.md", "docs")
    )
    epoch = {"SOURCE_DATE_EPOCH": git(released, "log", "-1", "--format=%ct").strip()}
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "again")]
    subprocess.run(command, cwd=source, env=os.environ | epoch, check=True, capture_output=True)
    name = "qbawa-9.9.9-py3-none-any.whl"
    assert (tmp_path / "again" / name).read_bytes() == (released / "dist" / name).read_bytes()
