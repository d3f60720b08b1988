"""Helpers of the config tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from trainers.arguments import Config
from trainers.config import read_config

SPEECH = ["--data.train", "[{path: corpus}]", "--data.validation", "[{path: corpus, split: validation}]"]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a config file and return its path."""

    def write_file(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_file


@pytest.fixture
def read() -> Callable[..., Config]:
    """A config with one speech source and the given arguments."""
    return lambda *argv: read_config([*SPEECH, *argv])
