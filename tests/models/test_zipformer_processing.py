"""Zipformer: features, processor, and the conversion of icefall's files."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from models.zipformer import (
    ZipformerConfig,
    ZipformerFeatureExtractor,
    ZipformerForASR,
    ZipformerProcessor,
    check_compatible,
)
from models.zipformer.icefall_vocabulary import read_vocabulary
from models.zipformer.icefall_zipformer import RENAMED, convert_model, infer_config, read_checkpoint
from scripts import convert_zipformer

SENTENCES = ["xin chào các bạn", "hôm nay trời đẹp", "tôi đi chợ mua cá", "trường học ở xa", "nghiêng nghiêng ngả"]


def make_tokenizer(extra=()):
    letters = sorted(set("".join(SENTENCES)) - {" "})
    vocabulary = {piece: index for index, piece in enumerate(["<blank>", "<unk>", "▁", *letters, *extra])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<blank>", unk_token="<unk>")


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("samples", [1440, 16_000, 16_079, 16_080, 16_081, 40_003])
def test_features_equal_torchaudio(samples):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    waveform = noise(samples)
    waveform[: samples // 3] = 0.0  # digital silence: the floor
    expected = kaldi.fbank(
        torch.from_numpy(waveform)[None], num_mel_bins=80, dither=0, snip_edges=False, high_freq=-400
    )
    found = ZipformerFeatureExtractor()(waveform, sampling_rate=16_000, return_tensors="pt")["input_features"][0]
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_features_of_a_batch_are_padded():
    extractor = ZipformerFeatureExtractor()
    batch = extractor(
        [noise(16_000), noise(8000), noise(10)], sampling_rate=16_000, padding="longest", return_tensors="pt"
    )
    assert batch["input_features"].shape == (3, 100, 80)
    # Ten samples are extended to what the model's convolutions need.
    assert batch["attention_mask"].sum(1).tolist() == [100, 50, 9]
    assert batch["input_features"][1, 50:].unique().tolist() == pytest.approx([math.log(1e-10)])
    alone = extractor(noise(8000), return_tensors="pt")["input_features"][0]
    torch.testing.assert_close(batch["input_features"][1, :50], alone)
    integers = (noise(8000) * 32768).astype(np.int16)
    difference = extractor(integers, return_tensors="pt")["input_features"][0] - alone
    assert difference.abs().mean() < 0.01


@pytest.mark.parametrize(
    ("audio", "rate", "named"),
    [
        (noise(100), 8000, "16000 Hz"),
        ([noise(100), noise(0)], 16_000, "audio 1 is empty"),
        (noise(200).reshape(1, 2, 100), 16_000, "mono"),
        ([np.array([0.0, np.nan, 1.0])], 16_000, "1 samples that are NaN"),
    ],
)
def test_bad_audio_is_refused(audio, rate, named):
    with pytest.raises(ValueError, match=named):
        ZipformerFeatureExtractor()(audio, sampling_rate=rate)


def test_processor_makes_what_the_model_takes(tmp_path):
    tokenizer = make_tokenizer()
    processor = ZipformerProcessor(ZipformerFeatureExtractor(), tokenizer)
    batch = processor(audio=[noise(8000), noise(5000)], text=["các bạn", "cá"], sampling_rate=16_000)
    assert batch["labels"][1].tolist()[-1] == -100 and (batch["labels"] != 0).all()
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, ZipformerProcessor)
    torch.testing.assert_close(
        loaded(audio=noise(8000), sampling_rate=16_000), processor(noise(8000), sampling_rate=16_000)
    )
    for arguments, named in (({}, "nothing"), ({"audio": noise(10)}, "sampling_rate is not given")):
        with pytest.raises(ValueError, match=named):
            processor(**arguments)


def test_a_processor_of_another_model_is_refused():
    tokenizer, extractor = make_tokenizer(), ZipformerFeatureExtractor()
    config = ZipformerConfig(vocab_size=len(tokenizer))
    check_compatible(config, feature_extractor=extractor, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=f"{len(tokenizer) + 1} tokens but the model emits {len(tokenizer)}"):
        check_compatible(config, tokenizer=make_tokenizer(["z"]))
    with pytest.raises(ValueError, match="blank is 3"):
        check_compatible(ZipformerConfig(vocab_size=len(tokenizer), blank_token_id=3), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="40 mel bins"):
        check_compatible(config, feature_extractor=ZipformerFeatureExtractor(feature_size=40))
    with pytest.raises(ValueError, match=r"every 0\.01 s"):
        check_compatible(config, feature_extractor=ZipformerFeatureExtractor(frame_shift_s=0.02))


# icefall's files


def icefall_state(vocab_size):
    """Weights as icefall names them, made from a model of ours."""
    torch.manual_seed(0)
    sizes = {"downsampling": [1, 2], "num_layers": [1, 2], "encoder_dim": [192, 256], "feedforward_dim": [16, 24]}
    config = ZipformerConfig(
        vocab_size=vocab_size, num_heads=4, conv_kernel=[31, 15], mask_padding=False, decoder_dim=32, **sizes
    )
    model = ZipformerForASR(config).eval()
    state = {}
    for name, tensor in model.state_dict().items():
        stack = name.split(".")[2] if name.startswith("encoder.stacks.") else ""
        for ours, theirs in (
            ("encoder_embed.conv1.", "encoder_embed.conv.0."),
            ("encoder_embed.conv2.", "encoder_embed.conv.4."),
            ("encoder_embed.conv3.", "encoder_embed.conv.7."),
            ("encoder.stacks.1.layers.", "encoder.encoders.1.encoder.layers."),
            (f"encoder.stacks.{stack}.", f"encoder.encoders.{stack}."),
            (".attention_weights.", ".self_attn_weights."),
            (".self_attention", ".self_attn"),
            (".nonlinear_attention.", ".nonlin_attention."),
            (".convolution", ".conv_module"),
            ("ctc_head.", "ctc_output.1."),
        ):
            name = name.replace(ours, theirs)
        if name == "encoder_embed.out.weight":
            tensor = tensor.unflatten(1, (-1, 128)).transpose(1, 2).flatten(1)
        state[name] = tensor
    state["encoder.encoders.0.layers.0.bypass_scale"] = torch.ones(192)
    return config, model, state


def test_a_checkpoint_becomes_a_folder(tmp_path, capsys):
    names = ["<blk>", "<sos/eos>", "<unk>", *["▁xin", "▁chào", "▁các", "▁b", "ạ", "n", "h", "ô", "m"]]
    _, model, state = icefall_state(len(names))
    torch.save({"model": state}, tmp_path / "pretrained.pt")
    tokens = [f"{name} {index}" for index, name in enumerate([*names, "#0", "#1"])]
    (tmp_path / "tokens.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    arguments = [str(tmp_path / "pretrained.pt"), "--vocabulary", str(tmp_path / "tokens.txt")]
    assert convert_zipformer.main([*arguments, "--output", str(tmp_path / "out")]) == 0
    loaded = ZipformerForASR.from_pretrained(tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    features = torch.randn(1, 60, 80)
    with torch.no_grad():
        torch.testing.assert_close(loaded(features).last_hidden_state, model(features).last_hidden_state)
    ids = processor(text="xin chào các bạn")["labels"][0].tolist()
    assert ids == [3, 4, 5, 6, 7, 8]
    assert processor.tokenizer.backend_tokenizer.decode(ids) == "xin chào các bạn"
    # Again into the same folder, from a wrong vocabulary, and from something else.
    with pytest.raises(SystemExit):
        convert_zipformer.main([*arguments, "--output", str(tmp_path / "out")])
    (tmp_path / "tokens.txt").write_text("<blk> 0\n<unk> 1\n", encoding="utf-8")
    assert convert_zipformer.main([*arguments, "--output", str(tmp_path / "other")]) == 2
    assert "there is none with the id 2" in capsys.readouterr().err
    torch.save({"model": {"weight": torch.ones(1)}}, tmp_path / "pretrained.pt")
    assert convert_zipformer.main([*arguments, "--output", str(tmp_path / "other")]) == 2
    assert "not a checkpoint of an icefall Zipformer" in capsys.readouterr().err


def test_a_checkpoint_runs_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="nothing of it was run"):
        read_checkpoint(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_weights_that_do_not_fit_are_refused():
    config, _, state = icefall_state(20)
    assert infer_config(state).to_dict() == config.to_dict()
    lacking = {name: tensor for name, tensor in state.items() if "joiner.decoder_proj" not in name}
    with pytest.raises(ValueError, match=r"lacks 2 tensors.*joiner\.decoder_proj"):
        convert_model(lacking, config, source="x")
    with pytest.raises(ValueError, match="streaming"):
        infer_config(
            {**state, "encoder.encoders.0.layers.0.conv_module1.depthwise_conv.causal_conv.weight": torch.ones(1)}
        )
    with pytest.raises(ValueError, match="position_head_dim of 5"):
        infer_config(state, position_head_dim=5)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sentencepiece_vocabularies_cut_text_as_sentencepiece_does(tmp_path, kind):
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("\n".join(SENTENCES * 40), encoding="utf-8")
    # icefall's settings.
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "bpe"), vocab_size=60, model_type=kind,
        character_coverage=1.0, user_defined_symbols=["<blk>", "<sos/eos>"], unk_id=2, bos_id=-1, eos_id=-1,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    peer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "bpe.model"))
    tokenizer = read_vocabulary(tmp_path / "bpe.model", len(peer))
    assert tokenizer.pad_token_id == 0 and tokenizer.unk_token_id == 2
    for text in [*SENTENCES, "  các   bạn ", "bạn chào đi đi", "", "x"]:
        ids = tokenizer(text)["input_ids"]
        assert ids == peer.encode(text), text
        assert tokenizer.backend_tokenizer.decode(ids) == peer.decode(ids)
    assert tokenizer("xin Ω")["input_ids"] == peer.encode("xin Ω")


def test_vocabularies_that_are_none_are_refused(tmp_path):
    files = {
        "bpe.model": ("no protocol buffer at all", "not a SentencePiece model"),
        "a.txt": ("<blk> 0\n<unk> one\n", r"a\.txt:2"),
        "b.txt": ("<pad> 0\n<unk> 1\n", "must be the blank"),
    }
    for name, (content, named) in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=named):
            read_vocabulary(tmp_path / name, 2)


PIPELINE = """
import json, sys
import numpy as np
from transformers import pipeline
asr = pipeline("automatic-speech-recognition", sys.argv[1], trust_remote_code=True)
audio = (0.1 * np.random.default_rng(0).standard_normal(24_000)).astype(np.float32)
print(json.dumps(asr({"array": audio, "sampling_rate": 16_000}, return_timestamps="word", search="greedy")))
"""


@pytest.mark.slow
def test_a_folder_transcribes_in_a_fresh_process(tmp_path):
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = ZipformerConfig(
        vocab_size=len(tokenizer), downsampling=[1, 2], num_layers=1, encoder_dim=[32, 48], unmasked_dim=32,
        feedforward_dim=32, num_heads=2, conv_kernel=5, decoder_dim=32, joiner_dim=32,
    )  # fmt: skip
    model = ZipformerForASR(config)
    model.save_pretrained(tmp_path)
    ZipformerProcessor(ZipformerFeatureExtractor(), tokenizer).save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PIPELINE, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["text"] and found["chunks"][0]["timestamp"][0] >= 0


def test_every_renaming_is_needed():
    _, _, state = icefall_state(20)
    for pattern, _ in RENAMED:
        assert any(re.search(pattern, name) for name in state), pattern
