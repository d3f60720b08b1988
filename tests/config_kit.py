"""What holds for every config that is shipped, of whatever kind of run."""

from pathlib import Path

import yaml

from trainers.layers import Tree, read_chain
from trainers.runs import flatten

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def name(path: Path) -> str:
    """How a test calls a config."""
    return str(path.relative_to(CONFIGS))


def plain(tree: Tree) -> dict:
    """A tree as nested mappings; everything else by its text."""
    return {
        key: plain(value) if isinstance(value, Tree) else yaml.serialize(value) for key, value in tree.items.items()
    }


def repeated(path: Path) -> list[str]:
    """Keys to which a config gives the value that they have already in the files it builds on; it says something."""
    *below, top = read_chain(path, set())
    merged = Tree()
    for layer in below:
        merged.merge(layer)
    under, over = flatten(plain(merged)), flatten(plain(top))
    assert over, f"{path} says nothing"
    return [key for key, value in over.items() if under.get(key) == value]


def lines_of(path: Path, most: int) -> list[str]:
    """Its lines: at most so many that are no comments, none of them long, and first what it is."""
    lines = path.read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert lines[0].startswith("#"), "starts with what it is"
    assert len(code) <= most and all(len(line) <= 130 for line in lines)
    return lines
