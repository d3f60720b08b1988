import pytest
import torch
from emotion2vec_kit import LABELS, inputs, make, tiny_config, waves

from models.emotion2vec import Emotion2VecConfig, Emotion2VecForAudioClassification, Emotion2VecModel
from models.emotion2vec.emotion2vec_layers import alibi_slopes, attention_bias

LENGTHS = (16_000, 9001, 200, 21_111, 5000)
VARIANTS = [
    {},
    {"layer_norm_first": True},
    {"alibi_scale_per_layer": True, "norm_affine": False},
    {"use_alibi": False, "conv_pos_depth": 4},
    {"attention_block_elements": 1},
    {"attn_implementation": "eager"},
]


@pytest.mark.parametrize("size, parameters", [("base", 93_171_212), ("large", 313_285_648)])
def test_published_sizes(size, parameters):
    # 93,790,988 with the decoder of pre-training (619,776), as counted in the original.
    with torch.device("meta"):
        model = Emotion2VecModel(Emotion2VecConfig.of_size(size))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def assert_independent_of_batch(model, waveforms, tolerance):
    batch = inputs(waveforms)
    with torch.no_grad():
        together = model(batch["input_values"].to(model.dtype), batch["attention_mask"], output_hidden_states=True)
        for row, waveform in enumerate(waveforms):
            alone = model(inputs([waveform])["input_values"].to(model.dtype), output_hidden_states=True)
            frames = alone.last_hidden_state.shape[1]
            assert together.frame_mask[row].sum() == frames == max(1, (len(waveform) - 400) // 320 + 1)
            for padded, single in zip(together.hidden_states, alone.hidden_states, strict=True):
                torch.testing.assert_close(padded[row, :frames], single[0], rtol=0, atol=tolerance)
                assert not padded[row, frames:].any()
            torch.testing.assert_close(together.pooler_output[row], alone.pooler_output[0], rtol=0, atol=tolerance)
            torch.testing.assert_close(alone.pooler_output, alone.last_hidden_state.mean(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_an_utterance_does_not_depend_on_its_batch(changes):
    # In float64, where no order of summation hides behind rounding.
    assert_independent_of_batch(make(Emotion2VecModel, **changes).double(), waves(*LENGTHS), 1e-12)


def test_nor_does_it_in_float32_at_the_published_width():
    torch.manual_seed(0)
    model = Emotion2VecModel(Emotion2VecConfig.of_size("base", num_prenet_layers=1, num_main_layers=1)).eval()
    assert_independent_of_batch(model, waves(*LENGTHS), 1e-6)


def test_outputs():
    model = make(Emotion2VecModel, attn_implementation="eager")
    output = model(**inputs(waves(*LENGTHS)), output_hidden_states=True, output_attentions=True)
    frames = (21_111 - 400) // 320 + 1
    assert output.last_hidden_state.shape == (5, frames, 32) and output.pooler_output.shape == (5, 32)
    assert len(output.hidden_states) == 1 + model.config.num_hidden_layers == 4
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert len(output.attentions) == 3
    # Every query attends to the extra tokens and to the frames of its utterance, and to nothing else.
    keys = torch.nn.functional.pad(output.frame_mask, (3, 0), value=1)
    weights = output.attentions[0]
    assert weights.shape == (5, 4, 3 + frames, 3 + frames)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))
    assert not weights.masked_select(keys[:, None, None] == 0).any()
    assert model.frame_s == 0.02
    assert isinstance(model(**inputs(waves(900)), return_dict=False), tuple)


def test_alibi_by_definition():
    slopes = alibi_slopes(6)
    expected = [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    assert slopes.tolist() == expected
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    bias = attention_bias(slopes, mask, num_extra=1, start=0, stop=5)
    assert bias.shape == (1, 6, 5, 5)
    for i in range(5):
        for j in range(4):
            distance = 0 if min(i, j) < 1 else abs(i - j)
            assert bias[0, :, i, j].tolist() == [-slope * distance for slope in expected]
    assert torch.isneginf(bias[..., 4]).all()


def test_attention_in_blocks_of_queries_is_the_same_attention():
    whole = make(Emotion2VecModel)
    blocks = make(Emotion2VecModel, attention_block_elements=1)
    batch = inputs(waves(*LENGTHS))
    with torch.no_grad():
        torch.testing.assert_close(
            whole(**batch).last_hidden_state, blocks(**batch).last_hidden_state, rtol=0, atol=2e-6
        )


@pytest.mark.parametrize("changes", [{}, {"layer_norm_first": True}, {"attention_block_elements": 1}], ids=str)
def test_every_tensor_learns(changes):
    model = make(Emotion2VecForAudioClassification, **changes).train()
    loss = model(**inputs(waves(4000, 7000, 5000)), labels=torch.tensor([0, 3, 1])).loss
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    silent = [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    assert silent == []


def test_classifier_loss_counts_utterances():
    model = make(Emotion2VecForAudioClassification)
    batch, labels = inputs(waves(4000, 7000, 5000)), torch.tensor([0, -100, 2])
    output = model(**batch, labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits[[0, 2]], labels[[0, 2]])
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(model(**batch, labels=labels, num_items_in_batch=4).loss, expected / 2)
    assert output.logits.shape == (3, len(LABELS)) and output.embeddings.shape == (3, 32)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_size": 30}, "not a multiple of num_attention_heads"),
        ({"num_main_layers": -1}, "num_main_layers is -1"),
        ({"num_main_layers": 10**9}, "config.json is damaged"),
        ({"conv_dim": [8, 8]}, "have 2, 7 and 7 values"),
        ({"hidden_dropout": 1.5}, r"must be in \[0, 1\)"),
        ({"active_labels": ["anger"]}, "must name at least one of: angry, happy"),
        ({"active_labels": []}, "must name at least one"),
    ],
)
def test_impossible_configurations_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


def test_unknown_size_is_named():
    with pytest.raises(ValueError, match="choose one of: base, large"):
        Emotion2VecConfig.of_size("huge")
