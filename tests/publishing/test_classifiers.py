"""Emotion classifiers of this project and of others behind one interface."""

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import pipeline

from models.ser.audio_input import split_at_quiet
from trainers.checkpoint_folder import check_folder, files_to_publish
from trainers.classifiers import ClassifierError, classify, load_classifier

from .ser_folders import noise, save_dfat, save_emotion2vec, save_reading_ser, save_ser, save_stock


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("classifiers")
    return {
        "ser": save_ser(root / "ser"),
        "emotion2vec": save_emotion2vec(root / "emotion2vec"),
        "stock": save_stock(root / "stock"),
    }


def as_audio(samples):
    return {"array": samples, "sampling_rate": 16_000}


def rows():
    lengths_s = (0.5, 1.1, 0.3, 0.8)
    return [
        {"id": f"u{i}", "audio": as_audio(noise(s, i)), "duration_s": s, "text": ""} for i, s in enumerate(lengths_s)
    ]


@pytest.mark.parametrize("name", ["ser", "emotion2vec", "stock"])
def test_probabilities_are_those_of_the_pipeline_row_by_row(folders, name):
    classifier = load_classifier(str(folders[name]), device="cpu")
    seen = []
    found = classify(classifier, rows(), batch_size=3, progress=seen.append)
    assert found.probabilities_NC.dtype == np.float64 and sum(seen) == 4
    assert found.audio_s == pytest.approx(2.7) and found.rtf > 0 and found.skipped == {}
    for row, line_C in zip(rows(), found.probabilities_NC, strict=True):
        single = {entry["label"]: entry["score"] for entry in classifier.pipe(row["audio"]["array"])}
        assert dict(zip(classifier.labels, line_C, strict=True)) == pytest.approx(single, abs=2e-6)


def test_a_stock_folder_gives_what_transformers_gives(folders):
    classifier = load_classifier(str(folders["stock"]), device="cpu")
    assert classifier.labels == ["neu", "hap", "ang", "sad"] and not classifier.reads_text
    assert not classifier.keeps_batches_apart  # its front end has no mask
    stock = pipeline("audio-classification", model=str(folders["stock"]), device="cpu")
    answer = {entry["label"]: entry["score"] for entry in stock(noise(0.5, 0), top_k=4)}
    line_C = classify(classifier, rows()).probabilities_NC[0]
    assert dict(zip(classifier.labels, line_C, strict=True)) == pytest.approx(answer, abs=1e-6)


def test_long_recordings_are_cut_by_the_pipeline(folders):
    classifier = load_classifier(str(folders["ser"]), device="cpu")
    long_N = np.concatenate([noise(15.0), np.zeros(1600, np.float32), noise(10.0, 1)])
    row = {"id": "long", "audio": as_audio(long_N), "duration_s": 25.1}
    (line_C,) = classify(classifier, [row]).probabilities_NC
    pieces = list(split_at_quiet(long_N, 16_000, 20.0))
    assert len(pieces) == 2
    each_PC = [classify(classifier, [row | {"audio": as_audio(part)}]).probabilities_NC[0] for part in pieces]
    expected_C = np.average(each_PC, axis=0, weights=[len(part) for part in pieces])
    assert np.allclose(line_C, expected_C, atol=1e-5)


def test_dfat_is_loaded_without_remote_code_and_is_whole(tmp_path):
    for name in ("sklearn", "skops", "xgboost"):
        pytest.importorskip(name, reason="the classifiers of DFAT need it")
    folder = save_dfat(tmp_path / "dfat")
    assert check_folder(folder) == [] and "classifiers/lr.skops" in files_to_publish(folder)
    classifier = load_classifier(str(folder), device="cpu")
    assert type(classifier.pipe.model).__module__ == "models.dfat.modeling_dfat" and not classifier.reads_text
    found_NC = classify(classifier, rows(), batch_size=3).probabilities_NC
    single = {entry["label"]: entry["score"] for entry in classifier.pipe(noise(0.5, 0))}
    assert dict(zip(classifier.labels, found_NC[0], strict=True)) == pytest.approx(single, abs=1e-5)
    (folder / "classifiers" / "lr.skops").write_bytes(b"other")
    with pytest.raises(ClassifierError, match="not the file that was saved"):
        load_classifier(str(folder), device="cpu")


def test_transcripts_reach_a_model_that_reads(tmp_path):
    folder = save_reading_ser(tmp_path / "reading")
    assert check_folder(folder) == []
    classifier = load_classifier(str(folder), device="cpu")
    assert classifier.reads_text
    texts = ["mày nói gì", "xin chào", "", None]
    read = [row | {"text": text} for row, text in zip([rows()[0]] * 4, texts, strict=True)]
    found_NC = classify(classifier, read, batch_size=1).probabilities_NC
    assert len({round(value, 7) for value in found_NC[:3, 0]}) == 3 and np.allclose(found_NC[2], found_NC[3])
    answer = classifier.pipe({"raw": noise(0.5), "sampling_rate": 16_000, "text": "xin chào"})
    assert {entry["label"]: entry["score"] for entry in answer}["neutral"] == pytest.approx(found_NC[1, 0], abs=1e-6)
    batched_NC = classify(classifier, read, batch_size=4).probabilities_NC
    assert np.allclose(found_NC, batched_NC, atol=1e-5)


def test_own_code_is_used_and_neighbours_can_be_left_out(folders):
    classifier = load_classifier(str(folders["ser"]), device="cpu")
    assert type(classifier.pipe.model).__module__ == "models.ser.modeling_ser" and classifier.has_datastore
    without = load_classifier(str(folders["ser"]), device="cpu", knn=False)
    assert not without.has_datastore
    mixed, plain = (classify(classifier, rows(), knn=knn).probabilities_NC for knn in (True, False))
    assert np.allclose(plain, classify(without, rows()).probabilities_NC, atol=1e-6)
    assert np.abs(mixed - plain).max() > 1e-3


def test_unreadable_rows_are_skipped_and_counted(folders, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    bad = [
        {"id": "broken", "audio": {"path": str(tmp_path / "broken.wav"), "bytes": None}},
        {"id": "no", "audio": None},
    ]
    classifier = load_classifier(str(folders["ser"]), device="cpu")
    found = classify(classifier, [rows()[0], *bad, rows()[1]])
    assert sorted(found.skipped) == [1, 2] and "broken.wav" in found.skipped[1]
    assert np.isnan(found.probabilities_NC[1:3]).all() and np.allclose(found.probabilities_NC[[0, 3]].sum(1), 1)


def without_head(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(("head.", "classifier."))}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("save", [lambda f: save_ser(f, knn=False), save_emotion2vec, save_stock])
def test_a_head_is_never_made_up(save, tmp_path):
    with pytest.raises(ClassifierError, match="missing"):
        load_classifier(str(without_head(save(tmp_path / "model"))), device="cpu")


def test_what_is_no_classifier_is_refused_in_one_line(tmp_path):
    with pytest.raises(ClassifierError, match=r"tensors are missing.*never trained"):
        load_classifier(str(save_stock(tmp_path / "encoder", head=False)), device="cpu")
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ClassifierError, match="name a model folder"):
            load_classifier(str(path), device="cpu")
