"""The Hub forms over HTTP: files of one split only, archives read from afar, what is said where access is refused."""

import gzip
import tarfile

import datasets
import huggingface_hub
import pytest
from publishing.loopback_hub import TOKEN, Repo, StoredFile, serve_hub

from data_scripts.corpora import CorpusError, fingerprint, load_corpus

from .trees import TREES, write_hub_form, write_tree


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A loopback hub in place of the real one; no token."""
    with serve_hub() as running:
        for module in (huggingface_hub.constants, datasets.config):
            monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", running.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.endpoint)
        template = running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        huggingface_hub.HfFileSystem.clear_instance_cache()
        yield running
        huggingface_hub.HfFileSystem.clear_instance_cache()


def publish(hub, repo_id, folder, gated=False):
    repo = hub.repos[repo_id] = Repo(private=False, gated=gated)
    files = [path for path in folder.rglob("*") if path.is_file()]
    repo.commit({path.relative_to(folder).as_posix(): StoredFile(path.read_bytes(), lfs=False) for path in files})
    return repo


def fetched(hub):
    return {line.rpartition("/")[2] for line in hub.requests if line.startswith("GET /datasets/")}


@pytest.mark.parametrize("streaming", [True, False])
def test_parquet_of_one_split(hub, streaming, tmp_path):
    publish(hub, "doof-ferb/LSVSC", write_hub_form("lsvsc", tmp_path / "lsvsc"))
    rows = list(load_corpus("lsvsc", "test", streaming=streaming))
    assert [row["text"] for row in rows] == ["xin chào", "nan"]
    assert rows[0]["dialect"] == "central" and rows[0]["audio"]["bytes"]
    assert fetched(hub) == {"test-00000-of-00002-0a1b.parquet", "test-00001-of-00002-0a1b.parquet"}
    # The state of the Hub is part of the cache key.
    before = fingerprint("lsvsc")
    publish(hub, "doof-ferb/LSVSC", write_hub_form("lsvsc", tmp_path / "new", transcription=["mới", "hơn"]))
    assert fingerprint("lsvsc") != before
    assert [row["text"] for row in load_corpus("lsvsc", "test", streaming=streaming)] == ["mới", "hơn"]


@pytest.mark.parametrize("streaming", [True, False])
def test_archives(hub, streaming, tmp_path):
    source, repo = write_tree("fleurs_vi", tmp_path / "tree"), tmp_path / "repo" / "data" / "vi_vn"
    for name in ("train", "dev", "test"):
        (repo / "audio").mkdir(parents=True, exist_ok=True)
        (repo / f"{name}.tsv").write_text(TREES["fleurs_vi"][f"vi_vn/{name}.tsv"])
        with tarfile.open(repo / "audio" / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(source / "vi_vn" / "audio" / name, name)
    publish(hub, "google/fleurs", tmp_path / "repo")
    rows = list(load_corpus("fleurs_vi", "validation", streaming=streaming))
    assert [(row["id"], row["text"], bool(row["audio"]["bytes"])) for row in rows] == [
        ("fleurs_vi/13", "ăn cơm", True)
    ]
    assert fetched(hub) == {"dev.tsv", "dev.tar.gz"}


@pytest.mark.parametrize("streaming", [True, False])
def test_prompts_beside_an_archive(hub, streaming, tmp_path):
    source, data = write_tree("vivos", tmp_path / "vivos"), tmp_path / "repo" / "data"
    data.mkdir(parents=True)
    with tarfile.open(data / "vivos.tar.gz", "w:gz") as archive:
        archive.add(source, "vivos")
    for split in ("train", "test"):
        (data / f"prompts-{split}.txt.gz").write_bytes(gzip.compress((source / split / "prompts.txt").read_bytes()))
    publish(hub, "AILAB-VNUHCM/vivos", tmp_path / "repo")
    rows = list(load_corpus("vivos", "test", streaming=streaming))
    assert [(row["id"], row["text"]) for row in rows] == [("vivos/VIVOSDEV01_R001", "xin chào")]
    assert fetched(hub) == {"prompts-test.txt.gz", "vivos.tar.gz"}
    # Once, since it is 1.4 GB in truth: the prompts are not looked for in it.
    assert sum(line.startswith("GET /datasets/") and "vivos.tar.gz" in line for line in hub.requests) == 1


@pytest.mark.parametrize("streaming", [True, False])
def test_first_rows_do_not_fetch_the_rest(hub, streaming, tmp_path):
    publish(hub, "doof-ferb/LSVSC", write_hub_form("lsvsc", tmp_path / "lsvsc"))
    rows = list(load_corpus("lsvsc", "train", streaming=streaming, max_rows=1))
    assert [row["text"] for row in rows] == ["xin chào"] and rows[0]["audio"]["bytes"]
    if not streaming:  # `take` looks one row ahead
        assert fetched(hub) == {"train-00000-of-00002-0a1b.parquet"}


def test_gated_without_a_token(hub, tmp_path):
    publish(hub, "linhtran92/viet_bud500", write_hub_form("bud500", tmp_path / "bud500"), gated=True)
    with pytest.raises(CorpusError) as error:
        load_corpus("bud500")
    message = str(error.value)
    assert "is gated and no token was found" in message and "hf auth login" in message and "data_dir" in message
    assert "https://huggingface.co/datasets/linhtran92/viet_bud500" in message
    assert error.value.__cause__ is None and error.value.__suppress_context__  # no trace of the client's below it
    assert not fetched(hub)


def test_gated_for_this_account(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    publish(hub, "linhtran92/viet_bud500", write_hub_form("bud500", tmp_path / "bud500"), gated=True)
    with pytest.raises(CorpusError, match="this account has not been let in yet") as error:
        load_corpus("bud500")
    assert TOKEN not in str(error.value)


@pytest.mark.parametrize("streaming", [True, False])
def test_access_that_ends_while_files_are_fetched(hub, streaming, tmp_path):
    # A corpus that was public when this was written: the refusal comes with the first file.
    publish(hub, "doof-ferb/LSVSC", write_hub_form("lsvsc", tmp_path / "lsvsc"), gated=True)
    with pytest.raises(CorpusError, match="is gated and no token was found"):
        list(load_corpus("lsvsc", streaming=streaming))


def test_other_refusals(hub, tmp_path, monkeypatch):
    with pytest.raises(CorpusError, match="not on the Hub any more, or private"):
        load_corpus("lsvsc")
    publish(hub, "doof-ferb/LSVSC", write_hub_form("lsvsc", tmp_path / "lsvsc"))
    with pytest.raises(CorpusError, match="has no revision 'v9'"):
        load_corpus("lsvsc", revision="v9")
    with pytest.raises(CorpusError, match="Common Voice, Vietnamese is not on the Hub: set data_dir to a local copy"):
        load_corpus("common_voice_vi")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CorpusError, match="HF_HUB_OFFLINE is set"):
        load_corpus("lsvsc")


def test_no_connection(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CorpusError, match="cannot be reached"):
        load_corpus("lsvsc")
