"""Attention limited to a window and global frames, against its definition as full attention with a mask."""

import pytest
import torch
from fastconformer_kit import QUIET, gradients, make_inputs, make_labels, make_model

from models.fastconformer.modeling_attention import attends_to_all, relative_range

FRAMES = 41


def definition(attention, states, positions, mask):
    """Every score of every pair of frames, the ones not seen set to -inf; (B, T, D)."""
    config, width = attention.config, attention.head_dim
    batch, frames, _ = states.shape
    left, right = config.attention_context

    def split(tensor):
        return tensor.view(batch, frames, -1, width).transpose(1, 2)

    query, key, value = (split(layer(states)) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
    relative = attention.relative_k_proj(positions[0]).view(-1, config.num_attention_heads, width)
    zero, _ = relative_range(config, frames)
    content = torch.einsum("bhqd,bhkd->bhqk", query + attention.bias_u[:, None], key)
    plain = torch.einsum("bhqd,bhkd->bhqk", query, key)
    q, k = torch.arange(frames)[:, None], torch.arange(frames)
    query_global, key_global = q < config.global_tokens, k < config.global_tokens
    window = (k - q >= -left) & (k - q <= right)
    position = torch.einsum(
        "bhqd,qkhd->bhqk", query + attention.bias_v[:, None], relative[(zero - q + k).clamp(0, len(relative) - 1)]
    )
    nothing = torch.full_like(content, float("-inf"))
    extra = nothing
    if config.global_attention == "relative":
        scores = torch.where(window | query_global | key_global, content + position, nothing)
    else:  # NeMo scores by content alone, and sees global frames within the window a second time
        scores = torch.where(query_global, plain, torch.where(window, content + position, nothing))
        extra = torch.where(key_global & ~query_global, plain, nothing)
    unseen = ~mask[:, None, None]
    both = torch.cat([scores.masked_fill(unseen, float("-inf")), extra.masked_fill(unseen, float("-inf"))], -1)
    weights = (both * attention.scaling).softmax(-1)
    weights = weights[..., :frames] + weights[..., frames:]
    return attention.o_proj((weights @ value).transpose(1, 2).flatten(2))


def inputs_of(model, frames=FRAMES):
    attention = model.encoder.layers[0].self_attn
    generator = torch.Generator().manual_seed(4)
    states = torch.randn(2, frames, model.config.hidden_size, generator=generator)
    positions = model.encoder.encode_positions(*relative_range(model.config, frames), states)
    return attention, states, positions


@pytest.mark.parametrize("chunk", [1, 64])
@pytest.mark.parametrize("global_attention", ["relative", "content"])
@pytest.mark.parametrize("global_tokens", [0, 1, 3])
@pytest.mark.parametrize("context", [[4, 4], [7, 2], [0, 5], [3, 0], [0, 0]])
def test_limited_attention_is_full_attention_with_a_mask(context, global_tokens, global_attention, chunk, monkeypatch):
    monkeypatch.setattr("models.fastconformer.modeling_attention.SHORTEST_CHUNK", chunk)
    model = make_model(attention_context=context, global_tokens=global_tokens, global_attention=global_attention)
    attention, states, positions = inputs_of(model)
    mask = torch.arange(FRAMES) < torch.tensor([[FRAMES], [30]])
    assert not attends_to_all(model.config, FRAMES)
    with torch.no_grad():
        got, _ = attention(states, positions, mask)
        expected = definition(attention, states, positions, mask)
    torch.testing.assert_close(got[mask], expected[mask], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("global_tokens", [0, 2])
def test_a_window_over_everything_changes_nothing(global_tokens, in_chunks, monkeypatch):
    full = make_model()
    features, mask = make_inputs()  # 17 frames
    expected = full.encode(features, mask)
    limited = make_model(attention_context=[16, 16], global_tokens=global_tokens)
    if in_chunks:  # otherwise full attention is what it uses
        monkeypatch.setattr("models.fastconformer.modeling_attention.attends_to_all", lambda *_: False)
    torch.testing.assert_close(limited.encode(features, mask), expected, atol=2e-5, rtol=1e-5)


def test_a_narrow_window_and_global_frames_change_the_outputs():
    features, mask = make_inputs()
    outputs = [
        make_model(attention_context=context, global_tokens=number, global_attention=kind).encode(features, mask)[0]
        for context, number, kind in ((None, 0, "relative"), ([2, 2], 0, "relative"), ([2, 2], 1, "relative"))
    ]
    outputs.append(
        make_model(attention_context=[2, 2], global_tokens=1, global_attention="content").encode(features, mask)[0]
    )
    for index, one in enumerate(outputs):
        assert all((one - other).abs().max() > 1e-3 for other in outputs[:index])


@pytest.mark.parametrize("global_attention", ["relative", "content"])
def test_limited_models_train_and_do_not_depend_on_padding(global_attention):
    changes = {"attention_context": [3, 2], "global_tokens": 2, "global_attention": global_attention}
    model = make_model(**changes, **QUIET)
    features, mask = make_inputs((600, 71, 9))  # 75, 9 and 2 frames
    with torch.no_grad():
        together = model.encode(features, mask)
        for row, length in enumerate((600, 71, 9)):
            alone = model.encode(features[row : row + 1, :length]).states_BTD[0]
            torch.testing.assert_close(together.states_BTD[row, : len(alone)], alone, atol=2e-6, rtol=1e-5)
    model.train()(features, mask, labels=make_labels((5, 3, 1))).loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
    assert model.encoder.layers[0].self_attn.bias_v.grad.any()


def test_no_tensor_grows_with_the_square_of_the_length():
    model = make_model(attention_context=[8, 8], global_tokens=1, num_hidden_layers=1)
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            found = result if isinstance(result, tuple | list) else (result,)
            largest.append(max((x.numel() for x in found if isinstance(x, torch.Tensor)), default=0))
            return result

    for frames in (1000, 2000):
        attention, states, positions = inputs_of(model, frames)
        largest.clear()
        with Watch(), torch.no_grad():
            attention(states, positions)
        assert max(largest) < 1000 * frames  # four heads, two utterances: a square would be 8 * frames**2
