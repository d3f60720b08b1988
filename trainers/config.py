"""Strict configs: YAML files laid over one another, then `--section.key value`, checked against the dataclasses.

```python
config = load_config(["--config", "configs/tspc/s2p.yaml", "--config", "configs/smoke.yaml", "--training.seed", "1"])
```

A value is read by the type of its field, not by YAML's guesses: `1e-4` is a number where a number belongs, `no` is
text where text belongs. An error names the file, the line, the key, what was got and what is allowed. A file may name
the one it builds on (`base: ../base.yaml`); mappings are merged, lists and plain values replaced. One that serves
several scripts says under `only: {tspc: {...}, asr: {...}}` what is for one of them alone. Nothing here imports torch,
so that a mistake costs a second and not a minute.
"""

import ast
import difflib
import inspect
import itertools
import math
import os
import re
import sys
import types
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from trainers.arguments import Config
from trainers.checks import ConfigError
from trainers.layers import StrictLoader, Tree, place_of, read_chain, read_command_line, tree_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
# Of `only`; each script's config has one.
KINDS = ("tspc", "asr", "ser")
NULLS = ("null", "Null", "NULL", "~", "")

# Keys people bring from other recipes, and where the same thing is said here.
ELSEWHERE = {
    "hub_token": "a token does not belong in a config; use `hf auth login` or the variable HF_TOKEN",
    "token": "a token does not belong in a config; use `hf auth login` or the variable HF_TOKEN",
    "deepspeed": "launch with `accelerate launch --config_file configs/accelerate/zero2.yaml` (or zero3.yaml) instead",
    "fsdp": "launch with `accelerate launch --config_file configs/accelerate/fsdp2.yaml` instead",
    "push_to_hub": "use publish.push",
    "hub_model_id": "use publish.repo_id",
    "resume_from_checkpoint": "use training.resume: true or auto",
    "overwrite_output_dir": "a run never writes over another; choose another training.output_dir or training.resume",
    "warmup_ratio": "use training.warmup_steps with a number below 1",
    "evaluation_strategy": "use training.eval_strategy",
    "group_by_length": "batches are always grouped by length; see data.batch_duration_s",
    "no_cuda": "use training.use_cpu",
}


def load_config(argv: Sequence[str] | None = None, cls: type[T] = Config, usage: str | None = None) -> T:
    """The config of a command line; on a mistake, prints what is wrong and exits with status 2.

    Args:
        argv: arguments without the program's name; None takes the program's own.
        cls: dataclass of the whole config.
        usage: first lines of `--help`.

    `--help` lists every key with its help; `--print_config` prints the resolved config. Both exit with status 0.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    first = os.environ.get("RANK", "0") == "0"
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(help_text(cls, usage) if first else "")
        raise SystemExit(0)
    show = "--print_config" in argv
    try:
        config = read_config([word for word in argv if word != "--print_config"], cls)
    except ConfigError as error:
        # One report is enough: every process of a launch reads the same config.
        sys.stderr.write(f"config error: {error}\n" if first else "")
        raise SystemExit(2) from None
    if show:
        sys.stdout.write(dump_config(config) if first else "")
        raise SystemExit(0)
    return config


def read_config(argv: Sequence[str], cls: type[T] = Config) -> T:
    """As `load_config`, but raises `ConfigError`; one error may report several mistakes."""
    flags = {key for key, kind in all_keys(cls).items() if kind is bool}
    files, overrides = read_command_line(argv, flags)
    merged = Tree()
    done: set = set()
    for file in files:
        for layer in read_chain(file, done):
            lay_over(merged, only_for(layer, getattr(cls, "kind", "")), cls)
    lay_over(merged, overrides, cls)
    return from_tree(merged, cls)


def lay_over(merged: Tree, layer: Tree, cls: type) -> None:
    """Merge a layer into those before it; what `cls` calls `whole` is replaced, for its keys are the user's own."""
    for key in getattr(cls, "whole", ()):
        if key in layer.items and key in merged.items:
            del merged.items[key], merged.places[key]
    merged.merge(layer)


def only_for(layer: Tree, kind: str) -> Tree:
    """A file's layer with what its `only` section says for one kind of run, and without that section.

    Raises:
        ConfigError: the section is no mapping, or names a kind that there is not.
    """
    if "only" not in layer.items:
        return layer
    parts, place = layer.items["only"], layer.places["only"]
    known = isinstance(parts, Tree) and set(parts.items) <= set(KINDS)
    if not known:
        raise ConfigError("only", f"is a section with keys ({', '.join(KINDS)}), one for each kind of run", place)
    mine = Tree()
    for key, value in layer.items.items():
        if key != "only":
            mine.put(key, value, layer.places[key])
    part = parts.items.get(kind)
    if isinstance(part, Tree):
        mine.merge(part)
    return mine


def from_tree(tree: Tree, cls: type[T]) -> T:
    """The dataclass of a tree.

    Raises:
        ConfigError: any mistake; mistakes of spelling and type are all reported at once.
    """
    reader = Reader(all_keys(cls))
    config = reader.section(tree, cls, "")
    if len(reader.errors) > 1:
        raise ConfigError("", "\n  ".join([f"{len(reader.errors)} mistakes", *map(str, reader.errors)]))
    if reader.errors:
        raise reader.errors[0]
    assert config is not None, "a section without an error was not built"
    return config


def dump_config(config: Any) -> str:
    """The whole config as YAML that `read_config` reads back to an equal one."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True, width=119)


class Reader:
    """Turns trees into dataclasses, collecting errors; `places` remembers where each key was written."""

    def __init__(self, keys: dict[str, Any]):
        self.keys = keys
        self.errors: list[ConfigError] = []
        self.places: dict[str, str] = {}

    def fail(self, key: str, message: str, place: str) -> None:
        self.errors.append(ConfigError(key, message, place))

    def section(self, tree: Tree, cls: type[T], prefix: str) -> T | None:
        """An instance of the dataclass `cls`, or None after reporting what is wrong."""
        kinds = get_type_hints(cls)
        known = [item.name for item in fields(cls)]
        before = len(self.errors)
        values = {}
        for name, value in tree.items.items():
            key, place = prefix + name, tree.places[name]
            self.places[key] = place
            if name in known:
                values[name] = self.value(value, kinds[name], key, place)
            else:
                self.fail(key, self.unknown(name, known, prefix), place)
        for item in fields(cls):
            required = item.default is MISSING and item.default_factory is MISSING
            if required and item.name not in tree.items:
                self.fail(prefix + item.name, "is required", self.places.get(prefix.rstrip("."), ""))
        if len(self.errors) > before:
            return None
        try:
            return cls(**values)
        except ConfigError as error:
            self.fail(error.key, error.message, self.places.get(error.key, ""))
        except ValueError as error:
            # Dataclasses of other layers know nothing of keys; their messages start with the name of the field.
            name = str(error).split(maxsplit=1)[0]
            key = prefix + name if name in known else prefix.rstrip(".")
            self.fail(key, str(error), self.places.get(key) or self.places.get(prefix.rstrip("."), ""))
        return None

    def unknown(self, name: str, known: list[str], prefix: str) -> str:
        """What to say about a key that does not exist."""
        if name in ELSEWHERE:
            return f"unknown key; {ELSEWHERE[name]}"
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        if close:
            return f"unknown key; did you mean {prefix}{close[0]}?"
        elsewhere = [key for key in self.keys if key.rsplit(".", 1)[-1] == name]
        close = elsewhere or difflib.get_close_matches(prefix + name, self.keys, n=1, cutoff=0.8)
        if close:
            return f"unknown key; did you mean {close[0]}?"
        return f"unknown key; allowed here: {', '.join(known)}"

    def value(self, value: Tree | yaml.Node, kind: Any, key: str, place: str) -> Any:
        """A value of the type of its field."""
        if get_origin(kind) in (Union, types.UnionType):
            if is_null(value):
                return None
            kind = next(option for option in get_args(kind) if option is not type(None))
        origin = get_origin(kind)
        if isinstance(kind, type) and is_dataclass(kind):
            if isinstance(value, Tree):
                return self.section(value, kind, f"{key}.")
            known = ", ".join(item.name for item in fields(kind))
            return self.fail(key, f"is a section with keys ({known}), got {shown(value)}", place)
        if origin is list:
            return self.sequence(value, get_args(kind)[0], key, place)
        if origin is dict:
            if not isinstance(value, Tree):
                return self.fail(key, f"must be a mapping such as {{name: value}}, got {shown(value)}", place)
            kinds = get_args(kind)[1]
            return {
                name: self.value(item, kinds, f"{key}.{name}", value.places[name])
                for name, item in value.items.items()
            }
        if kind is Any:
            return plain(value)
        if not isinstance(value, yaml.ScalarNode):
            return self.fail(key, f"must be {name_of(kind)}, got {shown(value)}", place)
        if origin is Literal:
            return self.choice(value, get_args(kind), key, place)
        try:
            return scalar(value, kind)
        except ValueError:
            return self.fail(key, f"must be {name_of(kind)}, got {shown(value)}", place)

    def sequence(self, value: Tree | yaml.Node, kind: Any, key: str, place: str) -> list[Any] | None:
        if not isinstance(value, yaml.SequenceNode):
            return self.fail(key, f"must be a list such as [first, second], got {shown(value)}", place)
        items = []
        for index, node in enumerate(value.value):
            name, where = f"{key}[{index}]", place_of(node)
            self.places[name] = where
            items.append(self.value(tree_of(node, name), kind, name, where))
        return items

    def choice(self, value: yaml.ScalarNode, allowed: tuple[str, ...], key: str, place: str) -> str | None:
        if value.value in allowed:
            return value.value
        close = difflib.get_close_matches(value.value, allowed, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return self.fail(key, f"must be one of {', '.join(allowed)}; got {shown(value)}{hint}", place)


def is_null(value: Tree | yaml.Node) -> bool:
    return isinstance(value, yaml.ScalarNode) and value.style not in ("'", '"') and value.value in NULLS


def scalar(node: yaml.ScalarNode, kind: type) -> Any:
    """The text of a scalar as `kind`; ValueError where it is none."""
    text = node.value
    quoted = node.style in ("'", '"')
    if kind is str:
        if is_null(node):
            raise ValueError("null is no text")
        return text
    if quoted:
        raise ValueError("quoted text is no number")
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("neither true nor false")
        return text.lower() == "true"
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not finite")
    if kind is float:
        return number
    if kind is int and number.is_integer():
        return int(text) if text.lstrip("+-").isdigit() else int(number)
    raise ValueError(f"not {kind}")


def plain(value: Tree | yaml.Node) -> Any:
    """A value of no fixed type, as YAML reads it."""
    if isinstance(value, Tree):
        return {name: plain(item) for name, item in value.items.items()}
    if isinstance(value, yaml.SequenceNode):
        return [plain(tree_of(item)) for item in value.value]
    return StrictLoader("").construct_object(value)


def shown(value: Tree | yaml.Node) -> str:
    """A value as an error message quotes it."""
    if isinstance(value, Tree):
        return "a mapping"
    if isinstance(value, yaml.SequenceNode):
        return "a list"
    if is_null(value):
        return "null"
    text = value.value if len(value.value) <= 60 else value.value[:57] + "..."
    return f"the quoted text {text!r}" if value.style in ("'", '"') else repr(text)


def name_of(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(name_of(option) for option in get_args(kind))
    if get_origin(kind) is Literal:
        return " | ".join(get_args(kind))
    if get_origin(kind) is list:
        return f"a list of {name_of(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return "a mapping"
    if is_dataclass(kind):
        return "mappings"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return words.get(kind, "any value")


@cache
def all_keys(cls: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> type of every field below `cls`, sections included."""
    keys = {}
    kinds = get_type_hints(cls)
    for item in fields(cls):
        keys[prefix + item.name] = kinds[item.name]
        if is_dataclass(kinds[item.name]):
            keys.update(all_keys(kinds[item.name], f"{prefix}{item.name}."))
    return keys


@cache
def field_help(cls: type) -> dict[str, str]:
    """Field -> the string written under it, or its entry in the docstring."""
    body = ast.parse(inspect.cleandoc(inspect.getsource(cls))).body[0].body
    found = {}
    for parent in reversed(cls.__mro__[1:-1]):
        found |= field_help(parent)
    for above, below in itertools.pairwise(body):
        text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and below.value.value
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name) and isinstance(text, str):
            found[above.target.id] = " ".join(text.split())
    # Dataclasses of other layers describe their fields in an `Args:` block.
    for match in re.finditer(r"^    (\w+): (.+(?:\n {8,}.+)*)", inspect.cleandoc(cls.__doc__ or ""), re.MULTILINE):
        found.setdefault(match[1], " ".join(match[2].split()))
    return found


def help_text(cls: type, usage: str | None = None) -> str:
    """Every key with its type, default and help."""
    lines = [
        (usage or "").rstrip(),
        "",
        "  --config FILE",
        "      A YAML config; may be repeated, later ones win.",
        "",
    ]

    def describe(section: Any, prefix: str) -> None:
        kinds, words = get_type_hints(section), field_help(section)
        for item in fields(section):
            kind, key = kinds[item.name], prefix + item.name
            if is_dataclass(kind):
                lines.extend(["", f"{key}: {words.get(item.name, '')}"])
                describe(kind, f"{key}.")
                continue
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            given = "required" if default is MISSING else f"default {yaml_value(default)}"
            lines.extend([f"  --{key}  ({name_of(kind)}; {given})", f"      {words.get(item.name, '')}"])

    describe(cls, "")
    return "\n".join(lines).lstrip("\n") + "\n"


def yaml_value(value: Any) -> str:
    """A value as it is written on one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).replace("\n...", "").strip()
