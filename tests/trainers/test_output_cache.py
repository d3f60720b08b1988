"""Cached outputs equal computed ones to fp16, survive interruptions, and never serve another model."""

import contextlib
import pickle

import numpy as np
import pytest
import torch
from tiny_tspc import make_rows, make_s2p, make_tspc, s2p_collator, speech_inputs, tspc_collator

from trainers.cache import CacheError, EncoderCache, S2POutputCache, StateStore, audio_key


@pytest.fixture
def rows():
    return make_rows(12)


@pytest.mark.parametrize("window", ["padded", "trimmed"])
def test_s2p_loss_with_cached_states(rows, tmp_path, window):
    model = make_s2p(window).eval()
    cached = EncoderCache(tmp_path).attach(rows, model, speech_inputs(), batch_duration_s=1.0)
    collate = s2p_collator()
    picked = [5, 0, 7]
    from_cache = collate([cached[i] for i in picked])
    assert "input_features" not in from_cache
    computed = collate([rows[i] for i in picked])
    assert torch.equal(from_cache["labels"], computed["labels"])
    states, mask = model.encode(computed["input_features"], computed["attention_mask"])
    assert torch.equal(from_cache["encoder_attention_mask"], mask)
    torch.testing.assert_close(from_cache["encoder_states"], states, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model(**from_cache).loss, model(**computed).loss, rtol=1e-3, atol=1e-3)
    assert cached["duration_s"][:] == rows["duration_s"][:] and len(cached) == 12


def test_joint_loss_with_cached_outputs(rows, tmp_path):
    model = make_tspc().eval()
    cached = S2POutputCache(tmp_path).attach(rows, model, speech_inputs())
    collate = tspc_collator()
    from_cache, computed = collate([cached[i] for i in (3, 4)]), collate([rows[i] for i in (3, 4)])
    ids, mask, _ = model.phonemes_and_states(computed["input_features"], computed["attention_mask"])
    assert ids.shape[1] > 5
    assert torch.equal(from_cache["phoneme_ids"], ids) and torch.equal(from_cache["phoneme_attention_mask"], mask)
    torch.testing.assert_close(model(**from_cache).loss, model(**computed).loss, rtol=1e-3, atol=1e-3)


def build_count(monkeypatch):
    computed = []
    write = StateStore.write
    monkeypatch.setattr(StateStore, "write", lambda self, key, *rest: (computed.append(key), write(self, key, *rest)))
    return computed


def test_built_once_and_shared_between_data_sets(rows, tmp_path, monkeypatch):
    computed, model = build_count(monkeypatch), make_s2p()
    EncoderCache(tmp_path).attach(rows.select(range(8)), model, speech_inputs())
    distinct = len({audio_key(audio) for audio in rows["audio"]})
    EncoderCache(tmp_path).attach(rows, model, speech_inputs())
    EncoderCache(tmp_path).attach(rows.select([3, 3, 11]), model, speech_inputs())
    assert len(computed) == len(set(computed)) == distinct
    assert model.training


def test_other_weights_or_front_end_get_another_folder(rows, tmp_path):
    model = make_s2p()
    first = EncoderCache(tmp_path).attach(rows, model, speech_inputs())
    before = {path: path.read_bytes() for path in first.store.folder.iterdir()}
    with torch.no_grad():
        model.encoder.layer_norm.weight[0] += 1e-3
    second = EncoderCache(tmp_path).attach(rows, model, speech_inputs())
    assert second.store.folder != first.store.folder
    assert {path: path.read_bytes() for path in first.store.folder.iterdir()} == before
    inputs = speech_inputs()
    inputs.feature_extractor.dither = 0.5
    assert EncoderCache(tmp_path).digest(model, inputs) != EncoderCache(tmp_path).digest(model, speech_inputs())
    # What comes after the encoder does not matter to it.
    with torch.no_grad():
        model.proj_out.weight[0] += 1.0
    assert EncoderCache(tmp_path).attach(rows, model, speech_inputs()).store.folder == second.store.folder


def test_interrupted_build_goes_on(rows, tmp_path, monkeypatch):
    model, write, done = make_s2p(), StateStore.write, []

    def dies_after_five(self, key, *rest):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(key)
        write(self, key, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(StateStore, "write", dies_after_five)
        with pytest.raises(KeyboardInterrupt):
            EncoderCache(tmp_path).attach(rows, model, speech_inputs())
    # Power loss: the last payload and half an index record never reached the disk.
    (data,) = tmp_path.glob("*/part-*.bin")
    with open(data, "r+b") as file:
        file.truncate(data.stat().st_size - 10)
    with open(data.with_suffix(".idx"), "ab") as file:
        file.write(b"half a record")
    computed = build_count(monkeypatch)
    cached = EncoderCache(tmp_path).attach(rows, model, speech_inputs())
    assert not set(done[:4]) & set(computed) and done[4] in computed
    assert all(np.isfinite(cached[i]["encoder_states"]).all() for i in range(len(cached)))


def test_damage_is_found(rows, tmp_path):
    model = make_s2p()
    cached = EncoderCache(tmp_path).attach(rows, model, speech_inputs())
    (data,) = tmp_path.glob("*/part-*.bin")
    raw = bytearray(data.read_bytes())
    raw[10] ^= 255
    data.write_bytes(raw)
    with pytest.raises(CacheError, match="damaged; delete the folder"):
        [cached[i] for i in range(len(cached))]


def test_workers_open_their_own_maps(rows, tmp_path):
    cached = EncoderCache(tmp_path).attach(rows, make_s2p(), speech_inputs())
    expected = cached[2]["encoder_states"]
    assert np.array_equal(pickle.loads(pickle.dumps(cached))[2]["encoder_states"], expected)
    loader = torch.utils.data.DataLoader(cached, batch_size=4, num_workers=1, collate_fn=s2p_collator())
    assert sum(len(batch["labels"]) for batch in loader) == len(rows)


def test_refusals(rows, tmp_path):
    with pytest.raises(CacheError, match="augmentation"):
        EncoderCache(tmp_path).attach(rows, make_s2p(), speech_inputs(augmentation=object()))
    with pytest.raises(CacheError, match=r"cannot read /no/such\.wav"):
        audio_key({"path": "/no/such.wav", "bytes": None})
    store = StateStore(tmp_path / "one", 4, False)
    with pytest.raises(CacheError, match="fp16"):
        store.write(b"0" * 16, np.full((2, 4), 1e6))
    with pytest.raises(CacheError, match="delete it or choose another"):
        StateStore(tmp_path / "one", 5, False)


def test_size_is_reported(rows, tmp_path, caplog):
    with caplog.at_level("INFO", logger="trainers.cache"):
        EncoderCache(tmp_path).attach(rows, make_s2p(), speech_inputs())
    assert "MiB per hour" in caplog.text


def test_ranks_that_start_apart_leave_nothing_out(rows, tmp_path, monkeypatch):
    # Rank 1 looks at the folder when rank 0 has already written its share.
    model = make_s2p()
    monkeypatch.setattr("trainers.cache.CachedRows", lambda *arguments: None)
    monkeypatch.setattr("torch.distributed.barrier", lambda: None)
    for rank in (0, 1):
        monkeypatch.setattr("trainers.cache.rank_and_world_size", lambda rank=rank: (rank, 2))
        with contextlib.suppress(KeyError):  # the report needs the other rank's share
            EncoderCache(tmp_path).attach(rows, model, speech_inputs())
    (folder,) = tmp_path.iterdir()
    found = StateStore(folder, model.config.encoder_hidden_size, False).entries
    assert set(found) == {audio_key(audio) for audio in rows["audio"]}
