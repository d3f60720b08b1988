"""Trees of corpora in small, and a private cache for `datasets`."""

import datasets
import pytest

from .trees import write_hub_form, write_tree


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory):
    """What builders write goes to a temporary folder, not to the user's cache."""
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets-cache")
    datasets.disable_progress_bars()
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture
def tree(tmp_path):
    """`tree("vivos")` → a folder in the official layout of the corpus."""
    return lambda name: write_tree(name, tmp_path / name)


@pytest.fixture
def hub_form(tmp_path):
    """`hub_form("bud500")` → a folder with the parquet files that the Hub has."""
    return lambda name, **columns: write_hub_form(name, tmp_path / f"{name}-hub", **columns)
