"""Imports go down only, and a published model folder depends on nothing but torch, transformers and its siblings."""

import ast
import sys
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "data_scripts": {"data_scripts"},
    "models": {"models"},
    "trainers": {"trainers", "models", "data_scripts"},
    "scripts": {"scripts", "trainers", "models", "data_scripts"},
}


def imported_names(path: Path) -> list[tuple[str, int, bool]]:
    """(top-level package, relative level, at module level) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    inside = {id(child) for node in ast.walk(tree) if id(node) in top for child in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name.split(".")[0], 0, id(node) not in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(((node.module or "").split(".")[0], node.level, id(node) not in inside))
    return found


@pytest.mark.parametrize("layer", ALLOWED)
def test_imports_go_down_only(layer):
    files = sorted((REPO_ROOT / layer).rglob("*.py"))
    assert files
    for path in files:
        for name, level, _ in imported_names(path):
            if level == 0 and name in ALLOWED:
                assert name in ALLOWED[layer], f"{path.relative_to(REPO_ROOT)} imports {name}"


MODEL_FILES = sorted((REPO_ROOT / "models").glob("*/*.py"))


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_model_files_stand_alone(path):
    # `from .x import y` is the only form whose files transformers copies to the Hub with the checkpoint.
    allowed = {"torch", "transformers", "numpy"} | set(sys.stdlib_module_names)
    for name, level, at_module_level in imported_names(path):
        if level:
            assert level == 1 and (name or path.name == "__init__.py"), (
                f"{path.name}: only `from .sibling import name`"
            )
        elif at_module_level:
            assert name in allowed, f"{path.name} imports {name} at module level"


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_model_files_demand_no_optional_package(path):
    # transformers refuses to load remote code whose imports, wherever they stand outside of `try`, are not installed.
    from transformers.dynamic_module_utils import get_imports

    needed = {name for name in get_imports(path) if name not in sys.stdlib_module_names}
    # The last two are installed with transformers.
    assert needed <= {"torch", "transformers", "numpy", "safetensors", "tokenizers"}, (
        f"{path.name} makes every consumer install {needed}"
    )


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shared_files_are_links(path):
    # A copy would drift apart; several editors and `sed -i` turn a link into one.
    original = REPO_ROOT / "models" / "shared" / path.name
    if path.parent.name != "shared" and path.name != "__init__.py" and original.exists():
        assert path.is_symlink() and path.resolve() == original, f"make it a link: ln -sf ../shared/{path.name} {path}"
