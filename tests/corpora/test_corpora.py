"""Each corpus, in its official tree and in its Hub form, gives the rows it should."""

import errno
import tarfile
import zipfile

import datasets
import pytest
from datasets import Dataset, IterableDataset

from data_scripts.audio import read_audio
from data_scripts.corpora import CORPORA, CorpusError, load_corpus
from data_scripts.corpora.base import run
from data_scripts.readers import read_records
from data_scripts.schema import DIALECTS, EMOTIONS, FEATURES
from data_scripts.sources import SourceArguments, SourceError, load_source

from .trees import HUB, TREES, sound, write_hub_form

TEXTS = {
    ("vivos", "train"): ["khách sạn", "nan", "không có tiếng"],
    ("vivos", "test"): ["xin chào"],
    ("lsvsc", "train"): ["mưa rơi", "nan"],
    ("lsvsc", "validation"): ["trời nắng"],
    ("lsvsc", "test"): ["gió"],
    ("common_voice_vi", "train"): ["đi đâu đấy", "na"],
    ("common_voice_vi", "validation"): ["ăn cơm"],
    ("common_voice_vi", "test"): ["ngủ"],
    ("fosd", "train"): ["cách để đi", "nan"],
    ("vlsp2020", "train"): ["nan", "xin chào", "không có tiếng"],
    ("vlsp2023", "train"): ["xin chào", "nan"],
    ("vlsp2023", "validation"): ["tạm biệt"],
    ("vlsp2025", "train"): ["xin chào", "nan"],
    ("vlsp2025", "test"): ["hết"],
    ("fleurs_vi", "train"): ["xin chào", "nan"],
    ("fleurs_vi", "validation"): ["ăn cơm"],
    ("fleurs_vi", "test"): ["ngủ"],
    ("iemocap", "train"): ["excuse me", "yeah", "let me see"],
    ("emodb", "train"): [
        "der lappen liegt auf dem eisschrank",
        "ich will das eben wegbringen und dann mit karl was trinken gehen",
        "das schwarze stück papier befindet sich da oben neben dem holzstück",
    ],
    ("ravdess", "train"): ["kids are talking by the door", "dogs are sitting by the door"],
    ("crema_d", "train"): ["don't forget a jacket", "it's eleven o'clock"],
    ("emov_db", "train"): [
        "author of the danger trail philip steels etc",
        "not at this particular case tom apologized whittemore",
    ],
}


def rows_of(rows):
    return sorted(({**row, "audio": None} for row in rows), key=lambda row: row["id"])


@pytest.mark.parametrize(("name", "split"), TEXTS)
def test_official_tree(name, split, tree):
    rows = load_corpus(name, split, str(tree(name)))
    assert isinstance(rows, Dataset)
    assert set(rows.features) == set(FEATURES)
    assert sorted(rows["text"]) == sorted(TEXTS[name, split])
    assert len(set(rows["id"])) == len(rows)
    for row in rows:
        assert row["id"].startswith(f"{name}/") and row["corpus"] == name
        assert row["emotion"] in (None, *EMOTIONS) and row["dialect"] in (None, *DIALECTS)
        if row["text"] == "không có tiếng":  # "no sound": in the list, not in the tree
            assert row["audio"] is None
        else:
            assert row["audio"]["bytes"] is None  # a name, not a copy
            assert row["duration_s"] == pytest.approx(0.1, abs=0.08)  # MP3 pads
            assert len(read_audio(row["audio"])) == pytest.approx(1600, abs=1300)


@pytest.mark.parametrize("name", TREES)
def test_every_split_is_tested(name):
    given = {split for corpus, split in TEXTS if corpus == name}
    missing = {"vlsp2023": {"test"}, "vlsp2025": {"validation"}}.get(name, set())
    assert given == set(CORPORA[name].splits) - missing


@pytest.mark.parametrize("packing", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("name", sorted(set(TREES) - {"vlsp2023", "vlsp2025"}))
def test_an_archive_is_read_as_the_folder_is(name, packing, tree, tmp_path):
    folder = tree(name)
    archive = tmp_path / f"archive.{packing}"
    files = sorted((path for path in folder.rglob("*") if path.is_file()), reverse=True)  # tables may come last
    if packing == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in files:
                file.write(path, path.relative_to(tmp_path))
    else:
        with tarfile.open(archive, "w:gz" if packing == "tar.gz" else "w") as file:
            for path in files:
                file.add(path, path.relative_to(tmp_path), recursive=False)
    expected = rows_of(load_corpus(name, "train", str(folder)))
    streamed = load_corpus(name, "train", str(archive), streaming=True)
    assert isinstance(streamed, IterableDataset)
    assert rows_of(streamed) == expected
    mapped = load_corpus(name, "train", str(archive))
    assert rows_of(mapped) == expected
    first = {row["id"]: row["audio"] for row in load_corpus(name, "train", str(folder))}
    for row in mapped:
        if row["text"] != "không có tiếng":
            with open(first[row["id"]]["path"], "rb") as file:
                assert row["audio"]["bytes"] == file.read()  # as it was, not decoded


@pytest.mark.parametrize("name", TREES)
def test_a_streamed_folder_gives_the_same_rows(name, tree):
    folder = str(tree(name))
    streamed = load_corpus(name, "train", folder, streaming=True)
    assert isinstance(streamed, IterableDataset)
    assert rows_of(streamed) == rows_of(load_corpus(name, "train", folder))


@pytest.mark.parametrize("name", HUB)
def test_hub_form(name, hub_form):
    folder = str(hub_form(name))
    info = CORPORA[name]
    for split in info.splits:
        rows = load_corpus(name, split, folder)
        assert set(rows.features) == set(FEATURES)
        assert len(rows) == 2 * len(set(info.splits[split]) & set(HUB[name]))
        assert rows_of(load_corpus(name, split, folder, streaming=True)) == rows_of(rows)
        assert len(set(rows["id"])) == len(rows)
        for row in rows:
            assert row["audio"]["bytes"] and row["duration_s"] == pytest.approx(0.1)
            assert len(read_audio(row["audio"])) == 1600  # 24 kHz too
        if info.has_text and name not in ("emodb", "ravdess", "crema_d"):
            assert rows[1]["text"] == "nan"
        if info.has_emotion:
            assert all(row["emotion"] in EMOTIONS for row in rows if name != "lsvsc")


def test_every_corpus_is_tested_in_every_form_it_has():
    for name, info in CORPORA.items():
        assert bool(info.layout) == (name in TREES)
        assert (info.hub_id is not None and not info.hub_archives) == (name in HUB)


def test_what_names_and_tables_say(tree, hub_form):
    def row(name, row_id, **options):
        rows = load_corpus(name, data_dir=str(options.get("folder") or tree(name)))
        return next(row for row in rows if row["id"] == f"{name}/{row_id}")

    assert row("vivos", "VIVOSSPK02_R003")["speaker"] == "VIVOSSPK02"
    assert row("ravdess", "03-01-06-02-02-01-12")["speaker"] == "actor12"
    assert row("ravdess", "03-01-06-02-02-01-12")["emotion"] == "fearful"
    assert row("crema_d", "1091_IEO_FEA_HI")["emotion"] == "fearful"
    assert row("emodb", "08b09Wb")["emotion"] == "angry"
    assert row("emov_db", "bea_amused_1-15_0001")["emotion"] == "happy"
    assert row("emov_db", "sam_anger_1-28_0002")["speaker"] == "sam"
    assert row("iemocap", "Ses01F_impro01_M001")["speaker"] == "Ses01M"  # the dialogue is named after the woman
    assert row("iemocap", "Ses01F_impro01_M001")["emotion"] == "negative"
    assert row("lsvsc", "33")["dialect"] == "central" and row("lsvsc", "33")["emotion"] == "happy"
    assert row("lsvsc", "34")["dialect"] == "south" and row("lsvsc", "34")["emotion"] is None  # tired
    assert row("common_voice_vi", "common_voice_vi_2")["speaker"] == "f01"
    assert row("vlsp2023", "wav/1")["emotion"] == "neutral"
    visec = load_corpus("visec", data_dir=str(hub_form("visec")))
    assert [(r["speaker"], r["dialect"], r["emotion"], r["text"]) for r in visec] == [
        ("3", "central", "angry", ""),
        ("4", "north", "happy", ""),
    ]
    vimd = load_corpus("vimd", "validation", str(hub_form("vimd")))
    assert [(r["id"], r["dialect"]) for r in vimd] == [("vimd/valid_01", "north"), ("vimd/valid_02", "south")]
    hub = load_corpus("ravdess", data_dir=str(hub_form("ravdess")))
    # Names go before columns: CREMA-D's column may be what listeners heard.
    assert load_corpus("crema_d", data_dir=str(hub_form("crema_d")))["emotion"] == ["angry", "fearful"]
    assert rows_of(hub)[1]["id"] == "ravdess/03-01-06-02-02-01-12" and rows_of(hub)[1]["emotion"] == "fearful"


def test_labels_without_a_place_are_counted(tree, hub_form, caplog):
    with caplog.at_level("INFO"):
        load_corpus("iemocap", data_dir=str(tree("iemocap")))
    assert "iemocap train: rows left out, their label has no place in the schema: 1 of emotion xxx" in caplog.text
    caplog.clear()
    folder = str(hub_form("visec", emotion=["angry", "bored"]))
    assert len(load_corpus("visec", data_dir=folder)) == 1
    assert "unknown label are left out: emotion 'bored'; known: neutral, happy, sad, angry" in caplog.text


def test_labels_that_are_all_unknown(hub_form):
    with pytest.raises(CorpusError, match="no row of train has a label known here: emotion 'wütend'"):
        load_corpus("visec", data_dir=str(hub_form("visec", emotion=["wütend", "bored"])))


def test_recordings_that_lost_their_names(hub_form, tmp_path):
    recordings = [{"bytes": sound(i), "path": None} for i in range(2)]
    rows = load_corpus("emodb", data_dir=str(hub_form("emodb", audio=recordings)))
    assert rows["emotion"] == ["happy", "angry"] and rows["speaker"] == [None, None]
    bare = write_hub_form("emodb", tmp_path / "bare", audio=recordings, emotion=None)
    with pytest.raises(
        CorpusError, match=r"neither an emotion column nor file names of EMODB.*Columns found: age, audio"
    ):
        load_corpus("emodb", data_dir=str(bare))


def test_class_numbers_become_names(hub_form):
    folder = hub_form("visec")
    for file in (folder / "data").iterdir():
        part = datasets.Dataset.from_parquet(str(file), keep_in_memory=True)
        names = datasets.ClassLabel(names=["happy", "neutral", "sad", "angry"])
        numbers = part.remove_columns("emotion").add_column("emotion", [names.str2int(v) for v in part["emotion"]])
        numbers.cast_column("emotion", names).to_parquet(file)
    assert load_corpus("visec", data_dir=str(folder))["emotion"] == ["angry", "happy"]


def test_paths_in_parquet_do_not_reach_this_machine(hub_form, tmp_path):
    (tmp_path / "secret.wav").write_bytes(sound(5))
    secret = {"bytes": None, "path": str(tmp_path / "secret.wav")}
    folder = hub_form("bud500", audio=[secret, secret])
    rows = load_corpus("bud500", data_dir=str(folder))
    assert [row["audio"] for row in rows] == [None, None]


def test_a_changed_tree_is_read_again(tree):
    folder = tree("vivos")
    assert len(load_corpus("vivos", "test", str(folder))) == 1
    with (folder / "test/prompts.txt").open("a") as file:
        file.write("VIVOSDEV01_R002 HẸN GẶP LẠI\n")
    assert sorted(load_corpus("vivos", "test", str(folder))["text"]) == ["hẹn gặp lại", "xin chào"]


def test_sources_know_corpora(tree, hub_form, tmp_path, monkeypatch):
    folder = str(tree("vivos"))
    rows = load_source(SourceArguments("vivos", data_dir=folder, id_prefix="p/", corpus="mine", max_rows=1))
    assert rows["id"] == ["p/mine/VIVOSSPK01_R001"] and rows["corpus"] == ["mine"]
    raw = load_source(SourceArguments("vivos", data_dir=folder), normalise=False, fill_durations=False)
    assert raw["text"][0] == "KHÁCH SẠN" and raw["duration_s"][0] is None
    text = load_source(SourceArguments("vivos", kind="text", data_dir=folder))
    assert "audio" not in text.features and text["text"][1] == "nan"
    with pytest.raises(SourceError, match="visec has no transcripts"):
        load_source(SourceArguments("visec", data_dir=str(hub_form("visec"))))
    assert len(load_source(SourceArguments("visec", data_dir=str(tmp_path / "visec-hub")), need_text=False)) == 2
    with pytest.raises(SourceError, match="is for named corpora"):
        load_source(SourceArguments(f"{folder}/train", kind="folder", data_dir=folder))
    # What lies there has the name first.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bud500").mkdir()
    with pytest.raises(SourceError, match="a folder with neither"):
        load_source(SourceArguments("bud500"))


def test_to_parquet_by_the_module(tree, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("vivos", ["--data_dir", str(tree("vivos")), "--output_dir", str(out), "--split", "test"]) == 0
    rows = load_source(SourceArguments(str(out), split="test"))
    assert rows["text"] == ["xin chào"] and rows[0]["audio"]["bytes"]  # the file is inside
    stock = datasets.load_dataset(str(out), split="test")
    assert stock[0]["audio"]["sampling_rate"] == 16_000 and len(stock[0]["audio"]["array"]) == 1600
    assert run("vivos", ["--data_dir", str(tree("vivos")), "--output_dir", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (out / "vivos-test.parquet").is_file()


def test_a_builder_is_a_builder(tree, tmp_path):
    from data_scripts.corpora.vivos import Builder

    assert issubclass(Builder, datasets.GeneratorBasedBuilder)
    builder = Builder(data_dir=str(tree("vivos")), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare(str(tmp_path / "out"), file_format="parquet")
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {"train": 3, "test": 1}
    assert builder.info.license == "CC BY-NC-SA 4.0"


def test_parallel_reading(hub_form, tmp_path):
    from data_scripts.corpora.bud500 import Builder

    builder = Builder(data_dir=str(hub_form("bud500")), split="train", cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare(num_proc=2)
    assert sorted(builder.as_dataset("train")["text"]) == ["nan", "xin chào"]


def test_real_recordings(shared_data, tmp_path):
    """The tables of the pack were made by others: they must say what we read from the names."""
    tables = sorted((shared_data / "ser").glob("ravdess*/test/metadata.csv"))
    expected = {}
    for table in tables:
        for _, row in read_records(table):
            actor = tmp_path / f"Actor_{row['speaker'][-2:]}"
            actor.mkdir(exist_ok=True)
            (actor / row["file_name"]).symlink_to(table.parent / row["file_name"])
            name = row["file_name"].removesuffix(".ogg")
            expected[f"ravdess/{name}"] = (row["speaker"], row["emotion"], row["statement"], float(row["duration"]))
    rows = load_corpus("ravdess", data_dir=str(tmp_path))
    read = {row["id"]: (row["speaker"], row["emotion"], row["text"], round(row["duration_s"], 2)) for row in rows}
    assert read == expected and len(read) == 240


def test_a_full_disk_is_told(tree, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("datasets.arrow_writer.ArrowWriter.write_table", full)
    monkeypatch.setattr("datasets.arrow_writer.ArrowWriter.write_batch", full)
    with pytest.raises(CorpusError, match=r"no space left for vivos in .*set HF_HOME to a folder on another disk"):
        load_corpus("vivos", data_dir=str(tree("vivos")))


@pytest.mark.parametrize("name", ["vivos", "fleurs_vi", "common_voice_vi", "vlsp2025", "ravdess"])
def test_another_layout(name, tmp_path):
    (tmp_path / "wrong" / "deep").mkdir(parents=True)
    (tmp_path / "wrong" / "deep" / "a.wav").write_bytes(sound())
    with pytest.raises(CorpusError) as error:
        load_corpus(name, data_dir=str(tmp_path / "wrong"))
    message = str(error.value)
    assert "looked for" in message and "1 files found:\n  deep/a.wav" in message
    assert CORPORA[name].layout.strip().splitlines()[0] in message


def test_mistakes_are_named(tree, hub_form, tmp_path):
    with pytest.raises(CorpusError, match=r"no corpus 'vivo'. Did you mean 'vivos'\?"):
        load_corpus("vivo")
    with pytest.raises(CorpusError, match="vietspeech has no split 'test'; it has train"):
        load_corpus("vietspeech", "test")
    with pytest.raises(CorpusError, match="no such folder or archive"):
        load_corpus("vivos", data_dir=str(tmp_path / "nowhere"))
    with pytest.raises(
        SourceError, match=r"no column 'transcription'.*Did you mean 'transcript'\?.*Columns found: .*transcript"
    ):
        load_corpus("bud500", data_dir=str(hub_form("bud500", transcription=None, transcript=["a", "b"])))
    (tree("lsvsc") / "LSVSC_train.json").write_text("{'wav': 1}")
    with pytest.raises(CorpusError, match=r"LSVSC_train.json: not JSON: .*line 1"):
        load_corpus("lsvsc", data_dir=str(tmp_path / "lsvsc"))
    rows = load_corpus("bud500", data_dir=str(tmp_path / "bud500-hub"), columns={"text": "transcript"})
    assert rows["text"] == ["a", "b"]
