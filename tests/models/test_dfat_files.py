"""Classifier files of DFAT: a round trip to the bit, and every way of tampering refused before anything is built."""

import hashlib
import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch
from dfat_kit import SETTINGS, XGB, inputs, make_dfat, save

from models.dfat import CheckpointError, DFATForAudioClassification
from models.dfat.audit_dfat import SKOPS_TYPES, check_nodes, load_skops, load_xgboost
from models.dfat.classifiers_dfat import predict, to_bytes
from trainers.dfat.ensemble import fit


@pytest.fixture(scope="module")
def model():
    return make_dfat()


@pytest.fixture
def folder(model, tmp_path):
    return save(tmp_path / "model", model)


def refused(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        DFATForAudioClassification.from_pretrained(folder)
    return str(caught.value)


def forge(folder, name, data):
    """Another file, with the digest to match: what whoever publishes a model can do."""
    (folder / "classifiers" / name).write_bytes(data)
    digests = folder / "classifiers" / "digests.json"
    about = json.loads(digests.read_text())
    about["files"][name] = hashlib.sha256(data).hexdigest()
    digests.write_text(json.dumps(about))


def rewritten(data, change):
    """A skops file with another schema."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(result, "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            if entry == "schema.json":
                schema = json.loads(content)
                content = json.dumps(change(schema) or schema).encode()
            new.writestr(entry, content)
    return result.getvalue()


def test_a_round_trip_keeps_every_bit(model, folder):
    loaded = DFATForAudioClassification.from_pretrained(folder)
    before, after = model(**inputs()), loaded(**inputs())
    for name in ("logits", "probabilities", "features", "member_probabilities"):
        assert torch.equal(before[name], after[name]), name
    assert sorted(os.listdir(folder / "classifiers")) == ["digests.json", "lr.skops", "rf.skops", "xgb.json"]
    again = save(folder.parent / "again", loaded)
    assert json.loads((again / "classifiers/digests.json").read_text())["files"].keys() == {
        "lr.skops", "rf.skops", "xgb.json"
    }  # fmt: skip
    assert torch.equal(DFATForAudioClassification.from_pretrained(again)(**inputs()).logits, before.logits)


@pytest.mark.parametrize("name", ["lr.skops", "rf.skops", "xgb.json"])
def test_a_flipped_byte_is_refused(folder, name):
    path = folder / "classifiers" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert name in refused(folder) and "not the file that was saved" in refused(folder)


def test_missing_surplus_and_swapped_files_are_refused(folder, tmp_path):
    classifiers = folder / "classifiers"
    (classifiers / "more.skops").write_bytes(b"x")
    assert "too many" in refused(folder) and "more.skops" in refused(folder)
    (classifiers / "more.skops").unlink()
    kept = (classifiers / "rf.skops").read_bytes()
    (classifiers / "rf.skops").write_bytes((classifiers / "lr.skops").read_bytes())
    assert "rf.skops" in refused(folder)
    (classifiers / "rf.skops").unlink()
    assert "missing" in refused(folder) and "rf.skops" in refused(folder)
    (classifiers / "rf.skops").write_bytes(kept)
    digests = (classifiers / "digests.json").read_text()
    for damaged in ("", "[]", '{"files": 3}', digests[:-20]):
        (classifiers / "digests.json").write_text(damaged)
        assert "digests.json is damaged" in refused(folder)
    (classifiers / "digests.json").unlink()
    assert "digests.json is missing" in refused(folder)


def test_classifiers_of_other_weights_are_refused(folder, tmp_path):
    other = save(tmp_path / "other", make_dfat(seed=1))
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    assert "other weights" in refused(folder)


def test_classifiers_of_other_classes_and_widths_are_refused(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "id2label": {"0": "neutral", "1": "sad", "2": "angry"}}))
    assert "label_names" in refused(folder)
    path.write_text(json.dumps({**config, "pooling": "mean"}))
    assert "num_features" in refused(folder)


def test_weights_off_the_simplex_are_refused(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for wrong in ([0.5, 0.5, 0.5], [1.5, -0.5, 0.0], [float("nan"), 0.5, 0.5]):
        tensors["member_weights"] = torch.tensor(wrong)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        assert "member_weights" in refused(folder)


def test_only_known_types_are_built(model, folder, tmp_path):
    """A forged file with a type of its own is refused, whatever its digest says, and nothing of it runs."""
    data = (folder / "classifiers/lr.skops").read_bytes()
    mark = tmp_path / "ran"

    def evil(schema):
        schema["content"]["content"]["verbose"] = {
            "__class__": "system", "__module__": "os", "__loader__": "FunctionNode", "content": f"touch {mark}"
        }  # fmt: skip

    forge(folder, "lr.skops", rewritten(data, evil))
    assert "os.system" in refused(folder) and not mark.exists()

    def relabelled(schema):
        schema["__class__"], schema["__module__"] = "KNeighborsClassifier", "sklearn.neighbors._classification"

    # skops itself would trust this one.
    forge(folder, "lr.skops", rewritten(data, relabelled))
    assert "KNeighborsClassifier" in refused(folder)

    def other_loader(schema):
        schema["__loader__"] = "MethodNode"

    forge(folder, "lr.skops", rewritten(data, other_loader))
    assert "MethodNode" in refused(folder)
    forge(folder, "lr.skops", (folder / "classifiers/rf.skops").read_bytes())
    assert "must hold a Pipeline" in refused(folder)
    for junk in (b"", b"PK\x03\x04", b"\x80\x04N."):
        forge(folder, "lr.skops", junk)
        assert "not a skops file" in refused(folder)


def test_the_list_of_types_is_exact():
    """Every type of the list is in a file that we write: nothing is allowed without need."""
    found = set()

    def walk(node):
        if isinstance(node, dict):
            if "__class__" in node:
                found.add((node["__module__"], node["__class__"], node["__loader__"]))
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    features = np.random.default_rng(0).normal(size=(20, 3))
    for kind in ("lr", "rf"):
        for labels in (np.arange(20) % 2, np.arange(20) % 3):
            data = to_bytes(kind, fit(kind, features, labels, SETTINGS))
            walk(json.loads(zipfile.ZipFile(io.BytesIO(data)).read("schema.json")))
    assert found == SKOPS_TYPES


@pytest.mark.parametrize(
    ("left", "right", "feature"),
    [
        ([1, -1, -1], [5, -1, -1], [0, -2, -2]),  # a child behind the end
        ([0, -1, -1], [2, -1, -1], [0, -2, -2]),  # a node that is its own child: a walk without end
        ([-7, -1, -1], [2, -1, -1], [0, -2, -2]),
        ([1, -1, -1], [2, -1, -1], [3, -2, -2]),  # a feature that is not there
        ([1, -1, -1], [2, -1, -1], [-4, -2, -2]),
        ([1, -1, -1], [-1, -1, -1], [0, -2, -2]),
        ([1, -1, -1], [2, -1], [0, -2, -2]),
        ([], [], []),
    ],
)
def test_trees_that_lead_out_of_their_arrays_are_refused(left, right, feature):
    check_nodes([1, -1, -1], [2, -1, -1], [2, -2, -2], 3)
    with pytest.raises(ValueError):
        check_nodes(left, right, feature, 3)


def test_a_forged_forest_and_a_forged_booster_are_refused():
    features, labels = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 3
    features[:, 1] += labels
    forest = fit("rf", features, labels, SETTINGS)
    state = forest.estimators_[0].tree_.__getstate__()
    state["nodes"]["right_child"][0] = 10**6
    forest.estimators_[0].tree_.__setstate__(state)
    with pytest.raises(CheckpointError, match="child"):
        load_skops(to_bytes("rf", forest), "rf", "rf.skops", 3, 3)
    booster = json.loads(to_bytes("xgb", fit("xgb", features, labels, SETTINGS, XGB)))
    model = booster["learner"]["gradient_booster"]["model"]
    for change in ("left_children", "split_indices", "tree_info"):
        forged = json.loads(json.dumps(booster))
        owner = forged["learner"]["gradient_booster"]["model"]
        if change == "tree_info":
            owner[change][0] = 9
        else:
            inner = next(tree for tree in owner["trees"] if len(tree["left_children"]) > 1)
            inner[change][0] = 77
        with pytest.raises(CheckpointError, match=r"xgb\.json"):
            load_xgboost(json.dumps(forged).encode(), "xgb.json", 3, 3)
    with pytest.raises(CheckpointError, match="num_feature"):
        load_xgboost(json.dumps(booster).encode(), "xgb.json", 4, 3)
    assert model["trees"] and load_xgboost(json.dumps(booster).encode(), "xgb.json", 3, 3)


def test_predictions_are_those_of_the_libraries(model):
    """Against scikit-learn and XGBoost directly."""
    import xgboost

    output = model(**inputs())
    features = output.features.numpy()
    fitted = model.classifiers.fitted
    # The pipeline's steps by hand.
    scaler, regression = fitted["lr"].steps[0][1], fitted["lr"].steps[1][1]
    scores = ((features - scaler.mean_) / scaler.scale_) @ regression.coef_.T + regression.intercept_
    by_hand = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    stock = {
        "lr": by_hand,
        "rf": np.mean([tree.predict_proba(features) for tree in fitted["rf"].estimators_], axis=0),
        "xgb": fitted["xgb"].predict(xgboost.DMatrix(features)),
    }
    mixed = sum(weight * stock[name] for name, weight in {"lr": 0.5, "rf": 0.2, "xgb": 0.3}.items())
    for place, name in enumerate(("lr", "rf", "xgb")):
        np.testing.assert_allclose(output.member_probabilities[:, place].numpy(), stock[name], atol=1e-6)
    np.testing.assert_allclose(output.probabilities.numpy(), mixed, atol=1e-6)
    torch.testing.assert_close(output.logits.softmax(1), output.probabilities)


def test_a_class_that_a_classifier_never_saw_has_no_probability():
    features, labels = np.random.default_rng(0).normal(size=(30, 3)), 2 * (np.arange(30) % 2)
    for kind in ("lr", "rf", "xgb"):
        found = predict(kind, fit(kind, features, labels, SETTINGS, XGB), features, 3)
        assert found.shape == (30, 3) and np.allclose(found.sum(1), 1)
        assert found[:, 1].max() <= (0.5 if kind == "xgb" else 0.0)
        assert set(found.argmax(1)) <= {0, 2}


def test_what_is_not_installed_is_named(monkeypatch, folder):
    import models.dfat.audit_dfat as audit

    def gone(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(audit, "import_module", gone)
    assert "pip install" in refused(folder)
