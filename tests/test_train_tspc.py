"""`scripts/train_tspc.py` end to end on tiny audio: every stage; resumed, refused, cached, adapted, in parallel."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file
from script_kit import Script, as_if_killed

from trainers.checkpoint_folder import check_folder
from trainers.config import read_config
from trainers.runs import read_metrics

pytestmark = pytest.mark.usefixtures("in_the_repository")
SCRIPT = Script("train_tspc")
run, refused = SCRIPT.run, SCRIPT.refused
SENTENCES = ["xin chào", "hôm nay họp team", "một hai ba", "deadline ngày mai", "tôi đi học", "bốn năm sáu"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A folder with 12 + 4 synthetic utterances of half a second and a config that names them."""
    root = tmp_path_factory.mktemp("tspc")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 4)):
        folder = root / "data" / split
        folder.mkdir(parents=True)
        with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "id", "text"])
            for number in range(count):
                time_s = np.arange(8000 + 800 * number) / 16_000
                audio = 0.1 * np.sin(2 * np.pi * (200 + 60 * (number % 6)) * time_s)
                soundfile.write(folder / f"{number}.wav", audio + 0.01 * rng.standard_normal(len(audio)), 16_000)
                table.writerow([f"{number}.wav", f"{split}-{number}", SENTENCES[number % 6]])
    (root / "mine.yaml").write_text(
        f"data:\n  train: [{{path: {root}/data, split: train}}]\n"
        f"  validation: [{{path: {root}/data, split: validation}}]\n"
        f"training: {{output_dir: '{root}/runs/{{name}}/{{stage}}', disable_tqdm: true}}\n"
        f"cache: {{folder: {root}/cache}}\n",
        encoding="utf-8",
    )
    return root


def arguments(workspace: Path, stage: str, *more: str, name: str = "smoke") -> list[str]:
    argv = ["--config", f"configs/tspc/{stage}.yaml", "--config", str(workspace / "mine.yaml")]
    argv += ["--config", "configs/smoke.yaml", "--name", name]
    if stage == "joint":
        argv += [f"--model.{one}.path={workspace}/runs/smoke/{one}/model" for one in ("s2p", "p2t")]
    return [*argv, *more]


@pytest.fixture(scope="module")
def trained(workspace) -> dict[str, Path]:
    """The run directory of each stage, trained once."""
    for stage in ("s2p", "p2t", "joint"):
        run(*arguments(workspace, stage))
    return {stage: workspace / "runs" / "smoke" / stage for stage in ("s2p", "p2t", "joint")}


@pytest.mark.parametrize("stage", ["s2p", "p2t", "joint"])
def test_a_run_directory_holds_everything(trained, workspace, stage):
    folder = trained[stage]
    config = read_config(["--config", str(folder / "config.yaml")])
    assert config == read_config(arguments(workspace, stage))
    (start,) = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    assert start["command"].split()[0].endswith("train_tspc.py") and start["world_size"] == 1
    logged = read_metrics(folder)
    losses = [entry["loss"] for entry in logged if "loss" in entry]
    assert len(losses) == 4 and all(np.isfinite(losses))
    metric = "per_vmd" if stage == "s2p" else "wer"
    scores = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert 0 <= scores[f"eval_{metric}"] <= 2 and scores["steps"] == 4
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "scripts/train_tspc.py" in card and str(workspace) not in card
    evaluation = json.loads((folder / "model" / "card.json").read_text(encoding="utf-8"))["evaluations"]
    assert [(e["split"], set(e["metrics"]) >= {metric}) for e in evaluation] == [("validation", True)]
    for model in (folder / "model", *folder.glob("checkpoint-*")):
        assert check_folder(model) == []
    assert not (folder / "model" / "training_args.bin").exists()


def test_the_finished_model_is_the_best_checkpoint(trained):
    folder = trained["joint"]
    best = json.loads((sorted(folder.glob("checkpoint-*"))[-1] / "trainer_state.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "model" / "model.safetensors")
    kept = load_file(Path(best["best_model_checkpoint"]) / "model.safetensors")
    assert all(np.array_equal(weights[name], kept[name]) for name in kept)
    s2p = load_file(trained["s2p"] / "model" / "model.safetensors")
    assert all(np.array_equal(weights[f"s2p.{name}"], tensor) for name, tensor in s2p.items())


def test_a_run_is_never_written_over_and_resumes_to_the_same_weights(trained, workspace, capsys):
    assert "already holds a finished run" in refused(capsys, *arguments(workspace, "p2t"))
    changed = arguments(workspace, "p2t", "--training.resume", "auto", "--training.seed", "7")
    assert "training.seed: was 42, now 7" in refused(capsys, *changed)
    # As if the process had died after the checkpoint of step 2.
    whole = workspace / "runs" / "smoke" / "p2t"
    cut = workspace / "runs" / "cut" / "p2t"
    as_if_killed(whole, cut, 4)
    run(*arguments(workspace, "p2t", "--training.resume", "auto", f"--training.output_dir={cut}"))
    first, again = (load_file(folder / "checkpoint-4" / "model.safetensors") for folder in (whole, cut))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    losses = [[(e["step"], e["loss"]) for e in read_metrics(folder) if "loss" in e] for folder in (whole, cut)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("wav2vec2", ["--model.s2p.encoder_window", "padded", "--model.s2p.encoder_sizes.type", "wav2vec2",
                      "--model.s2p.encoder_sizes.conv_dim", "16", "--model.s2p.decoder", "gru"]),
        ("bert", ["--model.s2p.encoder_window", "padded", "--model.s2p.encoder_sizes.type", "wav2vec2-bert",
                  "--model.s2p.decoder", "lstm", "--model.s2p.ctc_weight", "0.3"]),
        ("cached", ["--model.s2p.freeze_encoder", "true", "--cache.encoder_states", "true"]),
        ("augmented", ["--data.augmentation", "{speed: 0.1, gain_db: 6, noise_snr_db: 10, time_masks: 1}",
                       "--training.label_smoothing_factor", "0.1", "--training.gradient_checkpointing", "true"]),
    ],
)  # fmt: skip
def test_variants_of_s2p(workspace, name, more):
    run(*arguments(workspace, "s2p", *more, name=name))
    assert check_folder(workspace / "runs" / name / "s2p" / "model") == []


@pytest.mark.parametrize("stage", ["s2p", "p2t"])
def test_streams(workspace, stage):
    source = f"[{{path: {workspace}/data, streaming: true}}]"
    more = ["--data.train", source, "--data.synthetic_sentences", "0", "--training.per_device_train_batch_size", "3"]
    run(*arguments(workspace, stage, *more, name="stream"))
    losses = [e["loss"] for e in read_metrics(workspace / "runs" / "stream" / stage) if "loss" in e]
    assert len(losses) == 4 and all(np.isfinite(losses))


def test_adapters_are_merged_into_a_plain_model(trained, workspace):
    # Not the best checkpoint, which may be the first, before anything moved.
    more = ["--training.load_best_model_at_end", "false", "--training.early_stopping_patience", "null"]
    more += ["--model.s2p.path", str(trained["s2p"] / "model"), "--lora.rank", "2"]
    run(*arguments(workspace, "s2p", *more, name="lora"))
    folder = workspace / "runs" / "lora" / "s2p"
    assert check_folder(folder / "model") == []
    before = load_file(trained["s2p"] / "model" / "model.safetensors")
    after = load_file(folder / "model" / "model.safetensors")
    assert set(before) <= set(after)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    targets = {
        name for name in before if name.startswith("encoder.") and name.endswith(("q_proj.weight", "v_proj.weight"))
    }
    assert targets <= moved
    assert not {name for name in moved if name.startswith("encoder.")} - targets
    assert any(name.startswith("decoder.") for name in moved)


def test_joint_from_cached_outputs(trained, workspace):
    run(*arguments(workspace, "joint", "--cache.s2p_outputs", "true", name="joint-cached"))
    losses = [
        [entry["loss"] for entry in read_metrics(workspace / "runs" / name / "joint") if "loss" in entry]
        for name in ("smoke", "joint-cached")
    ]
    # The cache holds half precision.
    np.testing.assert_allclose(losses[0], losses[1], atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["multi_gpu", "zero2", "zero3"])
def test_two_processes_give_the_curve_of_one(trained, workspace, backend):
    launcher = ["-m", "accelerate.commands.launch", "--config_file", f"configs/accelerate/{backend}.yaml"]
    launcher += ["--num_processes", "2", "--main_process_port", "0" if backend == "multi_gpu" else "29611"]
    # One global batch: two batches a step by accumulation, or one on each of two processes. No dropout: each rank
    # draws its own.
    plain = ["--training.load_best_model_at_end", "false", "--training.early_stopping_patience", "null"]
    plain += ["--training.eval_strategy", "no", "--training.save_strategy", "no", "--model.s2p.dropout", "0"]
    plain += ["--model.s2p.encoder_sizes.dropout", "0", "--data.batch_duration_s", "null"]
    single = workspace / "runs" / "single" / "s2p"
    if not single.is_dir():
        extra = ["--training.gradient_accumulation_steps", "2", "--training.per_device_train_batch_size", "3"]
        run(*arguments(workspace, "s2p", *plain, *extra, name="single"))
    argv = arguments(workspace, "s2p", *plain, "--training.per_device_train_batch_size", "3", name=backend)
    SCRIPT.launch(*argv, launcher=launcher)
    folder = workspace / "runs" / backend / "s2p"
    (start,) = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    assert start["world_size"] == 2
    losses = [[e["loss"] for e in read_metrics(one) if "loss" in e] for one in (single, folder)]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-4)
    assert check_folder(folder / "model") == []


def test_bad_data_is_one_clear_error(workspace, capsys):
    argv = arguments(workspace, "s2p", "--data.train", "[{path: nowhere/at/all}]", name="bad")
    message = refused(capsys, *argv)
    assert message.splitlines()[-1].startswith("cannot start:") and "nowhere/at/all" in message
    # Nothing was trained, so the mended config may use the same folder.
    assert not (workspace / "runs" / "bad" / "s2p" / "config.yaml").exists()


def test_stages_that_do_not_exist_yet_are_one_clear_error(workspace, capsys):
    argv = arguments(workspace, "joint", "--model.s2p.path", f"{workspace}/nothing", name="early")
    assert "model.s2p.path: no such folder" in refused(capsys, *argv)


def test_publishing_needs_a_token_before_training(workspace, capsys, monkeypatch):
    monkeypatch.setattr("trainers.training.get_token", lambda: None)
    argv = arguments(workspace, "p2t", "--publish.push", "true", "--publish.repo_id", "a/b", name="push")
    assert "publish.push: needs a token" in refused(capsys, *argv)


def test_a_hub_out_of_reach_is_found_out_before_training(workspace, capsys, monkeypatch):
    # The Hub is switched off in tests.
    monkeypatch.setattr("trainers.training.get_token", lambda: "hf_test")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    argv = arguments(workspace, "p2t", "--publish.push", "true", "--publish.repo_id", "a/b", name="offline")
    assert "publish.push: HF_HUB_OFFLINE is set" in refused(capsys, *argv)
    assert not (workspace / "runs" / "offline" / "p2t" / "model").exists()
