"""Values out of range and pairs that cannot work are refused by the name of their key."""

import pytest

from trainers.checks import ConfigError
from trainers.config import read_config

BEST = ["--training.load_best_model_at_end", "true"]


def error_of(read, *argv: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(*argv)
    return caught.value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.learning_rate", "0"),
        ("training.per_device_train_batch_size", "0"),
        ("training.per_device_train_batch_size", "-4"),
        ("training.per_device_eval_batch_size", "0"),
        ("training.gradient_accumulation_steps", "0"),
        ("training.save_steps", "0"),
        ("training.logging_steps", "0"),
        ("training.eval_steps", "0"),
        ("training.max_steps", "0"),
        ("training.max_steps", "-2"),
        ("training.num_train_epochs", "0"),
        ("training.label_smoothing_factor", "1"),
        ("training.label_smoothing_factor", "7"),
        ("training.label_smoothing_factor", "-0.1"),
        ("training.weight_decay", "-1"),
        ("training.warmup_steps", "-1"),
        ("training.warmup_steps", "10.5"),
        ("training.seed", "-1"),
        ("training.seed", "4294967296"),
        ("training.output_dir", "''"),
        ("training.generation_num_beams", "0"),
        ("training.early_stopping_patience", "0"),
        ("data.max_duration_s", "0"),
        ("data.max_duration_s", "0.05"),
        ("data.batch_duration_s", "10"),
        ("data.phoneme_noise", "1"),
        ("data.max_dropped", "1.5"),
        ("data.augmentation.speed", "0.9"),
        ("data.augmentation.gain_db", "-3"),
        ("model.s2p.num_heads", "7"),
        ("model.s2p.ctc_weight", "1"),
        ("model.s2p.dropout", "1"),
        ("model.s2p.path", "''"),
        ("model.s2p.encoder_sizes.num_heads", "3"),
        ("model.s2p.encoder_sizes.conv_strides", "[]"),
        ("model.p2t.d_model", "0"),
        ("lora.rank", "-1"),
        ("name", "a/b"),
        ("name", "''"),
        ("name", ".."),
    ],
)
def test_ranges(read, key, value):
    error = error_of(read, f"--{key}", value)
    assert error.key == key
    assert error.place == "command line"


@pytest.mark.parametrize(
    ("argv", "key", "words"),
    [
        (["--cache.encoder_states", "--model.s2p.freeze_encoder", "false"], "cache.encoder_states", "frozen"),
        (["--cache.encoder_states", "--model.s2p.encoder", "x", "--lora.rank", "8"], "cache.encoder_states", "lora"),
        (["--cache.encoder_states", "--data.augmentation.speed", "0.1"], "cache.encoder_states", "augmentation"),
        (["--cache.encoder_states", "--data.augmentation.time_masks", "2"], "cache.encoder_states", "augmentation"),
        (["--cache.encoder_states", "--stage", "p2t"], "cache.encoder_states", "stage p2t"),
        (["--cache.s2p_outputs"], "cache.s2p_outputs", "stage s2p"),
        (["--model.s2p.encoder_window", "trimmed", "--model.s2p.encoder_sizes.type", "wav2vec2"],
         "model.s2p.encoder_window", "Whisper"),
        (["--model.s2p.encoder", "a", "--model.s2p.path", "b"], "model.s2p.encoder", "model.s2p.path"),
        (["--model.p2t.pretrained", "a", "--model.p2t.path", "b"], "model.p2t.pretrained", "model.p2t.path"),
        (["--stage", "joint"], "model.s2p.path", "both stages"),
        (["--stage", "joint", "--model.s2p.path", "a"], "model.p2t.path", "both stages"),
        (["--data.train", "[{path: a, streaming: true}]"], "training.max_steps", "streaming"),
        (["--data.train", "[]"], "data.train", "nothing to train on"),
        (["--data.validation", "[]"], "data.validation", "eval_strategy"),
        (["--stage", "p2t", "--data.train", "[]"], "data.text", "synthetic_sentences"),
        (["--stage", "p2t", "--data.validation", "[]"], "data.text_validation", "synthetic_validation_sentences"),
        (["--training.fp16", "--training.use_cpu"], "training.fp16", "use_cpu"),
        (["--training.fp16", "--training.bf16"], "training.fp16", "bf16"),
        (["--training.eval_strategy", "steps"], "training.load_best_model_at_end", "make them equal"),
        (["--training.eval_strategy", "no"], "training.load_best_model_at_end", "needs evaluation"),
        (["--training.eval_strategy", "steps", "--training.save_strategy", "steps", "--training.save_steps", "30",
          "--training.eval_steps", "20"], "training.load_best_model_at_end", "multiple of eval_steps, got 30 and 20"),
        (["--training.load_best_model_at_end", "false", "--training.early_stopping_patience", "2"],
         "training.early_stopping_patience", "load_best_model_at_end"),
        (["--training.dataloader_prefetch_factor", "2"], "training.dataloader_prefetch_factor", "num_workers"),
        (["--training.dataloader_persistent_workers"], "training.dataloader_persistent_workers", "num_workers"),
        (["--training.resume", "auto", "--training.save_only_model"], "training.save_only_model", "resume"),
        (["--publish.push"], "publish.repo_id", "must be set"),
        (["--lora.rank", "8"], "lora.rank", "pre-trained"),
        (["--lora.rank", "8", "--stage", "p2t"], "lora.rank", "stage s2p"),
        (["--lora.rank", "8", "--lora.target_modules", "[]"], "lora.target_modules", "at least one"),
    ],
)  # fmt: skip
def test_impossible_pairs(read, argv, key, words):
    error = error_of(read, *argv)
    assert error.key == key
    assert words in error.message


def test_possible_neighbours_of_the_impossible_pairs(read):
    read("--cache.encoder_states")
    read("--model.s2p.encoder_window", "trimmed")
    read("--stage", "joint", "--model.s2p.path", "a", "--model.p2t.path", "b", "--cache.s2p_outputs")
    read("--data.train", "[{path: a, streaming: true}]", "--training.max_steps", "10")
    read("--data.validation", "[]", "--training.eval_strategy", "no", "--training.load_best_model_at_end", "false")
    read("--training.eval_strategy", "steps", "--training.eval_steps", "20", "--training.save_strategy", "steps",
         "--training.save_steps", "40")  # fmt: skip
    read("--lora.rank", "8", "--model.s2p.encoder", "x")
    read_config(["--stage", "p2t", "--data.synthetic_sentences", "5", "--data.synthetic_validation_sentences", "5"])


def test_names_are_filled_into_paths(read):
    config = read("--name", "x", "--model.s2p.path", "runs/{name}/s2p/model", "--data.train", "[{path: '{name}/d'}]")
    assert config.training.output_dir == "runs/x/s2p"
    assert config.model.s2p.path == "runs/x/s2p/model"
    assert config.data.train[0].path == "x/d"


def test_error_of_a_default_names_no_place(read):
    assert error_of(read, "--data.validation", "[]").place == "command line"
    with pytest.raises(ConfigError) as caught:
        read_config([])
    assert caught.value.place == "" and str(caught.value).startswith("data.train: nothing to train on")
