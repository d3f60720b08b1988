"""The emotion classifier as a whole: configuration, shapes, losses, cache, saving and loading."""

import json

import pytest
import torch
from ser_kit import CONFIGS, WINNER, make_config, make_ser, make_waveforms
from transformers import AutoModelForAudioClassification

from models.ser import CheckpointError, SERConfig, SERForAudioClassification

MANY = (("wavlm", "mix"), ("whisper", 1), ("emotion2vec", 2))
CROSS = {"fusion": "cross_attention", "text_vocab_size": 11}
CASES = {
    "winner": (WINNER, {"head": "speechformer"}),
    "winner_exact": (WINNER, {"head": "speechformer", "speechformer_exact": True, "speechformer_frames": 60}),
    "layer_linear": ((("wav2vec2", 1),), {"head": "linear"}),
    "mix_mlp": ((("hubert", "mix"), ("wav2vec2", 2)), {"pooling": "attentive_statistics"}),
    "cross_attention": (MANY, CROSS),
    "cross_speechformer": (MANY, {**CROSS, "head": "speechformer", "supcon_weight": 0.3}),
}


def make(case, **changes):
    encoders, options = CASES[case]
    return make_ser(encoders, **{**options, **changes})


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_padding_changes_nothing(case):
    model = make(case)
    waveforms, mask = make_waveforms()
    batch = model(waveforms, mask)
    assert batch.logits.shape == (3, 2) and batch.embedding.shape == (3, model.head.embedding_size)
    torch.testing.assert_close(batch.probabilities.sum(1), torch.ones(3))
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = model(waveforms[row : row + 1, :length])
        torch.testing.assert_close(batch.logits[row], alone.logits[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(batch.embedding[row], alone.embedding[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_everything_that_is_trained_moves(case):
    model = make(case, supcon_weight=0.4, head_dropout=0.0, head_size=32).train()
    if model.head.speechformer is not None:  # 4 wide at this size, and ReLU may leave nothing of it
        torch.nn.init.constant_(model.head.hidden[-1].bias, 1.0)
        torch.nn.init.constant_(model.projection[0].bias, 1.0)
    waveforms, mask = make_waveforms((16_000, 9_011, 8_000, 12_000))
    text = {"input_ids": torch.tensor([[1, 2, 3]] * 4)} if model.config.text_vocab_size else {}
    output = model(waveforms, mask, labels=torch.tensor([0, 1, 0, 1]), **text)
    output.loss.backward()
    assert output.probabilities is None
    still = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert all(name.endswith(("k_proj.bias", "score.bias", "word_tokens")) for name in still), still


def test_the_loss_is_a_sum_over_labelled_utterances():
    model = make_ser(supcon_weight=0.25, class_weights=[1.0, 3.0], label_smoothing=0.1)
    waveforms, mask = make_waveforms((9_000, 8_000, 7_000, 6_000, 5_000))
    labels = torch.tensor([0, 1, -100, 1, 0])
    output = model(waveforms, mask, labels=labels)
    torch.testing.assert_close(output.loss, 0.75 * output.ce_loss + 0.25 * output.supcon_loss)
    assert output.num_skipped == 0
    by_eight = model(waveforms, mask, labels=labels, num_items_in_batch=torch.tensor(8))
    torch.testing.assert_close(by_eight.loss, output.loss * 4 / 8)
    assert torch.equal(model(waveforms, mask, labels=labels, return_dict=False)[0], output.loss)
    # Two micro-batches add up to the whole; the contrastive loss compares within a micro-batch.
    plain = make_ser()
    whole = plain(waveforms, mask, labels=labels).loss
    parts = [
        plain(waveforms[part], mask[part], labels=labels[part], num_items_in_batch=4).loss
        for part in (slice(0, 2), slice(2, 5))
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_one_class_and_no_labels():
    model = make_ser(supcon_weight=0.5).train()
    waveforms, mask = make_waveforms((5_000, 4_000))
    one = model(waveforms, mask, labels=torch.tensor([1, 1]))
    assert one.supcon_loss == 0 and one.num_skipped == 2 and one.loss == 0.5 * one.ce_loss
    none = model(waveforms, mask, labels=torch.tensor([-100, -100]))
    none.loss.backward()
    assert none.loss == 0
    with pytest.raises(ValueError, match=r"labels hold \[0, 2\]; the classes are 0 to 1 \(neutral, negative\)"):
        model(waveforms, mask, labels=torch.tensor([0, 2]))


@pytest.mark.parametrize("case", ["winner", "mix_mlp", "cross_attention"])
@torch.no_grad()
def test_cached_features_give_the_same(case):
    model = make(case)
    waveforms, mask = make_waveforms()
    expected = model(waveforms, mask)
    features, masks = model.encode(waveforms, mask, model.cacheable)
    # As a cache keeps them: half precision, true frames, padded again with whatever is there.
    garbage = {}
    for name, one in features.items():
        hidden = masks[name].view(*masks[name].shape, *[1] * (one.ndim - 2)) == 0
        garbage[name] = one.half().masked_fill(hidden, torch.nan)
    cached = model(encoder_features=garbage, encoder_masks=masks)
    torch.testing.assert_close(cached.logits, expected.logits, atol=5e-3, rtol=0)
    exact = model(encoder_features=features, encoder_masks=masks)
    assert torch.equal(exact.logits, expected.logits)
    # One from the cache, the others from the waveform.
    name = model.cacheable[-1]
    mixed = model(waveforms, mask, encoder_features={name: features[name]}, encoder_masks={name: masks[name]})
    assert torch.equal(mixed.logits, expected.logits)


def test_missing_inputs_teach():
    model = make_ser()
    waveforms, mask = make_waveforms((4_000,))
    features, _ = model.encode(waveforms, mask)
    for inputs, says in (
        ({}, "needs input_values, or cached encoder_features of: wav2vec2, emotion2vec"),
        ({"encoder_features": features}, "without encoder_masks: emotion2vec, wav2vec2"),
        ({"encoder_features": {"x": waveforms}, "encoder_masks": {"x": mask}}, "no encoder x; there are: wav2vec2"),
        ({"input_values": waveforms[0]}, r"shape \(4000,\); give waveforms"),
        ({"input_values": waveforms, "attention_mask": mask[:, :5]}, "one value for each sample"),
        ({"input_values": waveforms, "input_ids": torch.ones(1, 2).long()}, "'concat' reads no text"),
    ):
        with pytest.raises(ValueError, match=says):
            model(**inputs)


@torch.no_grad()
def test_text_is_read_and_an_empty_transcript_is_none():
    model = make("cross_attention")
    with torch.no_grad():
        model.fusion.text_embedding.weight.mul_(50)
    waveforms, mask = make_waveforms((9_000, 9_000))
    without = model(waveforms, mask)
    ids = torch.tensor([[3, 4, 5], [7, 0, 0]])
    text_mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
    read = model(waveforms, mask, input_ids=ids, text_attention_mask=text_mask)
    assert not torch.allclose(read.logits[0], without.logits[0], atol=1e-4)
    torch.testing.assert_close(read.logits[1], without.logits[1])
    # One encoder and text: an empty transcript leaves nothing else to attend to.
    alone = make_ser((("wav2vec2", 1),), **CROSS)
    assert alone(waveforms, mask, input_ids=ids, text_attention_mask=text_mask * 0).logits.isfinite().all()


@torch.no_grad()
def test_silence_and_one_sample_are_classified():
    mask = torch.zeros(2, 8_000, dtype=torch.long)
    mask[0], mask[1, 0] = 1, 1
    for case in CASES:
        assert make(case)(torch.zeros(2, 8_000), mask).probabilities.isfinite().all()


def test_unknown_inputs_are_refused():
    with pytest.raises(TypeError, match="label"):
        make_ser()(make_waveforms((4_000,))[0], label=torch.tensor([0]))


def test_published_size_of_the_winner():
    sizes = {"wav2vec2": {}, "emotion2vec": {}}
    config = SERConfig(
        encoders=[
            {"kind": "wav2vec2", "config": sizes["wav2vec2"], "features": "conv"},
            {"kind": "emotion2vec", "config": sizes["emotion2vec"], "features": 12},
        ],
        head="speechformer",
        speechformer_exact=True,
        id2label=dict(enumerate(["angry", "happy", "neutral", "sad"])),
    )
    with torch.device("meta"):
        model = SERForAudioClassification(config)
    assert [part.size for part in model.branches] == [512, 768]
    assert round(sum(parameter.numel() for parameter in model.head.parameters()) / 1e6, 2) == 106.98


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoders": []}, "at least one encoder"),
        ({"encoders": [{"kind": "mfcc"}]}, r"encoders\[0\].kind is 'mfcc'; it must be one of"),
        ({"encoders": [{"kind": "hubert", "layers": 3}]}, "unknown fields layers; allowed are"),
        ({"encoders": [{"kind": "hubert", "features": 13}]}, "'mix' or a layer from 0 to 12"),
        ({"encoders": [{"kind": "whisper", "features": "conv"}]}, "which a whisper does not have"),
        ({"encoders": [{"kind": "hubert", "config": {"model_type": "bert"}}]}, "model_type 'bert' but kind is"),
        ({"encoders": [{"kind": "hubert"}, {"kind": "hubert"}]}, "give each its own `name`"),
        ({"encoders": [{"kind": "hubert", "name": "a b"}]}, "must be an identifier"),
        ({"encoders": [{"kind": "hubert", "config": {"hidden_size": 10**6}}]}, "at most 1e\\+10"),
        ({"fusion": "sum"}, "'concat', 'cross_attention'"),
        ({"head": "svm"}, "'linear', 'mlp', 'speechformer'"),
        ({"pooling": "max"}, "SERConfig.pooling is 'max'"),
        ({"fusion": "cross_attention", "encoders": [{"kind": "hubert"}]}, "nothing to attend to"),
        ({"fusion": "cross_attention", "fusion_heads": 3}, "not a multiple of fusion_heads"),
        ({"text_vocab_size": 10}, "only fusion='cross_attention' reads text"),
        ({"supcon_weight": 1.5}, r"must be in \[0, 1\]"),
        ({"supcon_temperature": 0}, "must be positive"),
        ({"label_smoothing": 1}, r"must be in \[0, 1\)"),
        ({"class_weights": [1.0]}, "give 2 factors of at least 0, one for each of: neutral, negative"),
        ({"id2label": {0: "a"}}, "at least two classes"),
        ({"id2label": {0: "a", 2: "b"}}, "keys must be 0, 1"),
        ({"speechformer_layers": [1, 2]}, "the four stages"),
    ],
)
def test_bad_configurations_teach(changes, says):
    with pytest.raises(ValueError, match=says):
        SERConfig(**{"encoders": [{"kind": "hubert"}, {"kind": "emotion2vec"}], **changes})


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="set speechformer_projection"):
        make_ser(head="speechformer", speechformer_heads=3)
    assert make_ser(head="speechformer", speechformer_heads=3, speechformer_projection=12).head.embedding_size == 3


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(case, tmp_path):
    model = make(case, id2label={0: "calm", 1: "cross", 2: "glad"})
    model.save_pretrained(tmp_path)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    assert type(loaded) is SERForAudioClassification and loaded.config.label2id == {"calm": 0, "cross": 1, "glad": 2}
    waveforms, mask = make_waveforms()
    assert torch.equal(loaded(waveforms, mask).logits, model(waveforms, mask).logits)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in loaded.named_parameters() if parameter.requires_grad} == trained


def test_a_head_that_is_missing_is_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    make_ser().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.classifier")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"2 tensors are missing: head\.classifier\.bias"):
        SERForAudioClassification.from_pretrained(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path):
    make_ser().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "head_size": 13}))
    with pytest.raises(CheckpointError, match=r"head\.\S+ has shape .* by config\.json"):
        SERForAudioClassification.from_pretrained(tmp_path)


def save_encoder(kind, folder, seed=0):
    """A checkpoint of a stock encoder, as they lie on the Hub."""
    from transformers import HubertModel, Wav2Vec2ForCTC, WavLMModel, WhisperForConditionalGeneration

    from models.emotion2vec import Emotion2VecModel
    from models.ser.encoders_ser import KINDS

    torch.manual_seed(seed)
    classes = {"wav2vec2": Wav2Vec2ForCTC, "hubert": HubertModel, "wavlm": WavLMModel,
               "whisper": WhisperForConditionalGeneration, "emotion2vec": Emotion2VecModel}  # fmt: skip
    model_class = classes[kind]
    config_class = model_class.config_class if kind == "emotion2vec" else KINDS[kind][0]
    model = model_class(config_class(**CONFIGS[kind])).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_encoders_of_checkpoints_are_copied_whole(kind, tmp_path):
    source = save_encoder(kind, tmp_path)
    for features in ("mix", 1, *(["conv"] if kind != "whisper" else [])):
        model = SERForAudioClassification.from_encoders(
            [{"path": str(tmp_path), "features": features}], {"head": "linear", "id2label": {0: "a", 1: "b"}}
        )
        part = model.encoders[kind]
        assert not part.model.training and str(tmp_path) not in json.dumps(model.config.encoders)
        tensors = source.state_dict()
        for name, tensor in part.model.state_dict().items():
            found = [other for key, other in tensors.items() if key.endswith(name) and other.shape == tensor.shape]
            assert any(torch.equal(tensor, other) for other in found), name
        model.save_pretrained(tmp_path / f"ser_{features}")
        again = SERForAudioClassification.from_pretrained(tmp_path / f"ser_{features}")
        waveforms, mask = make_waveforms((6_000, 3_000))
        assert torch.equal(again(waveforms, mask).logits, model(waveforms, mask).logits)


def test_an_encoder_without_all_tensors_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save_encoder("hubert", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layers.0.final_layer_norm.bias"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 tensors of the encoder hubert: encoder\.layers\.0"):
        SERForAudioClassification.from_encoders([{"path": str(tmp_path), "features": 1}])
    # What the features do not need may be missing.
    SERForAudioClassification.from_encoders([{"path": str(tmp_path), "features": 0}])


def test_other_architectures_are_refused(tmp_path):
    from transformers import BertConfig

    BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'bert' checkpoint; emotion classifiers take encoders of: wav2vec2"):
        SERForAudioClassification.from_encoders([{"path": str(tmp_path)}])
    with pytest.raises(ValueError, match="give its `path`"):
        SERForAudioClassification.from_encoders([{"features": 3}])


def test_normalisation_follows_the_checkpoint(tmp_path):
    from transformers import Wav2Vec2FeatureExtractor

    from models.ser.loading_ser import read_encoder

    save_encoder("wavlm", tmp_path)
    assert read_encoder(str(tmp_path))["normalise"] is False  # group norm
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    assert read_encoder(str(tmp_path))["normalise"] is True


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper", "emotion2vec", "fastconformer", "zipformer"])
def test_normalisation_follows_the_kind_where_nothing_is_said(kind):
    """Encoders of log-mel frames were trained on waveforms as they were recorded."""
    encoder = {"kind": kind, "config": CONFIGS.get(kind, {})}
    specs = [SERConfig(encoders=[{**encoder, **said}]).encoder_specs[0] for said in ({}, {"normalise": True})]
    assert [spec.normalise for spec in specs] == [kind in ("wav2vec2", "emotion2vec"), True]


def test_gradient_checkpointing_changes_nothing():
    for case in ("winner", "cross_attention"):
        encoders, options = CASES[case]
        model = make_ser(encoders, frozen=False, **{**options, "dropout": 0.0, "head_dropout": 0.0})
        waveforms, mask = make_waveforms((8_000, 6_000))
        gradients = []
        for _ in range(2):
            model.zero_grad()
            # Evaluation mode keeps the encoders' own dropout out; checkpointing needs training mode of its layers.
            for module in model.modules():
                module.training = not isinstance(module, torch.nn.Dropout)
            for part in model.branches:
                part.model.eval()
            model(waveforms, mask, labels=torch.tensor([0, 1])).loss.backward()
            gradients.append(model.head.classifier.weight.grad.clone())
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.testing.assert_close(gradients[0], gradients[1])


def test_make_config_is_plain_data():
    config = make_config()
    assert SERConfig.from_dict(json.loads(config.to_json_string())).to_dict() == config.to_dict()
