"""k-NN interpolation: scikit-learn is the oracle; ties, chunks, tuning, and files that do not belong to the model."""

import json

import numpy as np
import pytest
import torch
from ser_kit import make_ser, make_waveforms
from sklearn import neighbors

from models.ser import CheckpointError, KNNDatastore, SERForAudioClassification
from models.ser import knn_ser as knn_module
from models.ser.knn_ser import nearest, vote

NAMES = ["angry", "neutral", "sad"]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_store(count=200, width=6, seed=0, **settings):
    labels = torch.arange(count) % 3
    # Classes lie apart, with some overlap.
    return KNNDatastore(random(count, width, seed=seed) + 1.5 * labels[:, None], labels, NAMES, **settings)


def naive_probabilities(store, queries):
    """One query at a time, with plain Python."""
    result = np.zeros((len(queries), len(NAMES)))
    for row, query in enumerate(queries.double().numpy()):
        distances = [float(np.sqrt(((key - query) ** 2).sum())) for key in store.keys_ME.double().numpy()]
        order = sorted(range(len(distances)), key=lambda i: (distances[i], i))[: store.k]
        weights = np.exp([-distances[i] / store.temperature for i in order])
        for i, weight in zip(order, weights / weights.sum(), strict=True):
            result[row, int(store.labels_M[i])] += weight
    return torch.from_numpy(result).float()


@pytest.mark.parametrize(("k", "temperature"), [(1, 1.0), (5, 0.3), (64, 10.0), (500, 1.0)])
def test_probabilities_are_what_loops_compute(k, temperature):
    store, queries = make_store(k=k, temperature=temperature), random(9, 6, seed=7)
    torch.testing.assert_close(store.probabilities(queries), naive_probabilities(store, queries), atol=1e-5, rtol=0)


@pytest.mark.parametrize("k", [1, 5, 32])
def test_it_is_what_scikit_learn_computes(k):
    store, queries = make_store(k=k, temperature=0.7), random(40, 6, seed=7) + 1.5
    oracle = neighbors.KNeighborsClassifier(
        k, algorithm="brute", weights=lambda distances: np.exp(-(distances - distances[:, :1]) / 0.7)
    ).fit(store.keys_ME.double().numpy(), store.labels_M.numpy())
    expected = oracle.predict_proba(queries.double().numpy())
    np.testing.assert_allclose(store.probabilities(queries).numpy(), expected, atol=1e-5)
    distances, labels = store.neighbours(queries)
    expected_distances, index = oracle.kneighbors(queries.double().numpy())
    np.testing.assert_allclose(distances.numpy(), expected_distances, atol=1e-5)
    assert (labels == store.labels_M[torch.from_numpy(index)]).all()


def test_chunks_and_batches_change_nothing(monkeypatch):
    store, queries = make_store(k=7), random(20, 6, seed=2)
    whole = store.neighbours(queries)
    monkeypatch.setattr(knn_module, "CHUNK", 13)
    for one, other in zip(whole, store.neighbours(queries), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(store.probabilities(queries[3:4]), store.probabilities(queries)[3:4])


@pytest.mark.parametrize("chunk", [3, 4, 100])
def test_among_equal_distances_the_first_keys_win(monkeypatch, chunk):
    monkeypatch.setattr(knn_module, "CHUNK", chunk)
    keys = torch.tensor([[2.0], [1.0], [-1.0], [1.0], [0.0], [-1.0], [1.0]])
    distances, index = nearest(torch.zeros(2, 1), keys, 4)
    assert (
        index.sort(1).values.tolist() == [[1, 2, 3, 4]] * 2 and distances.sort(1).values.tolist() == [[0, 1, 1, 1]] * 2
    )


def test_a_key_finds_itself_exactly():
    # By dot products the distance of a vector to itself is not zero.
    keys = random(50, 768) * 0.01 + 30
    assert not nearest(keys[:5], keys, 1)[0].any()


def test_far_away_queries_stay_finite():
    store = make_store(temperature=1e-3)
    probabilities = store.probabilities(torch.full((1, 6), 1e6))
    assert probabilities.isfinite().all() and probabilities.sum() == pytest.approx(1)


def test_interpolation():
    store, queries = make_store(beta=0.3), random(4, 6, seed=1)
    model = torch.softmax(random(4, 3, seed=2), 1)
    torch.testing.assert_close(store.interpolate(model, queries), 0.3 * model + 0.7 * store.probabilities(queries))
    store.beta = 1.0
    assert store.interpolate(model, queries) is model


def test_tuning_finds_the_best_of_the_grid():
    store = make_store()
    queries, labels = random(60, 6, seed=11) + 1.5 * (torch.arange(60) % 3)[:, None], torch.arange(60) % 3
    logits = random(60, 3, seed=12)  # a model that knows nothing
    found = store.tune(queries, logits, labels)
    assert (store.beta, store.k, store.temperature) == (found["beta"], found["k"], found["temperature"])
    assert found["uar"] > 0.8 > 0.6 > found["uar_model"]
    best = 0.0
    for beta in knn_module.BETAS:
        for k in knn_module.NEIGHBOURS:
            distances, near = store.neighbours(queries, k)
            mixed = beta * logits.softmax(1) + (1 - beta) * vote(distances, near, 3, store.temperature)
            best = max(best, knn_module.scores(mixed, labels)[0])
    assert found["uar"] >= best
    assert make_store().tune(queries, logits, labels) == found
    # A model that is always right needs no neighbours, even if they are surer of it.
    for certainty in (50.0, 0.1):
        right = torch.nn.functional.one_hot(labels, 3) * certainty
        assert store.tune(queries, right, labels)["beta"] == 1.0
    # A class that is missing from validation does not count.
    assert 0 <= store.tune(queries[::3], logits[::3], labels[::3])["uar"] <= 1


def test_faiss_finds_the_same(monkeypatch):
    pytest.importorskip("faiss", reason="faiss-cpu is optional")
    store, queries = make_store(k=9), random(12, 6, seed=5)
    expected = store.neighbours(queries)
    monkeypatch.setattr(knn_module, "FAISS_FROM", 100)
    found = store.neighbours(queries)
    assert store._index
    torch.testing.assert_close(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_without_faiss_large_datastores_are_searched_in_chunks(monkeypatch, caplog):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(knn_module, "import_module", absent)
    monkeypatch.setattr(knn_module, "FAISS_FROM", 100)
    store = make_store()
    assert torch.equal(store.neighbours(random(2, 6))[0], make_store(count=200).neighbours(random(2, 6))[0])
    assert "pip install faiss-cpu" in caplog.text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"keys_ME": torch.zeros(0, 3)}, "at least one key"),
        ({"labels_M": torch.tensor([0, 1])}, r"keys of shape \(3, 4\) and labels of shape \(2,\)"),
        ({"labels_M": torch.tensor([0, 1, 3])}, "labels from 0 to 3, but the classes are 0 to 2"),
        ({"keys_ME": torch.full((3, 4), torch.nan)}, "NaN or infinite"),
        ({"beta": 1.5}, "beta must be in"),
        ({"k": 0}, "k at least 1"),
        ({"temperature": 0.0}, "temperature positive"),
    ],
)
def test_bad_datastores_teach(changes, says):
    parts = {"keys_ME": torch.zeros(3, 4), "labels_M": torch.tensor([0, 1, 2]), "label_names": NAMES, **changes}
    with pytest.raises(ValueError, match=says):
        KNNDatastore(**parts)


def test_queries_of_another_model_are_refused():
    with pytest.raises(ValueError, match="the keys are 6 wide: they come from another model"):
        make_store().neighbours(random(1, 7))


# --- in the model's folder -------------------------------------------------------------------------------------------


def with_store(beta=0.25, **settings):
    model = make_ser()
    waveforms, mask = make_waveforms((6_000, 5_000, 4_000, 3_000), seed=9)
    with torch.no_grad():
        keys = model(waveforms, mask).embedding
    model.datastore = KNNDatastore(keys, torch.tensor([0, 1, 1, 0]), model.label_names, beta, 2, **settings)
    return model


@pytest.fixture
def folder(tmp_path):
    with_store().save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_the_folder_holds_it_and_loading_finds_it(folder):
    model, loaded = with_store(), SERForAudioClassification.from_pretrained(folder)
    waveforms, mask = make_waveforms()
    expected, output = model(waveforms, mask), loaded(waveforms, mask)
    assert torch.equal(output.probabilities, expected.probabilities) and torch.equal(output.logits, expected.logits)
    plain = SERForAudioClassification.from_pretrained(folder, knn=False)
    assert plain.datastore is None
    alone = plain(waveforms, mask)
    assert torch.equal(alone.probabilities, alone.logits.softmax(1)) and torch.equal(alone.logits, output.logits)
    mixed = 0.25 * alone.probabilities + 0.75 * loaded.datastore.probabilities(output.embedding)
    torch.testing.assert_close(output.probabilities, mixed)
    # In half precision the weights are the same files.
    assert SERForAudioClassification.from_pretrained(folder, dtype=torch.bfloat16).datastore is not None


def test_it_goes_when_the_model_is_saved_without_it(folder):
    plain = SERForAudioClassification.from_pretrained(folder, knn=False)
    plain.save_pretrained(folder)
    assert not (folder / "knn.json").exists() and not (folder / "knn.safetensors").exists()
    assert SERForAudioClassification.from_pretrained(folder).datastore is None


def test_shards_of_weights_are_digested_together(tmp_path):
    with_store().save_pretrained(tmp_path, max_shard_size="100KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert SERForAudioClassification.from_pretrained(tmp_path).datastore is not None


def test_an_upload_without_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match="would leave the k-NN datastore out"):
        with_store().save_pretrained(tmp_path, push_to_hub=True)


def test_training_drops_it(caplog):
    model = with_store().train()
    waveforms, mask = make_waveforms((4_000, 3_000))
    model(waveforms, mask, labels=torch.tensor([0, 1]))
    assert model.datastore is None and "training changes the embeddings" in caplog.text


def edit(folder, **changes):
    settings = json.loads((folder / "knn.json").read_text())
    (folder / "knn.json").write_text(json.dumps({**settings, **changes}))


def other_weights(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["head.classifier.bias"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def flip_byte(folder):
    data = bytearray((folder / "knn.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "knn.safetensors").write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (other_weights, "weights_sha256 is .* made by another model or has been changed"),
        (flip_byte, "datastore_sha256 is .* has been changed"),
        (lambda folder: edit(folder, embedding_size=5), "embedding_size is 5, but that of the model's folder is 12"),
        (lambda folder: edit(folder, label_names=["a", "b"]), "label_names is"),
        (lambda folder: edit(folder, beta=7), "damaged .*beta must be in"),
        (lambda folder: edit(folder, k="many"), "damaged"),
        (lambda folder: (folder / "knn.safetensors").unlink(), "knn.safetensors is missing beside it"),
        (lambda folder: (folder / "knn.json").write_text("{"), "the k-NN datastore is damaged"),
        (lambda folder: (folder / "knn.json").write_text("{}"), "the k-NN datastore is damaged"),
    ],
)
def test_what_does_not_belong_to_the_model_is_refused(folder, damage, says):
    damage(folder)
    with pytest.raises(CheckpointError, match=says) as caught:
        SERForAudioClassification.from_pretrained(folder)
    assert "knn=False" in str(caught.value)
    assert SERForAudioClassification.from_pretrained(folder, knn=False).datastore is None
