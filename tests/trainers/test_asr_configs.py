"""Every config of a recogniser parses, builds on what it names, repeats nothing of it, and is shrunk by smoke.yaml."""

import itertools
import re
from dataclasses import fields, is_dataclass

import pytest
from config_kit import CONFIGS, lines_of, name, repeated

from trainers.asr_arguments import ASRConfig
from trainers.checks import ConfigError
from trainers.config import dump_config, field_help, help_text, read_config

FILES = sorted((CONFIGS / "asr").rglob("*.yaml"))
RECIPES = [path for path in FILES if not path.stem.startswith("corpor") and path.stem != "corpus"]
SPEECH = ["--data.train", "[{path: corpus}]", "--data.validation", "[{path: corpus, split: validation}]"]


def read(*argv: str) -> ASRConfig:
    return read_config([*SPEECH, *argv], ASRConfig)


def error_of(*argv: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(*argv)
    return caught.value


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipes_parse_and_shrink(path):
    config = read_config(["--config", str(path)], ASRConfig)
    assert path.stem.startswith(config.system)
    small = read_config(["--config", str(path), "--config", str(CONFIGS / "smoke.yaml")], ASRConfig)
    assert small.training.max_steps == 4 and small.training.use_cpu and not small.training.bf16
    assert small.data.max_rows == 16 and small.tokenizer.bpe_vocab_size <= 200
    assert small.training.output_dir.startswith("runs/smoke/")
    model = getattr(small.model, small.system)
    assert model.path is None and small.lora.rank == 0
    assert read_config(["--config", str(path)], ASRConfig) == config


@pytest.mark.parametrize("path", FILES, ids=name)
def test_overlays_repeat_nothing_and_explain_themselves(path):
    assert not repeated(path)
    lines = lines_of(path, most=50)
    if path in RECIPES and path.parent.name == "asr":
        text = "\n".join(lines)
        assert f"configs/asr/{path.name}" in text and "paper" in text
    if path in RECIPES and path.parent.name == "asr" and not path.stem.startswith("whisper"):
        assert "Data:" in text and "not yet run" in text
        for above, line in itertools.pairwise(lines):
            if re.match(r" +\w+: \S", line):
                assert above.lstrip().startswith("#") or re.match(r" +\w+_(strategy|steps): ", above), line


def test_the_dumped_config_reads_back_and_every_field_has_its_help():
    config = read("--system", "fastconformer", "--model.fastconformer.sizes.hidden_size", "64")
    assert config.training.output_dir == "runs/asr/fastconformer"
    assert help_text(ASRConfig).count("bpe_vocab_size") == 1
    for section in [config, *vars(config).values(), *vars(config.model).values()]:
        if is_dataclass(section):
            assert set(field_help(type(section))) >= {item.name for item in fields(section)}, section


def test_the_dumped_config_is_the_config(tmp_path):
    config = read("--model.zipformer.sizes.num_layers", "[1, 2]")
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert read_config(["--config", str(path)], ASRConfig) == config


@pytest.mark.parametrize(
    ("argv", "key", "words"),
    [
        (["--model.zipformer.transducer_weight", "1"], "model.zipformer.transducer_weight", "between 0 and 1"),
        (["--model.zipformer.transducer_weight", "0.5", "--model.zipformer.training_loss", "ctc"],
         "model.zipformer.transducer_weight", "needs a transducer"),
        (["--model.zipformer.sizes.num_layers", "[]"], "model.zipformer.sizes.num_layers", "numbers of at least 1"),
        (["--model.fastconformer.path", "a", "--model.fastconformer.encoder", "b"], "model.fastconformer.encoder",
         "model.fastconformer.path"),
        (["--model.fastconformer.attention_context", "[4]"], "model.fastconformer.attention_context", "left, right"),
        (["--model.fastconformer.global_tokens", "1"], "model.fastconformer.global_tokens", "attention_context"),
        (["--model.fastconformer.ctc_weight", "0.3"], "model.fastconformer.ctc_weight", "rnnt and tdt"),
        (["--model.whisper.ctc_weight", "0.3", "--model.whisper.path", "a"], "model.whisper.ctc_weight", "scratch"),
        (["--model.whisper.window_s", "31"], "model.whisper.window_s", "at most 30"),
        (["--tokenizer.bpe_vocab_size", "0"], "tokenizer.bpe_vocab_size", "above 0"),
        (["--lora.rank", "4"], "lora.rank", "whisper"),
        (["--lora.rank", "4", "--system", "whisper"], "lora.rank", "pre-trained"),
        (["--training.label_smoothing_factor", "0.1"], "training.label_smoothing_factor", "whisper"),
        (["--training.optim", "scaled_adam"], "training.max_grad_norm", "clips by itself"),
        (["--training.lr_scheduler_type", "eden", "--training.lr_scheduler_kwargs", "{lr_epoch: 1}"],
         "training.lr_scheduler_kwargs", "eden has no lr_epoch"),
        (["--training.lr_scheduler_type", "eden", "--training.lr_scheduler_kwargs", "{lr_epochs: no}"],
         "training.lr_scheduler_kwargs.lr_epochs", "number above 0"),
        (["--decoding.search", "ctc_beam", "--model.zipformer.ctc_weight", "0"], "decoding.search", "no head"),
        (["--decoding.search", "beam", "--system", "fastconformer", "--model.fastconformer.head", "tdt"],
         "decoding.search", "no head"),
        (["--data.augmentation.time_mask_share", "0"], "data.augmentation.time_mask_share", "above 0"),
        (["--data.train", "[]"], "data.train", "nothing to train on"),
        (["--data.text", "[{path: a}]"], "data.text", "unknown key"),
        (["--model.s2p.d_model", "8"], "model.s2p", "unknown key"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_its_key(argv, key, words):
    error = error_of(*argv)
    assert error.key == key and words in str(error)


def test_only_sections(tmp_path):
    path = tmp_path / "both.yaml"
    path.write_text("name: x\nonly: {asr: {name: y}, tspc: {stage: p2t}}", encoding="utf-8")
    assert read("--config", str(path)).name == "y"
    path.write_text("only: {tsp: {stage: p2t}}", encoding="utf-8")
    assert error_of("--config", str(path)).key == "only"


def test_sharded_launches_refuse_scaled_adam(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    config = read("--training.optim", "scaled_adam", "--training.max_grad_norm", "0")
    with pytest.raises(ConfigError, match="FSDP trains pieces") as caught:
        config.training.build(tmp_path, metric_for_best_model="wer", run_name="x")
    assert caught.value.key == "training.optim"
