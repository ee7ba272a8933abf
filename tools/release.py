"""A release out of a clean checkout: wheel, sdist and SHA256SUMS in dist/, then the tag. Nothing is uploaded or pushed.

The version is `__version__` of qbawa/__init__.py; CONTRIBUTING.md says what to do before. `--check` only looks.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path


class RefusedError(Exception):
    """Why nothing is released, and what to do about it."""


def main() -> int:
    """Exit code: 0 if the release is there (with `--check`: could be made), 1 if it was refused or its build failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="say whether a release could be made; make none")
    only_check = parser.parse_args().check
    root = Path.cwd()
    try:
        refuse_unclean(root)
        version = version_of(root)
        refuse_tagged(root, version)
        notes = notes_of(root, version)
        if only_check:
            print(f"{version} can be released.")
            return 0
        built = build(root, version)
    except (RefusedError, subprocess.CalledProcessError) as problem:
        print(f"Not released: {problem}", file=sys.stderr)
        return 1
    # Last, so that a tag always has its files.
    git(root, "tag", "--annotate", "--cleanup=whitespace", f"v{version}", "--message", f"qbawa {version}\n\n{notes}")
    print(f"Tagged v{version}. In dist/:", *(f"  {path.name}" for path in built), sep="\n")
    print(f"Not uploaded, not pushed: git push origin v{version}")
    return 0


def version_of(root: Path) -> str:
    """`__version__` of the package. Raises RefusedError for one that is no release's, such as 0.2.0.dev1."""
    found = re.search(r'^__version__ = "(.*)"$', (root / "qbawa" / "__init__.py").read_text(encoding="utf-8"), re.M)
    if found is None:
        raise RefusedError('qbawa/__init__.py has no line `__version__ = "…"`.')
    if not re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", found[1]):
        raise RefusedError(f"`__version__` is {found[1]!r}; a release is called like 1.2.3 or 1.2.3rc1.")
    return found[1]


def notes_of(root: Path, version: str) -> str:
    """What CHANGELOG.md says of the version, which must be its newest and not `(unreleased)`. Raises RefusedError."""
    parts = re.split(r"^## (.*)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    heading, notes = (parts[1].strip(), parts[2].strip()) if len(parts) > 1 else ("", "")
    if re.fullmatch(rf"{re.escape(version)}( \(\d{{4}}-\d\d-\d\d\))?", heading) and notes:
        return notes
    raise RefusedError(
        f"the first heading of CHANGELOG.md must be `## {version}` or `## {version} (YYYY-MM-DD)`, with lines below it; "
        f"it is `## {heading}`."
    )


def refuse_unclean(root: Path) -> None:
    """Raises RefusedError where the tree differs from the last commit."""
    changed = git(root, "status", "--porcelain").splitlines()
    if changed:
        raise RefusedError(
            f"the tree is not clean: {len(changed)} paths, the first `{changed[0]}`. Commit or remove them first."
        )


def refuse_tagged(root: Path, version: str) -> None:
    """Raises RefusedError where the version has a tag."""
    if git(root, "tag", "--list", f"v{version}"):
        raise RefusedError(f"v{version} is tagged already. Raise `__version__` in qbawa/__init__.py.")


def build(root: Path, version: str) -> list[Path]:
    """Sdist, wheel and SHA256SUMS of the last commit, in a dist/ that holds nothing else."""
    with tempfile.TemporaryDirectory(prefix="qbawa-release-") as name:
        source, out = Path(name) / f"qbawa-{version}", Path(name) / "dist"
        # What is committed and nothing else: no __pycache__, no file that git ignores.
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=root, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(source, filter="data")
        # The commit's time in every file of the archives: the same commit gives the same bytes.
        environment = os.environ | {"SOURCE_DATE_EPOCH": git(root, "log", "-1", "--format=%ct")}
        command = [sys.executable, "-m", "hatchling", "build", "--directory", str(out)]
        done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RefusedError(f"hatchling cannot build it:\n{done.stderr.strip()}")
        built = sorted(out.iterdir())
        sums = out / "SHA256SUMS"
        sums.write_text("".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in built))
        dist = root / "dist"
        shutil.rmtree(dist, ignore_errors=True)
        shutil.copytree(out, dist)
    return [dist / path.name for path in [*built, sums]]


def git(root: Path, *words: str) -> str:
    """What git says. Raises CalledProcessError where it fails, its complaint on standard error."""
    return subprocess.run(["git", *words], cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
