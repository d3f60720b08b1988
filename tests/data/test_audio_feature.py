"""The audio column: stock `Audio` in every file, soundfile in this process, no torchcodec anywhere."""

import json
import pickle
import sys

import numpy as np
import pyarrow.parquet
import pytest
from datasets import Audio, Dataset, Features, IterableDataset, Value, load_dataset, load_from_disk
from datasets.features import features as datasets_features

from data_scripts.audio import SoundfileAudio, embed_audio, read_audio
from data_scripts.schema import FEATURES

from .conftest import RATE_HZ, encode, voice


@pytest.fixture
def files(tmp_path):
    paths = []
    for index, kind in enumerate(["wav", "flac", "opus"]):
        path = tmp_path / f"clip{index}.{kind}"
        path.write_bytes(encode(voice(hertz=220 + 40 * index), kind))
        paths.append(str(path))
    return paths


def test_encodes_every_form(files):
    content = encode(voice())
    values = [files[0], content, {"array": voice(), "sampling_rate": RATE_HZ}, {"bytes": content, "path": "a.wav"}]
    dataset = Dataset.from_dict({"audio": values[:1]}, features=Features({"audio": SoundfileAudio()}))
    assert dataset[0]["audio"]["path"] == files[0]
    for value in values:
        encoded = SoundfileAudio().encode_example(value)
        np.testing.assert_allclose(SoundfileAudio().decode_example(encoded)["array"], voice(), atol=1e-3)
    for wrong in ({"path": None}, 3):
        with pytest.raises((ValueError, TypeError), match="audio"):
            SoundfileAudio().encode_example(wrong)


def test_decodes_at_the_rate_asked_for(files):
    for rate_hz in (None, 8_000, 16_000):
        value = SoundfileAudio(sampling_rate=rate_hz).decode_example({"path": files[0], "bytes": None})
        assert value["sampling_rate"] == (rate_hz or RATE_HZ)
        assert len(value["array"]) == pytest.approx(len(voice()) * value["sampling_rate"] / RATE_HZ, abs=1)
    with pytest.raises(ValueError, match="mono"):
        SoundfileAudio(num_channels=2).decode_example({"path": files[0], "bytes": None})
    with pytest.raises(RuntimeError, match="read_audio"):
        SoundfileAudio(decode=False).decode_example({"path": files[0], "bytes": None})


def test_column_survives_everything_datasets_does(files, tmp_path):
    features = Features({"audio": SoundfileAudio(sampling_rate=RATE_HZ), "n": Value("int64")})
    dataset = Dataset.from_dict({"audio": files, "n": [0, 1, 2]}, features=features)
    expected = [read_audio(path) for path in files]

    def same(rows, order=(0, 1, 2)):
        for row, index in zip(rows, order, strict=True):
            np.testing.assert_allclose(row["audio"]["array"], expected[index], atol=1e-4)

    same(dataset)
    same(dataset.map(lambda row: {"n": row["n"] + 1}))
    same(dataset.map(lambda row: {"audio": dict(row["audio"])}))  # samples come back and are encoded anew
    same(dataset.map(lambda batch: {"audio": [dict(value) for value in batch["audio"]]}, batched=True))
    same(dataset.filter(lambda n: n != 1, input_columns="n"), (0, 2))
    same(dataset.select([2, 0]), (2, 0))
    same(pickle.loads(pickle.dumps(dataset)))
    same(dataset.to_iterable_dataset(num_shards=2))
    same(
        IterableDataset.from_generator(lambda: ({"audio": p, "n": i} for i, p in enumerate(files)), features=features)
    )
    dataset.save_to_disk(tmp_path / "saved")
    same(load_from_disk(tmp_path / "saved"))
    missing = Dataset.from_dict({"audio": [files[0], None]}, features=Features({"audio": SoundfileAudio()}))
    assert missing[1]["audio"] is None


def test_parquet_carries_bytes_and_stock_metadata(files, tmp_path):
    features = Features({"audio": SoundfileAudio(sampling_rate=RATE_HZ)})
    dataset = Dataset.from_dict({"audio": files}, features=features)
    embed_audio(dataset).to_parquet(tmp_path / "train-00000.parquet")
    for path in files:
        open(path, "wb").close()  # the shard must not need them
    metadata = json.loads(pyarrow.parquet.read_schema(tmp_path / "train-00000.parquet").metadata[b"huggingface"])
    assert metadata["info"]["features"]["audio"] == {"sampling_rate": RATE_HZ, "_type": "Audio"}
    loaded = load_dataset(str(tmp_path), split="train")
    assert isinstance(loaded.features["audio"], SoundfileAudio)
    assert [row["audio"]["path"] for row in loaded] == ["clip0.wav", "clip1.flac", "clip2.opus"]
    assert len(loaded[2]["audio"]["array"]) == len(voice())


def test_a_consumer_without_this_package_sees_a_stock_column(tmp_path, monkeypatch):
    dataset = Dataset.from_dict({"audio": [encode(voice())]}, features=Features({"audio": SoundfileAudio()}))
    dataset.to_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(datasets_features._FEATURE_TYPES, "Audio", Audio)  # as in a process that never imported ours
    features = Features.from_arrow_schema(pyarrow.parquet.read_schema(tmp_path / "a.parquet"))
    assert type(features["audio"]) is Audio


def test_no_torchcodec_is_imported(files):
    Dataset.from_dict({"audio": files}, features=Features({"audio": SoundfileAudio()}))[0]
    assert "torchcodec" not in sys.modules
    assert issubclass(SoundfileAudio, Audio)
    assert FEATURES["audio"].decode is False
