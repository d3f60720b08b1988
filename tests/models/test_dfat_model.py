"""DFAT as a model and as a pipeline: streams, pooling, empty transcripts, silence, long clips, a fresh process."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from dfat_kit import MFCC, TEXTS, WAV2VEC2, complete, inputs, make_dfat, save, tokenizer
from ser_kit import make_waveforms, speech
from transformers import pipeline

from models.dfat import DFATConfig, DFATForAudioClassification, DFATPipeline, TextNetwork
from models.dfat.pooling_dfat import FACTORS, QUANTILES, pool
from models.dfat.text_dfat import read_empty

TASK = "audio-classification"
LOCAL = {"pipeline_class": DFATPipeline, "trust_remote_code": False, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("dfat"), make_dfat())


@pytest.fixture
def dfat(folder):
    return pipeline(TASK, model=str(folder), **LOCAL)


def scores(result):
    return {entry["label"]: entry["score"] for entry in result}


def test_every_linked_file_finds_its_siblings():
    """Files of other model folders may begin to import further ones, which then must be linked here too."""
    here = Path(__file__).resolve().parents[2] / "models" / "dfat"
    for path in here.glob("*.py"):
        assert path.exists(), f"{path.name} is a broken link"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert (here / f"{node.module}.py").is_file(), f"{path.name} imports {node.module}: link it here"


@pytest.mark.parametrize("pooling", list(FACTORS))
def test_pooling_is_numpy_on_the_true_frames(pooling):
    frames = torch.randn(4, 9, 3, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([9, 5, 2, 1])
    found = pool(frames, lengths, pooling).numpy()
    assert found.shape == (4, 3 * FACTORS[pooling])
    for row, length in enumerate(lengths.tolist()):
        true = frames[row, :length].double().numpy()
        expected = [true.mean(0)]
        if pooling != "mean":
            expected.append(true.std(0))
        if pooling == "functionals":
            expected += [np.quantile(true, quantile, axis=0) for quantile in QUANTILES]
            time = np.linspace(-1, 1, length)
            expected.append(np.polyfit(time, true, 1)[0] if length > 1 else np.zeros(3))
        np.testing.assert_allclose(found[row], np.concatenate(expected), atol=1e-5)
    garbage = frames.clone()
    garbage[1, 5:] = float("nan")
    np.testing.assert_array_equal(pool(garbage, lengths, pooling).numpy(), found)


@pytest.mark.parametrize("network", ["gru", "transformer"])
def test_a_transcript_does_not_see_its_padding(network):
    config = make_dfat(text_network=network).config
    text = TextNetwork(config).eval()
    ids = torch.tensor([[2, 3, 4, 5], [6, 7, 0, 0], [0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    together = text.features(ids, mask)
    torch.testing.assert_close(text.features(ids[1:2, :2], mask[1:2, :2]), together[1:2])
    torch.testing.assert_close(text.features(ids.masked_fill(mask == 0, 9), mask), together)
    # An empty transcript reads as one padding token, however it is written.
    for empty in (torch.zeros(1, 0).long(), torch.zeros(1, 3).long()):
        torch.testing.assert_close(text.features(empty, torch.zeros_like(empty)), together[2:])
    torch.testing.assert_close(text.features(torch.zeros(1, 1).long(), torch.ones(1, 1).long()), together[2:])
    long = torch.full((1, 300), 3)
    torch.testing.assert_close(
        text.features(long, torch.ones_like(long)), text.features(long[:, :256], torch.ones(1, 256).long())
    )
    assert read_empty(torch.tensor([[5, 5]]), torch.tensor([[1, 0]]))[0].tolist() == [[5, 0]]


@pytest.mark.parametrize("encoder", [MFCC, WAV2VEC2], ids=["mfcc", "wav2vec2"])
def test_a_batch_gives_what_each_gives_alone(encoder):
    model = make_dfat(encoder=encoder, pooling="functionals")
    batch = inputs()
    together = model(**batch)
    for row in range(3):
        samples, tokens = int(batch["attention_mask"][row].sum()), int(batch["text_attention_mask"][row].sum())
        alone = model(
            input_values=batch["input_values"][row : row + 1, :samples],
            input_ids=batch["input_ids"][row : row + 1, :tokens],
        )
        torch.testing.assert_close(alone.features, together.features[row : row + 1], atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(alone.probabilities.sum(), torch.tensor(1.0))


def test_streams_and_members_are_switches():
    batch = inputs()
    both = make_dfat()
    assert both.num_features["joint"] == both.num_features["acoustic"] + both.num_features["text"]
    assert both(**batch).features.shape == (3, both.num_features["joint"])
    acoustic = make_dfat(text_vocab_size=None, members=[{"classifier": "lr", "stream": "joint"}])
    assert acoustic.text is None and not any(name.startswith("text") for name in acoustic.state_dict())
    torch.testing.assert_close(acoustic(**batch).features, both(**batch).features[:, : both.num_features["acoustic"]])
    text = make_dfat(encoder=None)
    assert text.encoder is None and text(**batch).features.shape == (3, 8)
    assert text(input_ids=batch["input_ids"], text_attention_mask=batch["text_attention_mask"]).logits.shape == (3, 3)
    late = [{"classifier": kind, "stream": stream} for stream in ("acoustic", "text") for kind in ("lr", "xgb")]
    model = make_dfat(members=late, fusion="late_streams")
    output = model(**batch)
    assert [member.name for member in model.members] == ["acoustic_lr", "acoustic_xgb", "text_lr", "text_xgb"]
    torch.testing.assert_close(output.probabilities, output.member_probabilities.mean(1))
    silent_text = model(**{**batch, "input_ids": torch.zeros(3, 1).long(), "text_attention_mask": torch.zeros(3, 1)})
    torch.testing.assert_close(silent_text.member_probabilities[:, :2], output.member_probabilities[:, :2])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": None, "text_vocab_size": None}, "at least one stream"),
        ({"pooling": "max"}, "pooling"),
        ({"text_network": "lstm"}, "text_network"),
        ({"fusion": "late"}, "fusion"),
        ({"members": []}, "members"),
        ({"members": [{"classifier": "svm", "stream": "joint"}]}, "classifier"),
        ({"members": [{"classifier": "lr", "stream": "text"}], "text_vocab_size": None}, "stream"),
        ({"members": [{"classifier": "lr", "stream": "joint"}] * 2}, "twice"),
        ({"members": [{"classifier": "lr"}]}, "classifier, stream"),
        ({"text_size": 7}, "even"),
        ({"text_network": "transformer", "text_num_heads": 4}, "multiple"),
        ({"text_dropout": 1.0}, "text_dropout"),
        ({"id2label": {0: "one"}}, "two or more"),
        ({"encoder": {"kind": "wav2vec2", "config": {}}}, "mix"),
        ({"encoder": {"kind": "cnn"}}, "kind"),
    ],
)
def test_what_cannot_be_built_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        make_dfat(**changes)


def test_inputs_that_cannot_be_are_named():
    model, batch = make_dfat(), inputs()
    with pytest.raises(ValueError, match="give input_values"):
        model(input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match="attention_mask has shape"):
        model(**{**batch, "attention_mask": batch["attention_mask"][:, 1:]})
    with pytest.raises(ValueError, match="vocabulary"):
        model(**{**batch, "input_ids": batch["input_ids"] + 1000})
    bare = DFATForAudioClassification(model.config)
    with pytest.raises(ValueError, match="no classifiers"):
        bare(**batch)
    with pytest.raises(ValueError, match="no classifiers"):
        bare.save_pretrained("nowhere")
    with pytest.raises(ValueError, match="sum"):
        complete(bare, weights={"lr": 0.5, "rf": 0.2, "xgb": 0.2})
    with pytest.raises(ValueError, match="push_to_hub"):
        model.save_pretrained("nowhere", push_to_hub=True)


def test_waveforms_full_of_garbage_behind_their_end_change_nothing():
    model = make_dfat(encoder=WAV2VEC2)
    waveforms, mask = make_waveforms((9_000, 4_000))
    changed = waveforms.clone()
    changed[1, 4_000:] = 7.0
    torch.testing.assert_close(
        model.acoustic_features(changed, mask), model.acoustic_features(waveforms, mask), atol=1e-5, rtol=1e-4
    )


def test_the_pipeline_reads_audio_and_text(dfat, folder):
    audio, text = speech(1.0), TEXTS[1]
    encoded = tokenizer()(text, return_tensors="pt")
    output = dfat.model(
        torch.from_numpy(audio)[None], input_ids=encoded["input_ids"], text_attention_mask=encoded["attention_mask"]
    )
    expected = dict(zip(["neutral", "angry", "sad"], output.probabilities[0].tolist(), strict=True))
    for source in ({"array": audio}, {"raw": audio}, {"raw": np.stack([audio, audio])}):
        assert scores(dfat({**source, "sampling_rate": 16_000, "text": text})) == pytest.approx(expected, abs=1e-6)
    # Case, punctuation and Unicode form are not what is said.
    assert scores(dfat({"array": audio, "sampling_rate": 16_000, "text": "MÀY đi đâu đấy?!"})) == pytest.approx(
        expected
    )
    other = scores(dfat({"array": audio, "sampling_rate": 16_000, "text": TEXTS[0]}))
    assert other != pytest.approx(expected, abs=1e-6)
    batch = [{"array": speech(s, seed=i), "sampling_rate": 16_000, "text": TEXTS[i]} for i, s in enumerate((1, 0.3))]
    for one, other in zip(dfat(batch, batch_size=2), [dfat(item) for item in batch], strict=True):
        assert scores(one) == pytest.approx(scores(other), abs=1e-4)
    assert len(dfat(audio, top_k=1)) == 1
    with pytest.raises(ValueError, match="unknown options knn; there are: top_k, piece_s, recogniser"):
        dfat(audio, knn=False)
    with pytest.raises(ValueError, match="unknown options topk; there are: top_k, piece_s, recogniser"):
        dfat(audio, topk=1)


def test_no_transcript_is_an_empty_one_and_is_said_once(dfat, caplog):
    audio = speech(1.0)
    empty = scores(dfat({"array": audio, "sampling_rate": 16_000, "text": "  "}))
    assert scores(dfat(audio)) == empty == scores(dfat({"array": audio, "sampling_rate": 16_000, "text": "?!"}))
    assert sum("count as empty" in record.message for record in caplog.records) == 1
    assert scores(dfat(audio)) == pytest.approx(
        dict(zip(["neutral", "angry", "sad"], dfat.model(torch.from_numpy(audio)[None]).probabilities[0].tolist(),
                 strict=True)), abs=1e-6,
    )  # fmt: skip


def test_a_recogniser_makes_the_transcripts(folder, caplog):
    heard = []

    def recogniser(audio):
        heard.append(len(audio["raw"]))
        return {"text": TEXTS[1]}

    dfat = pipeline(TASK, model=str(folder), recogniser=recogniser, **LOCAL)
    audio = speech(1.0)
    given = {"array": audio, "sampling_rate": 16_000, "text": TEXTS[1]}
    assert scores(dfat(audio)) == scores(dfat(given)) and heard == [16_000]
    assert not [record for record in caplog.records if "count as empty" in record.message]
    plain = pipeline(TASK, model=str(folder), **LOCAL)
    assert scores(plain(audio, recogniser=recogniser)) == scores(dfat(given))


def test_silence_and_ten_minutes_have_probabilities(dfat):
    for clip in (np.zeros(16_000, np.float32), np.zeros(1, np.float32), speech(600.0)):
        found = scores(dfat(clip))
        assert sum(found.values()) == pytest.approx(1) and all(np.isfinite(value) for value in found.values())
    features = dfat.model.acoustic_features(torch.zeros(1, 16_000))
    assert features.isfinite().all()
    # The second half are deviations: nothing moves in silence.
    assert features[0, features.shape[1] // 2 :].abs().max() < 1e-5


def test_a_recogniser_for_a_model_without_text_is_refused(tmp_path):
    save(tmp_path, make_dfat(text_vocab_size=None))
    with pytest.raises(ValueError, match="reads no transcripts"):
        pipeline(TASK, model=str(tmp_path), recogniser=lambda audio: {"text": ""}, **LOCAL)
    assert len(pipeline(TASK, model=str(tmp_path), **LOCAL)(speech(0.5))) == 3


@pytest.mark.slow
def test_a_fresh_process_needs_the_folder_alone(folder, dfat, tmp_path):
    audio = speech(1.0)
    np.save(tmp_path / "audio.npy", audio)
    script = f"""
        import sys
        import numpy as np
        from transformers import pipeline
        dfat = pipeline("audio-classification", model={str(folder)!r}, trust_remote_code=True, device="cpu")
        audio = {{"array": np.load({str(tmp_path / "audio.npy")!r}), "sampling_rate": 16_000, "text": {TEXTS[1]!r}}}
        assert not any(name.split(".")[0] in ("models", "trainers") for name in sys.modules)
        print(sorted((entry["label"], round(entry["score"], 5)) for entry in dfat(audio)))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    expected = dfat({"array": audio, "sampling_rate": 16_000, "text": TEXTS[1]})
    assert result.stdout.strip() == str(sorted((entry["label"], round(entry["score"], 5)) for entry in expected))


def test_the_configuration_survives_its_file(tmp_path):
    config = make_dfat().config
    config.save_pretrained(tmp_path)
    again = DFATConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict() and again.streams == ["acoustic", "text"]
    assert DFATConfig().streams == [] and DFATConfig().encoder_specs == []
