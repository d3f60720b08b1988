"""Cached features of frozen encoders equal computed ones to half precision, survive interruptions, and are shared."""

import contextlib
import io
import pickle

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset

from models.ser import SERConfig, SERForAudioClassification, build_feature_extractor
from trainers.cache import CacheError, StateStore, audio_key
from trainers.collators import SpeechInputs
from trainers.ser_cache import FeatureCache, pad_features
from trainers.ser_rows import apply_labels

STACKED = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
MIX = {"kind": "hubert", "config": STACKED, "features": "mix"}
LAYER = {"kind": "wav2vec2", "config": STACKED, "features": 1}
BANK = {"kind": "filterbank", "config": {"num_mel_bins": 20}}


def encoded(seconds, seed):
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16_000))
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="wav")
    return {"path": None, "bytes": file.getvalue()}


@pytest.fixture(scope="module")
def rows():
    seconds = [0.2 + 0.05 * (i % 5) for i in range(10)]
    audio = [encoded(duration, seed=i) for i, duration in enumerate(seconds)]
    audio[7] = audio[2]
    return Dataset.from_dict(
        {
            "id": [f"u{i}" for i in range(10)],
            "audio": audio,
            "duration_s": seconds,
            "emotion": ["neutral", "sad"] * 5,
            "corpus": ["x"] * 10,
        }
    )


def make_model(encoders=(MIX, LAYER, BANK), seed=0):
    torch.manual_seed(seed)
    return SERForAudioClassification(SERConfig(encoders=list(encoders), head_size=8, head_dropout=0.0))


def speech_inputs(augmentation=None):
    return SpeechInputs(build_feature_extractor(), augmentation=augmentation)


def heard(rows):
    batch = speech_inputs()(rows)
    return {"input_values": batch["input_features"], "attention_mask": batch["attention_mask"]}


def build_count(monkeypatch):
    written = []
    write = StateStore.write
    monkeypatch.setattr(
        StateStore, "write", lambda self, key, *rest: (written.append((self.folder, key)), write(self, key, *rest))
    )
    return written


def test_the_head_sees_the_same(rows, tmp_path):
    model = make_model()
    labelled, _ = apply_labels(rows, {"neutral": ["neutral"], "negative": ["sad"]})
    cached = FeatureCache(tmp_path).attach(labelled, model, speech_inputs(), batch_duration_s=1.0)
    assert model.training and len(cached) == 10 and "audio" not in cached.column_names
    picked = [5, 0, 7]
    items = [cached[i] for i in picked]
    assert [item["label"] for item in items] == [1, 0, 1] and "audio" not in items[0]
    shapes = {name: one.shape[1:] for name, one in items[0]["encoder_features"].items()}
    assert shapes == {"hubert": (3, 16), "wav2vec2": (16,), "filterbank": (20,)}
    assert all(one.dtype == np.float16 for one in items[0]["encoder_features"].values())
    features, masks = pad_features([item["encoder_features"] for item in items])
    model.eval()
    with torch.no_grad():
        expected = model(**heard([rows[i] for i in picked]))
        found = model(encoder_features=features, encoder_masks=masks)
    torch.testing.assert_close(found.logits, expected.logits, atol=3e-3, rtol=0)
    assert torch.equal(found.attention_mask, expected.attention_mask)
    assert cached["duration_s"][:] == rows["duration_s"][:]


def test_trained_encoders_keep_their_audio(rows, tmp_path):
    model = make_model((MIX, {**LAYER, "frozen": False}))
    cached = FeatureCache(tmp_path).attach(rows, model, speech_inputs())
    item = cached[3]
    assert list(item["encoder_features"]) == ["hubert"] and item["audio"]["bytes"] == rows[3]["audio"]["bytes"]
    features, masks = pad_features([item["encoder_features"]])
    model(**heard([item]), encoder_features=features, encoder_masks=masks, labels=torch.tensor([1]))
    # An adapter makes a frozen encoder trainable.
    model.encoders["hubert"].model.feature_projection.requires_grad_(True)
    assert model.cacheable == []
    with pytest.raises(CacheError, match="no encoder is frozen"):
        FeatureCache(tmp_path).attach(rows, model, speech_inputs())


def test_computed_once_and_shared_between_models_and_data_sets(rows, tmp_path, monkeypatch):
    written, model = build_count(monkeypatch), make_model()
    FeatureCache(tmp_path).attach(rows.select(range(6)), model, speech_inputs())
    FeatureCache(tmp_path).attach(rows, model, speech_inputs())
    distinct = len({audio_key(audio) for audio in rows["audio"]})
    assert distinct == 9 and len(written) == len(set(written)) == 3 * distinct
    # The same encoder beside another one, under two names, and a head of its own: nothing new to compute.
    other = make_model(({**MIX, "name": "one"}, {**MIX, "name": "two"}), seed=1)
    other.encoders["one"].load_state_dict(model.encoders["hubert"].state_dict())
    other.encoders["two"].load_state_dict(model.encoders["hubert"].state_dict())
    cached = FeatureCache(tmp_path).attach(rows, other, speech_inputs())
    assert len(written) == 3 * distinct and list(cached[0]["encoder_features"]) == ["one", "two"]
    # Fresh weights under two names: once.
    twins = make_model(({**MIX, "name": "one"}, {**MIX, "name": "two"}), seed=2)
    twins.encoders["two"].load_state_dict(twins.encoders["one"].state_dict())
    FeatureCache(tmp_path).attach(rows, twins, speech_inputs())
    assert len(written) == 4 * distinct


def test_what_decides_the_features_decides_the_folder():
    cache, model = FeatureCache("unused"), make_model()
    digests = {name: cache.digest(model, name, speech_inputs()) for name in model.cacheable}
    assert digests == {name: cache.digest(model, name, speech_inputs()) for name in model.cacheable}
    with torch.no_grad():
        model.encoders["wav2vec2"].model.encoder.layer_norm.weight[0] += 1e-3
        model.encoders["hubert"].layer_weights[0] += 1.0  # the mix is trained with the head
    assert cache.digest(model, "hubert", speech_inputs()) == digests["hubert"]
    changed = [
        (model, "wav2vec2"),
        (make_model((LAYER, {**MIX, "features": 2})), "hubert"),
        (make_model((MIX, {**LAYER, "normalise": False})), "wav2vec2"),
        (make_model(({**BANK, "normalise": False},)), "filterbank"),
        (make_model(({**BANK, "config": {"num_mel_bins": 20, "style": "plain"}},)), "filterbank"),
    ]
    for other, name in changed:
        assert cache.digest(other, name, speech_inputs()) != digests[name]
    inputs = speech_inputs()
    inputs.feature_extractor.do_normalize = True
    assert cache.digest(model, "hubert", inputs) != digests["hubert"]


def test_interrupted_build_goes_on(rows, tmp_path, monkeypatch):
    model, write, done = make_model(), StateStore.write, []

    def dies(self, key, *rest):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append((self.folder, key))
        write(self, key, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(StateStore, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            FeatureCache(tmp_path).attach(rows, model, speech_inputs(), batch_duration_s=0.5)
    assert model.training
    written = build_count(monkeypatch)
    cached = FeatureCache(tmp_path).attach(rows, model, speech_inputs())
    assert not set(done) & set(written) and len(done) + len(written) == 27
    assert all(np.isfinite(one).all() for i in range(10) for one in cached[i]["encoder_features"].values())


def test_damage_is_found(rows, tmp_path):
    cached = FeatureCache(tmp_path).attach(rows, make_model((LAYER,)), speech_inputs())
    (part,) = tmp_path.glob("*/part-*.bin")
    raw = bytearray(part.read_bytes())
    raw[10] ^= 255
    part.write_bytes(raw)
    with pytest.raises(CacheError, match="damaged; delete the folder"):
        [cached[i] for i in range(len(cached))]


def test_ranks_share_the_work(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.distributed.barrier", lambda: None)
    written, model = build_count(monkeypatch), make_model()
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr("trainers.cache.rank_and_world_size", lambda rank=rank: (rank, 2))
        with contextlib.suppress(KeyError):  # the report of the first needs the other's share
            FeatureCache(tmp_path).attach(rows, model, speech_inputs())
        shares.append(len(written))
    assert shares == [15, 27] and len(set(written)) == 27


def test_workers_open_their_own_maps(rows, tmp_path):
    cached = FeatureCache(tmp_path).attach(rows, make_model(), speech_inputs())
    expected = cached[2]["encoder_features"]["hubert"]
    assert np.array_equal(pickle.loads(pickle.dumps(cached))[2]["encoder_features"]["hubert"], expected)


def test_augmented_audio_is_refused(rows, tmp_path):
    with pytest.raises(CacheError, match="turn augmentation off"):
        FeatureCache(tmp_path).attach(rows, make_model(), speech_inputs(augmentation=object()))
