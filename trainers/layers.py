"""Reading config layers: YAML files and command-line values as trees that remember where each key was written."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

import yaml

from trainers.checks import ConfigError

COMMAND_LINE = "command line"
MAX_BYTES = 1_000_000
CORE_TAGS = {
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "timestamp")
}


class StrictLoader(yaml.SafeLoader):
    """YAML without aliases: no config needs them, and a few lines of them can be made to grow without bound."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not supported; repeat the value", problem_mark=mark
            )
        return super().compose_node(parent, index)


# YAML 1.1 reads 1e-4 as text, because it wants a dot; to everyone else it is a number.
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


@dataclass
class Tree:
    """A mapping: key -> value, and key -> where it was written (`file:line` or `command line`)."""

    items: dict[str, Union["Tree", yaml.Node]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, value: Union["Tree", yaml.Node], place: str) -> None:
        """Set one key."""
        self.items[key] = value
        self.places[key] = place

    def merge(self, other: "Tree") -> None:
        """Lay `other` over this tree: mappings are merged key by key, anything else is replaced."""
        for key, value in other.items.items():
            mine = self.items.get(key)
            if isinstance(mine, Tree) and isinstance(value, Tree):
                mine.merge(value)
                self.places[key] = other.places[key]
            else:
                self.put(key, value, other.places[key])


def place_of(node: yaml.Node) -> str:
    """`file:line` of a node, counting from 1."""
    if node.start_mark is None or node.start_mark.name == COMMAND_LINE:
        return COMMAND_LINE
    return f"{node.start_mark.name}:{node.start_mark.line + 1}"


def tree_of(node: yaml.Node, key: str = "") -> Tree | yaml.Node:
    """A mapping node as a `Tree`, recursively; other nodes unchanged.

    Raises:
        ConfigError: a key twice, a key that is not text, or a tag that is not plain YAML.
    """
    if node.tag not in CORE_TAGS:
        raise ConfigError(key, f"the tag {node.tag} is not supported; write a plain value", place_of(node))
    if not isinstance(node, yaml.MappingNode):
        return node
    tree = Tree()
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise ConfigError(key, "keys must be plain text", place_of(name))
        child = f"{key}.{name.value}" if key else name.value
        if name.value in tree.items:
            raise ConfigError(child, f"given twice, first at {tree.places[name.value]}; keep one", place_of(name))
        tree.put(name.value, tree_of(value, child), place_of(name))
    return tree


def read_file(path: str | Path) -> Tree:
    """One YAML file.

    Raises:
        ConfigError: missing, unreadable, not UTF-8, not YAML, or not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError("", f"no such config file: {path}{similar_file(path)}")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError("", f"{path} has {path.stat().st_size} bytes; a config has at most {MAX_BYTES}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("", f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError("", f"{path}: {error.strerror}") from error
    node = compose(text, str(path))
    if node is None:
        return Tree()
    tree = tree_of(node)
    if not isinstance(tree, Tree):
        raise ConfigError("", "a config is a mapping of keys to values", place_of(node))
    return tree


def compose(text: str, name: str) -> yaml.Node | None:
    """The node of a YAML text; None for an empty one."""
    loader = StrictLoader(text)
    loader.name = name
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = name if mark is None or name == COMMAND_LINE else f"{name}:{mark.line + 1}"
        raise ConfigError("", f"not valid YAML: {error.problem or error.context}", place) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError("", f"not valid YAML: {error}", name) from error
    finally:
        loader.dispose()


def similar_file(path: Path) -> str:
    """A hint naming the YAML file beside `path` that looks most like it."""
    beside = [other.name for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.5)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def read_chain(path: str | Path, done: set[Path], open_files: tuple[Path, ...] = ()) -> list[Tree]:
    """A file after the files it builds on, lowest first; files in `done` are left out and new ones added to it."""
    here = Path(path).resolve()
    if here in open_files:
        circle = " -> ".join(str(file) for file in (*open_files, here))
        raise ConfigError("base", f"configs build on each other in a circle: {circle}", str(path))
    if here in done:
        return []
    tree = read_file(path)
    layers = []
    if "base" in tree.items:
        node, place = tree.items.pop("base"), tree.places.pop("base")
        if not isinstance(node, yaml.ScalarNode) or not node.value:
            raise ConfigError("base", "must be the path of one config, relative to this file", place)
        below = Path(path).parent / node.value
        if not below.is_file():
            raise ConfigError("base", f"no such config file: {below}{similar_file(below)}", place)
        layers = read_chain(below, done, (*open_files, here))
    done.add(here)
    return [*layers, tree]


def command_line_value(text: str) -> Tree | yaml.Node:
    """The value of `--section.key VALUE`: `[...]`, `{...}` and quoted text as YAML, anything else taken literally."""
    if text[:1] in ("[", "{", '"', "'"):
        node = compose(text, COMMAND_LINE)
        if node is not None:
            return tree_of(node)
    loader = StrictLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return yaml.ScalarNode(tag, text)


def read_command_line(argv: Sequence[str], flags: set[str]) -> tuple[list[str], Tree]:
    """Config files and values of a command line.

    Args:
        argv: arguments, without the program's name.
        flags: dotted keys that mean `true` when they are given without a value.

    Returns:
        files after `--config`, in order; the tree of all `--section.key value`.

    Raises:
        ConfigError: an argument that is not of this form, or a key without its value.
    """
    files: list[str] = []
    tree = Tree()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise ConfigError("", f"unexpected argument {word!r}; write --section.key value", COMMAND_LINE)
        key, equals, value = word[2:].partition("=")
        if not equals:
            if rest and not rest[0].startswith("--"):
                value = rest.pop(0)
            elif key in flags:
                value = "true"
            else:
                raise ConfigError(key, "needs a value", COMMAND_LINE)
        if key == "config":
            files.append(value)
            continue
        *sections, name = key.split(".")
        leaf = Tree()
        leaf.put(name, command_line_value(value), COMMAND_LINE)
        for section in reversed(sections):
            outer = Tree()
            outer.put(section, leaf, COMMAND_LINE)
            leaf = outer
        tree.merge(leaf)
    return files, tree
