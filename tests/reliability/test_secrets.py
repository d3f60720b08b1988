"""No token reaches a log, a traceback, a config or a card."""

import logging
import subprocess
import sys

import pytest

from trainers.secrets import hide_tokens, mask_tokens

TOKEN = "hf_" + "aB3" * 12


@pytest.fixture
def masked():
    factory, hook = logging.getLogRecordFactory(), sys.excepthook
    hide_tokens()
    hide_tokens()
    yield
    logging.setLogRecordFactory(factory)
    sys.excepthook = hook


def test_tokens_are_masked_in_messages_arguments_and_tracebacks(masked, caplog):
    logger = logging.getLogger("third.party")
    logger.warning("token %s", TOKEN)
    logger.warning(f"Bearer {TOKEN}")
    try:
        raise ValueError(f"refused {TOKEN}")
    except ValueError:
        logger.exception("failed")
    assert TOKEN not in caplog.text and caplog.text.count("hf_***") >= 3
    assert "Traceback" in caplog.text and "ValueError: refused hf_***" in caplog.text


def test_a_token_of_another_shape_is_known_from_the_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "organisation-secret-1")
    assert mask_tokens("with organisation-secret-1.") == "with hf_***."
    monkeypatch.setenv("HF_TOKEN", "a")  # too short to be one: it would mask every letter
    assert mask_tokens("abba") == "abba"


def test_other_records_are_left_alone(masked, caplog):
    logging.getLogger("x").warning("%d of %s", 3, ["a"])
    logging.getLogger("x").warning("100 % hf_short")
    assert [record.getMessage() for record in caplog.records] == ["3 of ['a']", "100 % hf_short"]
    assert caplog.records[0].args == (3, ["a"])


def test_a_crash_does_not_tell(repo_root):
    code = f"from trainers.secrets import hide_tokens; hide_tokens(); raise RuntimeError('url?token={TOKEN}')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo_root, check=False)
    assert done.returncode == 1 and TOKEN not in done.stderr and "RuntimeError: url?token=hf_***" in done.stderr
