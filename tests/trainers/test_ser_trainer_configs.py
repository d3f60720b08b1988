"""Every config of an emotion classifier parses, repeats nothing of what it builds on, and is shrunk by smoke.yaml."""

from dataclasses import fields, is_dataclass

import pytest
from config_kit import CONFIGS, lines_of, name, repeated

from models.emotion2vec.configuration_emotion2vec import Emotion2VecConfig
from trainers.checks import ConfigError
from trainers.config import dump_config, field_help, read_config
from trainers.ser_arguments import SERRunConfig

FILES = sorted(path for path in (CONFIGS / "ser").rglob("*.yaml") if not path.stem.startswith("dfat"))
RECIPES = [path for path in FILES if not path.stem.startswith("corp")]
SPEECH = ["--data.train", "[{path: corpus}]", "--data.validation", "[{path: corpus, split: validation}]"]
FUSION = [*SPEECH, "--model.fusion.encoders", "[{kind: filterbank}]"]


def read(*argv: str) -> SERRunConfig:
    return read_config([*FUSION, *argv], SERRunConfig)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipes_parse_and_shrink(path):
    data = SPEECH if path.parent.name == "tiny" else []
    config = read_config(["--config", str(path), *data], SERRunConfig)
    assert list(config.labels) == ["neutral", "negative"] and config.data.train
    small = read_config(["--config", str(path), "--config", str(CONFIGS / "smoke.yaml"), *data], SERRunConfig)
    assert small.training.max_steps == 4 and small.training.use_cpu and not small.training.bf16
    assert small.training.output_dir == f"runs/smoke/{config.system}" and not small.cache.features
    assert all(source.path is None for source in small.model.fusion.encoders)
    assert small.model.emotion2vec.path is None and small.system == config.system and small.data.max_rows == 16
    # Sizes of the recipe that smoke.yaml leaves as they were would not fit its own.
    Emotion2VecConfig(**small.model.emotion2vec.config)
    # The first rows may all be short.
    assert not small.data.short_medium.ratio


def test_recipes_of_one_system_have_folders_of_their_own():
    of_the_paper = [path for path in RECIPES if path.parent.name == "ser"]
    runs = [read_config(["--config", str(path)], SERRunConfig).training.output_dir for path in of_the_paper]
    assert len(set(runs)) == len(runs) == 6


@pytest.mark.parametrize("path", FILES, ids=name)
def test_overlays_repeat_nothing_and_explain_themselves(path):
    assert not repeated(path)
    lines = lines_of(path, most=50)
    if path in RECIPES and path.parent.name == "ser":
        assert f"configs/ser/{path.name}" in "\n".join(lines) and "Data:" in "\n".join(lines)


def test_the_dumped_config_is_the_config_and_every_field_has_its_help(tmp_path):
    maps = "{iemocap: {neutral: [neutral], negative: [negative, sad]}}"
    config = read("--label_maps", maps, "--class_weights", "[1, 2.5]", "--model.fusion.supcon.weight", "0.3")
    assert config.label_maps["iemocap"]["negative"] == ["negative", "sad"] and config.class_weights == [1, 2.5]
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert read_config(["--config", str(path)], SERRunConfig) == config
    model = config.model
    sections = [config, *vars(config).values(), *vars(model).values(), *vars(model.fusion).values()]
    for section in [*sections, model.fusion.encoders[0]]:
        if is_dataclass(section):
            assert set(field_help(type(section))) >= {item.name for item in fields(section)}, section


ENCODER = "--model.fusion.encoders"


@pytest.mark.parametrize(
    ("argv", "key", "words"),
    [
        (["--labels", "{neutral: [neutral]}"], "labels", "at least two classes"),
        (["--labels", "{neutral: [neutral], negative: [cross]}"], "labels.negative", "no emotion 'cross'; allowed"),
        (["--labels", "{neutral: [sad], negative: [sad]}"], "labels.negative", "'sad' is of class 'neutral' already"),
        (["--label_maps", "{visec: {angry: [angry]}}"], "label_maps.visec.angry", "neutral, negative"),
        (["--class_weights", "even"], "class_weights", "none, balanced or a list"),
        (["--class_weights", "[1]"], "class_weights", "for each of neutral, negative"),
        (["--class_weights", "balanced", "--sampling.balanced", "true"], "sampling.balanced", "twice"),
        (["--sampling.balanced", "true", "--data.train", "[{path: a, weight: 2}]"], "sampling.balanced", "weights"),
        (["--sampling.corpora", "true"], "sampling.corpora", "needs sampling.balanced"),
        ([ENCODER, "[]"], "model.fusion.encoders", "no encoder"),
        ([ENCODER, "[{features: 9}]"], "model.fusion.encoders[0].path", "or kind"),
        ([ENCODER, "[{path: a/b, features: last}]"], "model.fusion.encoders[0].features", "conv, mix or the number"),
        ([ENCODER, "[{path: a/b, config: {hidden_size: 8}}]"], "model.fusion.encoders[0].config", "built here"),
        ([ENCODER, "[{kind: wav2vec}]"], "model.fusion.encoders[0].kind", "did you mean wav2vec2"),
        (["--model.fusion.reads_text", "true"], "model.fusion.reads_text", "cross_attention"),
        (["--model.fusion.fusion", "cross_attention", "--model.fusion.fusion_heads", "3"],
         "model.fusion.fusion_heads", "divide"),
        (["--model.fusion.supcon.weight", "1.5"], "model.fusion.supcon.weight", "at most 1"),
        (["--model.fusion.speechformer.layers", "[1]"], "model.fusion.speechformer.layers", "four numbers"),
        (["--model.emotion2vec.new_head", "false"], "model.emotion2vec.new_head", "model.emotion2vec.path"),
        (["--model.emotion2vec.freeze", "backbone"], "model.emotion2vec.freeze", "random weights"),
        (["--data.augmentation.time_masks", "2"], "data.augmentation", "waveforms"),
        (["--cache.features", "true", "--data.augmentation.speed", "0.1"], "cache.features", "augmentation"),
        (["--cache.features", "true", ENCODER, "[{path: a/b, frozen: false}]"], "cache.features", "frozen"),
        (["--cache.features", "true", "--system", "emotion2vec"], "cache.features", "fusion"),
        (["--knn.enabled", "true", "--system", "emotion2vec"], "knn.enabled", "fusion"),
        (["--knn.enabled", "true", "--data.validation", "[]", "--training.eval_strategy", "no",
          "--training.load_best_model_at_end", "false"], "knn.enabled", "validation"),
        (["--knn.betas", "[2]"], "knn.betas", "at most 1"),
        (["--lora.rank", "4"], "lora.rank", "pre-trained encoder"),
        (["--lora.rank", "4", ENCODER, "[{path: a/b}]"], "model.fusion.encoders", "number of a layer"),
        (["--lora.rank", "4", "--system", "emotion2vec"], "lora.rank", "pre-trained model"),
        (["--lora.rank", "4", "--system", "dfat"], "lora.rank", "dfat"),
        (["--training.label_smoothing_factor", "0.1"], "training.label_smoothing_factor", "model.fusion"),
        (["--training.optim_args", "momentum=0.9"], "training.optim_args", "is for sgd"),
        (["--training.optim_args", "momentun=0.9", "--training.optim", "sgd"], "training.optim_args", "momentum"),
        (["--data.train", "[{path: a, streaming: true}]", "--training.max_steps", "5"], "data.train", "streaming"),
        (["--model.zipformer.size", "x"], "model.zipformer", "unknown key"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_its_key(argv, key, words):
    with pytest.raises(ConfigError) as caught:
        read(*argv)
    assert caught.value.key == key and words in str(caught.value)


def test_the_better_uar_is_the_larger_one(tmp_path):
    settings = read().training
    assert settings.build(tmp_path, metric_for_best_model="uar", run_name="x").greater_is_better is True
    assert settings.build(tmp_path, metric_for_best_model="loss", run_name="x").greater_is_better is False
    settings.greater_is_better = False
    assert settings.build(tmp_path, metric_for_best_model="uar", run_name="x").greater_is_better is False


def test_further_arguments_reach_sgd(tmp_path):
    cpu = ["--training.bf16", "false", "--training.use_cpu", "true"]
    config = read_config(["--config", str(CONFIGS / "ser" / "speechformer.yaml"), *cpu], SERRunConfig)
    args = config.training.build(tmp_path, metric_for_best_model="uar", run_name="x")
    assert args.optim == "sgd" and args.optim_args == "momentum=0.9"
    assert args.lr_scheduler_kwargs == {"min_lr_rate": 0.01}
