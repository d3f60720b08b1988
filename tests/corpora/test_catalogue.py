"""Every corpus states everything, in a module as small as the others; a listing is cheap."""

import importlib
import inspect
import io
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from data_scripts import corpora
from data_scripts.corpora import CORPORA, CorpusError, catalogue_table, describe
from data_scripts.corpora.facts import LEFT_OUT
from data_scripts.readers import COLUMN_KEYS
from data_scripts.schema import DIALECTS, EMOTIONS


@pytest.mark.parametrize("name", CORPORA)
def test_facts(name):
    info = CORPORA[name]
    module = importlib.import_module(f"data_scripts.corpora.{name}")
    assert info.name == name and info.title and info.licence and info.how_to_get()
    assert info.hours is None or info.hours > 0
    assert info.homepage.startswith("http")
    assert info.citation.strip().startswith("@") and info.citation.strip().endswith("}")
    assert info.citation.count("{") == info.citation.count("}") and "year" in info.citation + "year" * (
        name == "vigbigdata28k"
    )
    assert set(info.splits) <= {"train", "validation", "test"} and "train" in info.splits
    assert info.hub_id or info.layout, "neither a Hub form nor a local one"
    assert not info.gated or info.hub_id
    assert bool(info.layout) == hasattr(module, "read") == (set(info.local_parts) == set(info.splits))
    assert not info.layout or info.hub_archives or info.hub_id or info.access
    if info.hub_id and not info.hub_archives:
        assert "audio" in info.columns and set(info.columns) <= set(COLUMN_KEYS)
    for key, allowed in (("emotion", EMOTIONS), ("dialect", DIALECTS)):
        labels = info.labels.get(key, {})
        assert set(labels.values()) <= {*allowed, None, LEFT_OUT}
        assert all(label == label.strip().lower() for label in labels)
    # What was checked and what was not is said where people look.
    assert (
        "Checked" in (module.__doc__ or "")
        or "From documentation" in (module.__doc__ or "")
        or "our own choice" in module.__doc__
    )
    assert len(inspect.getsource(module).splitlines()) <= 120


def test_every_module_is_in_the_catalogue():
    shared = {"__init__", "base", "catalogue", "facts", "hub", "tree", "user_folder"}
    modules = {path.stem for path in Path(corpora.__file__).parent.glob("*.py")} - shared
    assert modules == set(CORPORA) and len(corpora.NAMES) == len(CORPORA)


@pytest.mark.parametrize("name", CORPORA)
def test_builders_are_found_by_name(name):
    module = importlib.import_module(f"data_scripts.corpora.{name}")
    assert pickle.loads(pickle.dumps(module.Builder)) is module.Builder
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = module.other


def test_table_and_page():
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(catalogue_table())
    text = console.export_text()
    assert all(name in text for name in CORPORA) and "NhutP/VSV-1100" in text
    page = describe("iemocap")
    for part in (
        "Busso",
        "sail.usc.edu",
        "xxx: (left out)",
        "fru: negative",
        "Session1/dialog",
        "text: transcription",
    ):
        assert part in page
    with pytest.raises(CorpusError, match="Did you mean 'iemocap'"):
        describe("iemocp")


def test_listing_is_cheap():
    code = (
        "import sys, time; start = time.process_time(); from data_scripts.corpora import CORPORA, catalogue_table;"
        "catalogue_table(); print(time.process_time() - start);"
        "print('datasets' in sys.modules, 'torch' in sys.modules)"
    )
    start = time.perf_counter()
    seconds, loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert loaded == "False False" and float(seconds) < 0.3, f"{time.perf_counter() - start:.2f} s in all"
