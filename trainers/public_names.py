"""Names and commands as strangers may read them: on cards and in reports, without local paths and tokens."""

import re
from collections.abc import Sequence
from pathlib import Path

from .model_kinds import KINDS
from .secrets import mask_tokens

# What scripts call the folder of a run, beside the kinds of models.
RUN_FOLDERS = ("joint", "fusion")


def public_name(name: str) -> str:
    """A Hub id as it is, a local path as its last part, the model of a run as what was trained, a token masked.

    >>> public_name("vinai/PhoWhisper-base"), public_name("/home/mai/data/calls"), public_name("runs/zipformer/model")
    ('vinai/PhoWhisper-base', 'calls', 'zipformer')
    """
    name = mask_tokens(str(name).strip())
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists() and not name.startswith("."):
        return name
    parts = [part for part in re.split(r"[\\/]+", name) if part not in ("", ".", "..", "~")]
    if parts[-1:] == ["model"] and parts[-2:-1] and parts[-2] in (*KINDS, *RUN_FOLDERS):
        return parts[-2]
    return parts[-1] if parts else "local folder"


def public_command(command: str | Sequence[str]) -> str:
    """A command line without absolute paths and tokens, on one line.

    >>> public_command(["python", "/home/mai/amvi/scripts/train.py", "--data=/data/x"])
    'python scripts/train.py --data=x'
    """
    text = command if isinstance(command, str) else " ".join(command)
    text = mask_tokens(" ".join(text.split()))

    def shorten(match: re.Match[str]) -> str:
        parts = [part for part in re.split(r"[\\/]+", match[0]) if part not in ("", "~", "..")]
        kept = 2 if len(parts) > 1 and parts[-2] in ("scripts", "configs") else 1
        return "/".join(parts[-kept:])

    return re.sub(r"(?<![\w.:/\\])(?:~|\.\.|[A-Za-z]:)?[\\/][^\s'\"=,\[\]{}]*", shorten, text)
