"""Every config we ship parses with the real parser, builds on what it names, and repeats nothing of it."""

import itertools
import json
import os
import re
from pathlib import Path

import pytest
import yaml
from config_kit import CONFIGS, lines_of, name, repeated

from trainers.arguments import Config
from trainers.config import dump_config, read_config
from trainers.layers import read_file

ROOT = Path(__file__).resolve().parents[2]
STAGES = [CONFIGS / "tspc" / f"{stage}.yaml" for stage in ("s2p", "p2t", "joint")]
DEMO = [CONFIGS / "demo" / f"{stage}.yaml" for stage in ("s2p", "p2t", "joint")]
OVERLAYS = sorted([*CONFIGS.glob("*.yaml"), *(CONFIGS / "tspc").glob("*.yaml"), *(CONFIGS / "demo").glob("*.yaml")])
ACCELERATE = sorted((CONFIGS / "accelerate").glob("*.yaml"))


def test_all_of_them_are_tested():
    ours = {path for path in CONFIGS.rglob("*.yaml") if not {"asr", "ser", "curation"} & set(path.parts)}
    assert ours == {*OVERLAYS, *ACCELERATE}


@pytest.mark.parametrize("path", [*STAGES, *DEMO], ids=name)
def test_recipes_parse(path):
    config = read_config(["--config", str(path)])
    assert isinstance(config, Config)
    assert config.stage == path.stem
    assert config.training.output_dir == f"runs/{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", [*STAGES, *DEMO], ids=name)
def test_smoke_shrinks_every_recipe(path):
    config = read_config(["--config", str(path), "--config", str(CONFIGS / "smoke.yaml")])
    assert config.stage == path.stem
    assert config.training.output_dir == f"runs/smoke/{path.stem}"
    assert config.training.max_steps <= 4 and config.training.use_cpu and not config.training.bf16
    assert config.data.max_rows <= 16 and config.data.synthetic_sentences <= 64
    assert config.model.s2p.encoder is None and config.model.p2t.pretrained is None
    if path.stem == "joint":
        assert config.model.s2p.path == "runs/smoke/s2p/model"
        assert config.model.p2t.path == "runs/smoke/p2t/model"


@pytest.mark.parametrize(
    "argv",
    [
        ["--data.train", "[{path: a, streaming: true}]", "--training.max_steps", "1000"],
        ["--training.eval_strategy", "no", "--training.load_best_model_at_end", "false", "--data.validation", "[]"],
        ["--model.s2p.encoder_sizes.type", "wav2vec2", "--training.fp16", "true", "--training.use_cpu", "false"],
        ["--publish.push", "true", "--publish.repo_id", "a/b"],
        ["--training.dataloader_num_workers", "4", "--training.dataloader_prefetch_factor", "2"],
        ["--model.s2p.encoder", "a/b", "--lora.rank", "8"],
    ],
    ids=["streaming", "no-evaluation", "wav2vec2-fp16", "push", "workers", "lora"],
)
def test_smoke_works_on_any_run(argv, tmp_path):
    # Not the recipes alone: what a user's own config may hold must not collide with the overlay.
    base = ["--data.train", "[{path: a}]", "--data.validation", "[{path: b}]"]
    whole = read_config([*base, *argv])
    own = tmp_path / "own.yaml"
    own.write_text(dump_config(whole), encoding="utf-8")
    config = read_config(["--config", str(own), "--config", str(CONFIGS / "smoke.yaml")])
    assert not config.publish.push and config.training.max_steps == 4 and config.lora.rank == 0


@pytest.mark.parametrize("path", OVERLAYS, ids=name)
def test_overlays_repeat_nothing(path):
    assert not repeated(path)


def test_the_repeat_check_catches_a_repeat(tmp_path):
    (tmp_path / "base.yaml").write_text("training: {seed: 1, max_steps: 2}", encoding="utf-8")
    (tmp_path / "over.yaml").write_text("base: base.yaml\ntraining: {seed: 1, max_steps: 3}", encoding="utf-8")
    assert repeated(tmp_path / "over.yaml") == ["training.seed"]


@pytest.mark.parametrize("path", OVERLAYS, ids=name)
def test_recipes_stay_short_and_explain_themselves(path):
    # smoke.yaml serves every script that trains.
    most = 30 if path in STAGES else 120 if path.stem == "smoke" else 50
    lines = lines_of(path, most)
    if path in STAGES:
        text = "\n".join(lines)
        assert f"accelerate launch scripts/train_tspc.py --config configs/tspc/{path.name}" in text
        assert "Data:" in text and "not yet run" in text and "paper" in text
        # Every value is preceded by its help.
        for above, line in itertools.pairwise(lines):
            if re.match(r" +\w+: \S", line):
                assert above.lstrip().startswith("#") or re.match(r" +\w+_(strategy|steps): ", above), line


@pytest.mark.parametrize("path", ACCELERATE, ids=name)
def test_accelerate_configs_load(path, monkeypatch):
    from accelerate.commands.config.config_args import load_config_from_file

    monkeypatch.chdir(ROOT)
    loaded = load_config_from_file(str(path))
    assert path.read_text(encoding="utf-8").startswith("#")
    assert loaded.distributed_type.value in {
        "cpu": "NO",
        "zero2": "DEEPSPEED",
        "zero3": "DEEPSPEED",
        "fsdp2": "FSDP",
    }.get(path.stem, "MULTI_GPU")
    # A key that accelerate does not know must not pass: it would be dropped.
    assert set(read_file(path).items) <= set(vars(loaded))


def test_deepspeed_files_take_sizes_from_the_training_config(monkeypatch):
    monkeypatch.chdir(ROOT)
    for stage in (2, 3):
        settings = yaml.safe_load((CONFIGS / f"accelerate/zero{stage}.yaml").read_text(encoding="utf-8"))
        path = Path(settings["deepspeed_config"]["deepspeed_config_file"])
        assert os.path.exists(path)
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["zero_optimization"]["stage"] == stage
        for key in ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps"):
            assert content[key] == "auto"
