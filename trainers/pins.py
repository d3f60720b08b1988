"""`org/model@revision`: which version of a Hub repository is meant, wherever a config or command names one."""

import re
from pathlib import Path
from typing import Any

_COMMIT = re.compile(r"[0-9a-f]{40}")


def split_pin(name: str) -> tuple[str, dict[str, Any]]:
    """The folder or Hub id, and the arguments of `from_pretrained` that select its version.

    >>> split_pin("openai/whisper-small@973afd2")
    ('openai/whisper-small', {'revision': '973afd2'})
    >>> split_pin("runs/a@b/model")
    ('runs/a@b/model', {})
    """
    repo, at, revision = name.rpartition("@")
    local = name.startswith((".", "/", "~")) or Path(name).exists() or repo.count("/") != 1
    return (name, {}) if local or not at or not revision else (repo, {"revision": revision})


def require_pin(name: str) -> None:
    """Code of a Hub repository is run only in a version that cannot change any more.

    Raises:
        ValueError: no full commit is named.
    """
    repo, options = split_pin(name)
    if Path(repo).expanduser().exists() or _COMMIT.fullmatch(options.get("revision", "")):
        return
    raise ValueError(
        f"trust_remote_code runs the Python files of {repo}: read them, and name the commit that you have read, "
        f"{repo}@<40 hexadecimal digits>"
    )
