"""The layers of the project and who may import what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ["qbawa", "resources", "qbawa_assets", "sensors"]
MAY_IMPORT = {
    "qbawa": {"qbawa"},
    "resources": {"qbawa", "resources"},
    "qbawa_assets": {"qbawa", "resources", "qbawa_assets"},
    "sensors": set(LAYERS),
}
COMPOSITION_ROOT = Path("qbawa_assets/definitions.py")


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def modules(layer: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / layer).rglob("*.py"))


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_run_one_way(layer: str) -> None:
    for path in modules(layer):
        if path == COMPOSITION_ROOT:
            continue
        strange = (imports_of(ROOT / path) & set(LAYERS)) - MAY_IMPORT[layer]
        assert not strange, f"{path} imports {strange}"


def test_the_library_never_imports_dagster() -> None:
    for path in modules("qbawa"):
        assert not {name for name in imports_of(ROOT / path) if name.startswith("dagster")}, path


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        # The recorder's adapter hooks into the litellm of the application that it runs in, if there is one.
        ("litellm", {"qbawa/engine/providers/litellm.py", "qbawa/record/integrations/litellm.py"}),
        ("deltalake", {"qbawa/storage/lake.py"}),
    ],
)
def test_one_module_imports(package: str, allowed: set[str]) -> None:
    importing = {str(path) for layer in LAYERS for path in modules(layer) if package in imports_of(ROOT / path)}
    assert importing <= allowed


def test_importing_qbawa_loads_nothing_of_third_parties() -> None:
    script = (
        "import sys; before = set(sys.modules); import qbawa; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before}; "
        "print(' '.join(sorted(new - set(sys.stdlib_module_names) - {'qbawa'})))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == ""
