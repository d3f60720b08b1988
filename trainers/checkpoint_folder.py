"""Is a checkpoint folder complete, and which of its files may be published?

A consumer has transformers and nothing of this package, so a complete folder carries weights, configs, the Python
files its `auto_map` names, the processor with both tokenizers, and a card. Files outside that list (optimizer states,
`training_args.bin`, logs, audio) stay on this machine.
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .model_kinds import KINDS, Kind, kind_of

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
DATASTORE = ("knn.json", "knn.safetensors")
MEMBER_DIGESTS = "classifiers/digests.json"
_OPTIONAL_NAMES = {
    "config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "normalizer.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "chat_template.jinja",
    "README.md", "card.json", "LICENSE", "NOTICE", *DATASTORE, WEIGHTS, WEIGHTS_INDEX,
}  # fmt: skip
_RELATIVE_IMPORT = re.compile(r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a folder cannot be published: the file, what is wrong, what to do."""

    file: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}; {self.mend}"


def stage_of(folder: str | os.PathLike[str]) -> Kind | None:
    """The kind of model in a folder; None for one that is not of this suite, or an unreadable config."""
    config = _read_json(Path(folder) / "config.json")
    return kind_of(config.get("model_type")) if isinstance(config, dict) else None


def check_folder(folder: str | os.PathLike[str], *, card_required: bool = True) -> list[Problem]:
    """Everything that would stop a stranger from loading the folder; an empty list means complete.

    Args:
        folder: of any transformers model; those of this package are held to more (code, processor, both tokenizers).
        card_required: whether README.md must be there.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; name the folder of a finished model, such as runs/…/model")
    if (root / "adapter_config.json").is_file():
        mend = "merge them first (trainers.publishing.merge_adapters, or publish.py does it)"
        return [Problem("adapter_config.json", "these are LoRA adapters, not a model", mend)]
    config = _read_json(root / "config.json")
    if not isinstance(config, dict):
        state = "missing" if config is None else f"not valid JSON ({config})"
        return [Problem("config.json", state, "save the model again with save_pretrained")]
    kind = kind_of(config.get("model_type"))
    files = KINDS[kind].files if kind else ()
    problems = [*_weight_problems(root), *_code_problems(root, config, ours=kind is not None and KINDS[kind].own_code)]
    if not problems:
        problems += _head_problems(root, KINDS[kind].head if kind else ())
    problems += [*_datastore_problems(root), *_member_problems(root, kind)]
    for name in (*files, "README.md"):
        if name == "README.md" and not card_required:
            continue
        if not (root / name).is_file():
            mend = (
                "write it with trainers.card.write_model_card" if name == "README.md" else "save the processor there"
            )
            problems.append(Problem(name, "missing", mend))
        elif name.endswith(".json") and isinstance(broken := _read_json(root / name), str):
            problems.append(Problem(name, f"not valid JSON ({broken})", "save it again"))
    return problems + _vocabulary_problems(root, config, kind)


def files_to_publish(folder: str | os.PathLike[str]) -> list[str]:
    """Relative POSIX paths that may leave this machine, sorted; symbolic links out of the folder are left out."""
    root = Path(folder)
    config = _read_json(root / "config.json")
    code = (
        {name for name in _code_files(root, config) if (root / name).is_file()} if isinstance(config, dict) else set()
    )
    names = _OPTIONAL_NAMES | code | set(_shards(root))
    tokenizer_names = {f"phoneme_tokenizer/{name}" for name in _OPTIONAL_NAMES if name.endswith((".json", ".txt"))}
    names |= set(_members(root)) if stage_of(root) == "dfat" else set()
    return sorted(
        name
        for name in names | tokenizer_names - {"phoneme_tokenizer/config.json"}
        if (root / name).is_file() and (root / name).resolve().is_relative_to(root.resolve())
    )


def safetensors_tensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header of a safetensors file (name → dtype, shape, data_offsets), checked against the size of the file.

    Raises:
        ValueError: the file is truncated or no safetensors file; the message gives both sizes.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(size - 8, 100 << 20):
            raise ValueError(f"not a safetensors file, or cut inside its header ({size} bytes)")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError("the header of the safetensors file is not readable") from error
    if size != 8 + length + end:
        raise ValueError(f"truncated: its header promises {8 + length + end} bytes, {size} are there")
    return header


def _read_json(path: Path) -> Any:
    """The value, None if there is no such file, the error text if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return str(error).splitlines()[0]


def _shards(root: Path) -> list[str]:
    index = _read_json(root / WEIGHTS_INDEX)
    names = set(index.get("weight_map", {}).values()) if isinstance(index, dict) else set()
    return sorted(name for name in names if isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name))


def _weight_problems(root: Path) -> Iterator[Problem]:
    names = [WEIGHTS] if (root / WEIGHTS).is_file() else _shards(root)
    if not names:
        pickled = sorted(path.name for path in root.glob("*.bin"))
        mend = f"found only {', '.join(pickled)}: " if pickled else ""
        yield Problem(WEIGHTS, "missing", mend + "save the model with save_pretrained, which writes safetensors")
    for name in names:
        try:
            safetensors_tensors(root / name)
        except FileNotFoundError:
            yield Problem(name, f"missing, though {WEIGHTS_INDEX} names it", "save the model again")
        except ValueError as error:
            yield Problem(name, str(error), "save the model again, or copy the file again")


def _head_problems(root: Path, head: tuple[str, ...]) -> Iterator[Problem]:
    """Whoever loaded such a folder by other means than ours would get a head of random numbers."""
    stored = {name for file in ([WEIGHTS] if (root / WEIGHTS).is_file() else _shards(root))
              for name in safetensors_tensors(root / file)}  # fmt: skip
    if missing := [name for name in head if name not in stored]:
        mend = "save the whole classifier, not its encoder alone"
        yield Problem(WEIGHTS, f"has no {', '.join(missing)}: the head is missing", mend)


def _datastore_problems(root: Path) -> Iterator[Problem]:
    """A k-NN datastore is two files."""
    there = [name for name in DATASTORE if (root / name).is_file()]
    if not there:
        return
    mend = "save the model again with its datastore, or delete both files"
    for name in sorted(set(DATASTORE) - set(there)):
        yield Problem(name, f"missing, though {there[0]} is there", mend)
    settings, tensors = (root / name for name in DATASTORE)
    if settings.is_file() and not isinstance(_read_json(settings), dict):
        yield Problem(settings.name, "not valid JSON", mend)
    if tensors.is_file():
        try:
            safetensors_tensors(tensors)
        except ValueError as error:
            yield Problem(tensors.name, str(error), mend)


def _members(root: Path) -> list[str]:
    """Files of the classical classifiers of a DFAT, as their list of digests names them, and that list."""
    digests = _read_json(root / MEMBER_DIGESTS)
    files = digests.get("files") if isinstance(digests, dict) else None
    names = [name for name in files or {} if re.fullmatch(r"[\w-]+\.(skops|json)", name)]
    return [MEMBER_DIGESTS, *(f"classifiers/{name}" for name in sorted(names))]


def _member_problems(root: Path, kind: Kind | None) -> Iterator[Problem]:
    if kind != "dfat":
        return
    digests = _read_json(root / MEMBER_DIGESTS)
    files = digests.get("files", {}) if isinstance(digests, dict) else {}
    for name in _members(root)[1:]:
        path = root / name
        if not path.is_file():
            yield Problem(name, f"missing, though {MEMBER_DIGESTS} names it", "save the model again")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != files[path.name]:
            yield Problem(name, "is not the file that was saved with this model", "save the model again")


def _references(config: Mapping[str, Any]) -> Iterator[str]:
    """Every "module.Class" that a config sends the loader to."""
    for value in (config.get("auto_map") or {}).values():
        yield from (each for each in (value if isinstance(value, list) else [value]) if each)
    for value in (config.get("custom_pipelines") or {}).values():
        yield value.get("impl", "")


def _code_files(root: Path, config: Mapping[str, Any]) -> list[str]:
    """Python files a loader will want, following relative imports; missing ones included."""
    wanted = list(_references(config))
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        other = _read_json(root / name)
        wanted += _references(other) if isinstance(other, dict) else []
    # "repository--module.Class" points to another repository and needs no file here.
    pending = {reference.split(".")[0] for reference in wanted if "--" not in reference and "." in reference}
    found: set[str] = set()
    while pending:
        module = pending.pop()
        if not re.fullmatch(r"\w+", module):
            continue
        found.add(f"{module}.py")
        path = root / f"{module}.py"
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        pending |= {name for name in _RELATIVE_IMPORT.findall(text) if f"{name}.py" not in found}
    return sorted(found)


def _code_problems(root: Path, config: Mapping[str, Any], *, ours: bool) -> Iterator[Problem]:
    if ours and not config.get("auto_map"):
        mend = "save the model with the classes of models/, which register themselves"
        yield Problem("config.json", "no auto_map: a stranger could not load this model", mend)
    for name in _code_files(root, config):
        if not (root / name).is_file():
            yield Problem(name, "missing, though the loader needs it", "save the model again with save_pretrained")


def _vocabulary_problems(root: Path, config: Mapping[str, Any], kind: Kind | None) -> list[Problem]:
    if kind is None:
        return []
    phoneme_size = config.get("phoneme_vocab_size") if kind == "p2t" else config.get("vocab_size")
    text_size = config.get("vocab_size")
    if kind == "tspc":
        phoneme_size = (config.get("s2p_config") or {}).get("vocab_size")
        text_size = (config.get("p2t_config") or {}).get("vocab_size")
    problems: list[Problem] = []
    if KINDS[kind].task == "audio-classification":
        text_size = config.get("text_vocab_size")
        if text_size is not None and not (root / "tokenizer.json").is_file():
            mend = "save the tokenizer of its transcripts there"
            problems.append(Problem("tokenizer.json", "missing, though the model reads transcripts", mend))
    sizes = {"tokenizer.json": phoneme_size if kind == "s2p" else text_size}
    if kind in ("p2t", "tspc"):
        sizes["phoneme_tokenizer/tokenizer.json"] = phoneme_size
    for name, size in sizes.items():
        tokenizer = _read_json(root / name)
        if not isinstance(tokenizer, dict) or not isinstance(size, int):
            continue
        highest = _highest_id(tokenizer)
        if highest >= size:
            detail = f"has token id {highest}, the model's embedding has {size} rows"
            problems.append(Problem(name, detail, "the tokenizer belongs to another model; save the right one"))
    return problems


def _highest_id(tokenizer: Mapping[str, Any]) -> int:
    vocab = tokenizer.get("model", {}).get("vocab", {})
    ids = list(vocab.values()) if isinstance(vocab, dict) else [len(vocab) - 1]
    return max([*ids, *(token.get("id", 0) for token in tokenizer.get("added_tokens", []))], default=-1)
