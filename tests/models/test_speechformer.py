"""SpeechFormer++: its published sizes and schedule, its attention against plain loops, lengths from one frame up."""

import math

import pytest
import torch

from models.ser.speechformer_ser import SpeechFormer, sinusoid_table, stage_schedule

WIDTH, HEADS = 16, 2


def small(exact=False, seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"num_heads": HEADS, "num_layers": (1, 2, 1, 1), "num_frames": 130, **changes}
    return SpeechFormer(WIDTH, exact=exact, **sizes).eval()


def frames(length, seed=1, width=WIDTH):
    return torch.randn(length, width, generator=torch.Generator().manual_seed(seed))


def test_schedule_of_20_ms_frames():
    schedule = [(stage.window, stage.merge) for stage in stage_schedule(0.02)]
    assert schedule == [(3, 2), (11, 6), (9, 4), (None, None)]
    # 10 ms: 5, 25 and 100 frames become one; windows of 5, 40 and 200 frames.
    assert [(stage.window, stage.merge) for stage in stage_schedule(0.01)] == [(5, 5), (9, 5), (9, 4), (None, None)]
    assert all(stage.merge != 0 for stage in stage_schedule(0.08))


def test_size_at_1280():
    with torch.device("meta"):
        model = SpeechFormer(1280, exact=True)
    head = sum(a * b + b for a, b in ((1280, 640), (640, 320), (320, 4)))
    total = sum(parameter.numel() for parameter in model.parameters()) + head
    assert round(total / 1e6, 2) == 106.98
    assert model.word_tokens.shape == (7, 1280)
    # The table of positions is the only tensor that is not trained.
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["positions"]


# --- the same definition, one unit at a time -------------------------------------------------------------------------


def softmax(scores):
    return torch.softmax(torch.stack(scores), dim=0)


def head_of(vector, head):
    size = len(vector) // HEADS
    return vector[head * size : (head + 1) * size]


def weighted(query, keys, values):
    """One query, one head: softmax over the keys."""
    weights = softmax([query @ key / math.sqrt(len(query)) for key in keys])
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def naive_local(attention, words, units, exact):
    """Lists of vectors -> lists of vectors."""
    zero = torch.zeros(WIDTH)
    queries, keys, values = (
        [proj(unit) for unit in units] for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    segment = math.ceil(len(units) / len(words))

    def members(word):
        places = range(word * segment, (word + 1) * segment)
        return [place if place < len(units) else None for place in places if exact or place < len(units)]

    updated = []
    for word, token in enumerate(words):
        own_keys = [attention.k_proj(token), *(zero if i is None else keys[i] for i in members(word))]
        own_values = [attention.v_proj(token), *(zero if i is None else values[i] for i in members(word))]
        query = attention.q_proj(token)
        heads = [
            weighted(head_of(query, h), [head_of(k, h) for k in own_keys], [head_of(v, h) for v in own_values])
            for h in range(HEADS)
        ]
        updated.append(attention.out_proj(torch.cat(heads)))
    seen = []
    for place in range(len(units)):
        word = place // segment
        reach = attention.window // 2
        around = range(place - reach, place + reach + 1)
        inside = [i if 0 <= i < len(units) else None for i in around if exact or 0 <= i < len(units)]
        heads = []
        for h in range(HEADS):
            near = weighted(
                head_of(queries[place], h),
                [head_of(zero if i is None else keys[i], h) for i in inside],
                [head_of(zero if i is None else values[i], h) for i in inside],
            )
            key, value = (head_of(proj(updated[word]), h) for proj in (attention.k_proj, attention.v_proj))
            scores = [head_of(zero if i is None else queries[i], h) @ key / math.sqrt(len(key)) for i in members(word)]
            heads.append(near + softmax(scores)[place - word * segment] * value)
        seen.append(attention.out_proj(torch.cat(heads)))
    return updated, seen


def naive_global(attention, words, units):
    everything = [*words, *units]
    queries, keys, values = (
        [proj(x) for x in everything] for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    out = [
        attention.out_proj(
            torch.cat(
                [
                    weighted(head_of(query, h), [head_of(k, h) for k in keys], [head_of(v, h) for v in values])
                    for h in range(HEADS)
                ]
            )
        )
        for query in queries
    ]
    return out[: len(words)], out[len(words) :]


def naive_speechformer(model, clip):
    """(T, D) true frames of one clip -> (X, D)."""
    if model.exact:
        clip = torch.cat([clip, torch.zeros(max(0, model.num_frames - len(clip)), WIDTH)])[: model.num_frames]
    bank = model.word_tokens
    words = [bank[i % len(bank)] for i in range(math.ceil(len(clip) / 50))]
    units = list(clip)
    table = sinusoid_table(len(clip), WIDTH)
    for stage, layers in enumerate(model.stages):
        words, units = [model.norms[stage](x) for x in words], [model.norms[stage](x) for x in units]
        for layer in layers:
            placed = [unit + table[i] if stage == 0 else unit for i, unit in enumerate(units)]
            if stage < 3:
                new = naive_local(layer.attention, words, placed, model.exact)
            else:
                new = naive_global(layer.attention, words, placed)
            finished = []
            for old, seen in zip((words, units), new, strict=True):
                mixed = [layer.attention_norm(x + y) for x, y in zip(old, seen, strict=True)]
                finished.append([layer.fc_norm(x + layer.fc2(torch.relu(layer.fc1(x)))) for x in mixed])
            words, units = finished
        if stage < 3:
            merge = model.merges[stage]
            groups = [units[i : i + merge.size] for i in range(0, len(units), merge.size)]
            means = [sum(group) / (merge.size if model.exact else len(group)) for group in groups]
            words, units = ([merge.norm(merge.linear(x)) for x in each] for each in (words, means))
    return torch.stack([*words, *units])


@pytest.mark.parametrize(("exact", "length"), [(True, 20), (True, 90), (False, 1), (False, 12), (False, 109)])
@torch.no_grad()
def test_it_is_what_plain_loops_compute(exact, length):
    model, clip = small(exact, num_frames=70), frames(length)
    states, mask = model(clip[None])
    assert mask.all()
    torch.testing.assert_close(states[0], naive_speechformer(model, clip), atol=2e-5, rtol=0)


@torch.no_grad()
def test_padding_changes_nothing():
    model = small()
    clips = [frames(length, seed=length) for length in (173, 1, 59, 100, 12)]
    batch = torch.full((5, 200, WIDTH), float("nan"))
    mask = torch.zeros(5, 200)
    for row, clip in enumerate(clips):
        batch[row, : len(clip)] = clip
        mask[row, : len(clip)] = 1
    states, states_mask = model(batch, mask)
    assert not states[states_mask == 0].any()
    for row, clip in enumerate(clips):
        alone, alone_mask = model(clip[None])
        assert int(states_mask[row].sum()) == alone_mask.sum()
        torch.testing.assert_close(states[row][states_mask[row] == 1], alone[0], atol=5e-6, rtol=0)


@torch.no_grad()
def test_exact_mode_has_one_length_whatever_it_gets():
    model = small(exact=True)
    clip = frames(300)
    cropped, _ = model(clip[None])
    torch.testing.assert_close(cropped, model(clip[None, :130])[0])
    # 3 word tokens; 130 frames are 65 phones, 11 words, 3 units of the utterance.
    assert cropped.shape == (1, 6, WIDTH)
    # No masks: what is padded counts.
    short, mask = model(clip[None, :60])
    assert mask.all() and short.shape == cropped.shape


@torch.no_grad()
def test_ten_minutes_need_no_square_of_frames():
    model = small()
    shapes = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, *args, **kwargs):
        shapes.append((query.numel() // query.shape[-1] * key.shape[-2], query.shape[-2:]))
        return attend(query, key, *args, **kwargs)

    torch.nn.functional.scaled_dot_product_attention = watched
    try:
        states, _ = model(frames(30_000)[None])
    finally:
        torch.nn.functional.scaled_dot_product_attention = attend
    assert states.isfinite().all() and states.shape == (1, 600 + 625, WIDTH)
    assert max(scores for scores, _ in shapes) < 30_000 * 60 * HEADS


def test_every_trainable_tensor_learns_and_padding_sends_no_gradient():
    model = small().train()
    batch = torch.stack([frames(120), frames(120, seed=2)]).requires_grad_()
    mask = torch.ones(2, 120)
    mask[1, 70:] = 0
    states, _ = model(batch, mask)
    (states * torch.randn_like(states)).sum().backward()
    still = {
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }
    # A softmax does not see what is added to all its scores.
    assert all(name.endswith("k_proj.bias") for name in still)
    assert batch.grad is not None and batch.grad.isfinite().all()
    assert not batch.grad[1, 70:].any() and batch.grad[1, :70].any(1).all()


def test_a_projection_narrows_the_input():
    model = SpeechFormer(40, num_heads=HEADS, projection_size=WIDTH, num_layers=(1, 1, 1, 1)).eval()
    states, _ = model(frames(90, width=40)[None])
    assert states.shape[2] == WIDTH == model.width
