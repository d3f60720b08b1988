"""Whisper: its tokenizer and prompt, targets and loss of the well-known recipe, configs that the stock code obeys."""

import json

import numpy as np
import pytest
import torch
from tiny_whisper import arguments, collator, make_whisper, row
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, GenerationConfig, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from data_scripts.audio import read_audio
from data_scripts.augment import Augmenter
from trainers.arguments import AugmentationArguments
from trainers.checks import ConfigError
from trainers.collators import RowError, SpeechInputs
from trainers.tokenizers import TokenizerError
from trainers.whisper import (
    WhisperCollator,
    build_whisper,
    label_length,
    to_window,
    train_whisper_tokenizer,
)
from trainers.whisper_ctc import WhisperWithCTC, finished_whisper

PROMPT = ["<|startoftranscript|>", "<|vi|>", "<|transcribe|>", "<|notimestamps|>"]
ROWS = [row("abc dad"), row("beg"), row("cab fed ace")]


@pytest.fixture(scope="module")
def tiny():
    return make_whisper()


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    for part in tiny:
        part.save_pretrained(folder)
    return folder


def recipe_batch(processor, rows):
    """The data preparation and the collator that every Whisper fine-tuning tutorial has."""
    features = [
        {
            "input_features": processor.feature_extractor(read_audio(row["audio"]), sampling_rate=16_000)
            .input_features[0],
            "labels": processor.tokenizer(row["text"]).input_ids,
        }
        for row in rows
    ]  # fmt: skip
    inputs = [{"input_features": one["input_features"]} for one in features]
    batch = processor.feature_extractor.pad(inputs, return_tensors="pt")
    padded = processor.tokenizer.pad([{"input_ids": one["labels"]} for one in features], return_tensors="pt")
    labels = padded["input_ids"].masked_fill(padded.attention_mask.ne(1), -100)
    start = processor.tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    if (labels[:, 0] == start).all().cpu().item():
        labels = labels[:, 1:]
    batch["labels"] = labels
    return batch


def test_batch_and_loss_are_those_of_the_recipe(tiny):
    processor, model = tiny
    ours, theirs = collator(processor)(ROWS), recipe_batch(processor, ROWS)
    assert ours["labels"].tolist() == theirs["labels"].tolist()
    torch.testing.assert_close(ours["input_features"], theirs["input_features"], rtol=0, atol=1e-6)
    losses = [model(input_features=b["input_features"], labels=b["labels"]).loss.item() for b in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    # What the decoder reads: the prompt once, then the text.
    read = shift_tokens_right(ours["labels"], model.config.pad_token_id, model.config.decoder_start_token_id)
    for ids in read:
        tokens = processor.tokenizer.convert_ids_to_tokens(ids)
        assert tokens[:4] == PROMPT and tokens.count("<|startoftranscript|>") == 1


def test_labels_in_full(tiny):
    processor, _ = tiny
    (labels,) = collator(processor)([row("beg")])["labels"].tolist()
    tokens = processor.tokenizer.convert_ids_to_tokens(labels)
    assert tokens[:3] == PROMPT[1:] and tokens[-1] == "<|endoftext|>" and tokens.count("<|endoftext|>") == 1
    assert processor.tokenizer.decode(labels, skip_special_tokens=True).strip() == "beg"


def test_mask_tells_the_recording(tiny):
    processor, _ = tiny
    batch = collator(processor)([row("ab"), row("dad")])
    # 0.08 s and 0.12 s touch 10 and 14 frames of 10 ms
    assert batch["attention_mask"].sum(1).tolist() == [10, 14]
    assert batch["input_features"].shape == (2, 80, 100) and batch["attention_mask"].shape == (2, 100)


def test_window_of_digital_silence(tiny):
    extractor = tiny[0].feature_extractor
    for samples in (np.zeros(4000, np.float32), 1e-6 * np.ones(4000, np.float32)):
        expected = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
        found, mask = to_window(expected[:, :, :30], torch.ones(1, 30, dtype=torch.long), 100)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert mask.sum() == 30


def test_augmentation_changes_the_recording_and_not_the_silence(tiny):
    processor, _ = tiny
    masks = AugmentationArguments(time_masks=1, time_mask_s=0.05, frequency_masks=1, frequency_mask_bins=20)
    inputs = SpeechInputs(processor.feature_extractor, augmentation=Augmenter(masks))
    make = WhisperCollator(inputs, processor.tokenizer)
    plain, changed = (make([row("cab fed ace", **epoch)])["input_features"][0] for epoch in ({}, {"epoch": 0}))
    assert (plain[:, :46] != changed[:, :46]).any() and plain.shape == changed.shape
    assert len(changed[:, 46:].unique()) == 1 and changed.isfinite().all()


def test_targets_with_times(tiny):
    processor, _ = tiny
    make = collator(processor, timestamp_share=0.5, seed=3)
    rows = [row("abc dad", epoch=epoch) for epoch in range(40)]
    batches = [make([one])["labels"][0].tolist() for one in rows]
    assert batches == [make([one])["labels"][0].tolist() for one in rows]  # a function of (seed, epoch, id)
    timed = [labels for labels in batches if processor.tokenizer.convert_tokens_to_ids("<|0.00|>") in labels]
    assert 10 < len(timed) < 30
    tokens = processor.tokenizer.convert_ids_to_tokens(timed[0])
    # 0.28 s of tones, 30 frames with those that straddle the end
    assert tokens[:3] == ["<|vi|>", "<|transcribe|>", "<|0.00|>"] and tokens[-2:] == ["<|0.30|>", "<|endoftext|>"]
    assert make([row("abc dad")])["labels"].tolist() == collator(processor)([row("abc dad")])["labels"].tolist()


def test_a_text_that_does_not_fit_is_named(tiny):
    processor, model = tiny
    text = "abc " * 450
    assert label_length(processor.tokenizer, text) > model.config.max_target_positions
    with pytest.raises(RowError, match=r"row 'long': \d+ tokens .* 448 places"):
        collator(processor)([row(text, id="long", audio=row("abc")["audio"])])
    # The longest that fits does so in the model, too.
    longest = next(n for n in range(450, 0, -1) if label_length(processor.tokenizer, "abc " * n) <= 448)
    batch = collator(processor)([row("abc " * longest, audio=row("abc")["audio"])])
    assert batch["labels"].shape[1] >= 446 and model(**batch).loss.isfinite()


def test_the_saved_generation_config_fixes_language_and_task(saved):
    settings = GenerationConfig.from_pretrained(saved)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(saved)
    assert type(model) is WhisperForConditionalGeneration
    for found in (settings, model.generation_config):  # and is not derived anew when the model is loaded
        assert (found.language, found.task, found.forced_decoder_ids) == ("<|vi|>", "transcribe", None)
        assert len(found.lang_to_id) == 100 and found.alignment_heads == [[1, 0], [1, 1]]
    processor = AutoProcessor.from_pretrained(saved)
    ids = model.generate(
        torch.zeros(1, 80, 100), max_length=3, force_unique_generate_call=True, return_dict_in_generate=True
    ).sequences
    assert processor.tokenizer.convert_ids_to_tokens(ids[0][:4]) == PROMPT
    assert processor.tokenizer("beg").input_ids[:4] == ids[0][:4].tolist()


def test_an_old_checkpoint_is_put_right(saved, tmp_path):
    """As fine-tuned before `language` and `task` existed: a forced prompt, of another language, in both configs."""
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    forced = [[1, 302], [2, 402], [3, 407]]
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"forced_decoder_ids": forced, "max_length": 448, "decoder_start_token_id": 281})
    )
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "forced_decoder_ids": forced}))
    processor, model = build_whisper(arguments(path=str(tmp_path)))
    model.save_pretrained(tmp_path)
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    assert again.generation_config.language == "<|vi|>" and again.generation_config.forced_decoder_ids is None
    assert getattr(again.config, "forced_decoder_ids", None) is None
    assert processor.tokenizer.convert_ids_to_tokens(processor.tokenizer("a").input_ids[:4]) == PROMPT


def test_start_from_a_folder_in_float32_and_frozen(saved, tiny, tmp_path):
    tiny[1].to(torch.bfloat16).save_pretrained(tmp_path)
    tiny[1].to(torch.float32)
    tiny[0].save_pretrained(tmp_path)
    _, model = build_whisper(arguments(path=str(tmp_path), freeze_encoder=True, dropout=0.1), ["abc dad"])
    assert model.dtype == torch.float32 and model.config.dropout == 0.1
    assert not any(parameter.requires_grad for parameter in model.model.encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.model.decoder.parameters())


def test_checkpoints_that_will_not_do(saved, tmp_path):
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match="no language of Whisper"):
        build_whisper(arguments(language="xx"), ["a"])
    with pytest.raises(ConfigError, match="no training texts"):
        build_whisper(arguments())
    with pytest.raises(ConfigError, match=r"model\.whisper\.path.*cannot load"):
        build_whisper(arguments(path=str(tmp_path / "nothing")))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "decoder_layers": 3}))
    with pytest.raises(ConfigError, match=r"lacks weights .*decoder\.layers\.2"):
        build_whisper(arguments(path=str(tmp_path)))


def test_a_tokenizer_with_other_special_tokens(saved, tmp_path):
    """transformers computes the id of a language from its place: with few languages it would be another token's."""
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(b"<|vi|>", b"<|zz|>"))
    with pytest.raises(ConfigError, match=r"cannot write <\|startoftranscript\|><\|vi\|>"):
        build_whisper(arguments(path=str(tmp_path)))


def test_tokenizer(tmp_path):
    texts = ["xin chào các bạn", "hôm nay tôi học deep learning", "được rồi nhé"]
    tokenizer = train_whisper_tokenizer(texts, 300, window_s=8)
    assert len(tokenizer) <= 300 + 1 + 107 + 401
    end = tokenizer.eos_token_id
    order = ["<|startoftranscript|>", "<|en|>", "<|nospeech|>", "<|notimestamps|>", "<|0.00|>", "<|8.00|>"]
    assert tokenizer.convert_tokens_to_ids(order) == [end + 1, end + 2, end + 106, end + 107, end + 108, end + 508]
    for text in [*texts, "chữ ỵ ẫ ộ chưa thấy bao giờ"]:
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip() == text
    # A word is the same pieces wherever it stands.
    first, later = tokenizer("chào", add_special_tokens=False), tokenizer("xin chào", add_special_tokens=False)
    assert later.input_ids[-len(first.input_ids) :] == first.input_ids
    with pytest.raises(TokenizerError, match="bytes alone need 256"):
        train_whisper_tokenizer(texts, 200)


def test_a_model_from_scratch_hears_as_loud_as_it_counts():
    """The encoder's first states follow the audio as much as the positions."""
    processor, model = make_whisper(d_model=64)
    features = collator(processor)([row("abc dad hag")])["input_features"][:, :, :40]
    encoder = model.model.encoder
    with torch.no_grad():
        heard = torch.nn.functional.gelu(encoder.conv2(torch.nn.functional.gelu(encoder.conv1(features))))
    assert 0.3 < heard.std() / encoder.embed_positions.weight.std() < 3
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight


def test_auxiliary_ctc():
    processor, model = make_whisper(ctc_weight=0.3)
    assert isinstance(model, WhisperWithCTC)
    batch = collator(processor)(ROWS)
    outputs = model(**batch)
    blank, tokens = processor.tokenizer.eos_token_id, int((batch["labels"] != -100).sum())
    stock = finished_whisper(model)
    cross_entropy = stock(input_features=batch["input_features"], labels=batch["labels"])
    # Utterance by utterance, without any padding.
    total = 0.0
    for states, mask, labels in zip(
        cross_entropy.encoder_last_hidden_state, batch["attention_mask"], batch["labels"].tolist(), strict=True
    ):
        pieces = [label for label in labels if 0 <= label < blank]
        log_probs = model.ctc_head(states[: (int(mask.sum()) + 1) // 2]).log_softmax(-1)
        lengths = torch.tensor([len(log_probs)]), torch.tensor([len(pieces)])
        total += torch.nn.functional.ctc_loss(
            log_probs[:, None], torch.tensor([pieces]), *lengths, blank=blank, reduction="sum"
        )
    assert outputs["ctc_loss"].item() == pytest.approx((total / tokens).item(), rel=1e-5)
    expected = 0.7 * cross_entropy.loss + 0.3 * total / tokens
    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_published_model_knows_nothing_of_ctc(tmp_path):
    processor, model = make_whisper(ctc_weight=0.3)
    stock = finished_whisper(model)
    assert type(stock) is WhisperForConditionalGeneration and finished_whisper(stock) is stock
    stock.save_pretrained(tmp_path)
    assert "ctc" not in (tmp_path / "config.json").read_text()
    loaded, info = WhisperForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"] and not info["missing_keys"]
    batch = collator(processor)(ROWS)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)
    assert loaded.generation_config.language == "<|vi|>"
