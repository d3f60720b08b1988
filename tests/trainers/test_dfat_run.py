"""`train_dfat` from a config to a published folder, on tones: streams, fusions, resumption, refusals, configs."""

import csv
import io
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from transformers import pipeline

from trainers.checkpoint_folder import check_folder, files_to_publish
from trainers.checks import ConfigError
from trainers.config import read_config
from trainers.dfat import train_dfat
from trainers.dfat.arguments import DFATArguments
from trainers.dfat.features import batches, read_transcripts, transcripts
from trainers.runs import RunError, plan_run
from trainers.ser_arguments import SERRunConfig

for package in ("xgboost", "optuna", "skops"):
    pytest.importorskip(package)

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
RECIPES = sorted((CONFIGS / "ser").glob("dfat*.yaml"))
TEXTS = {"neutral": ("xin chào các bạn", "hôm nay trời đẹp"), "angry": ("mày đi đâu đấy", "tao ghét mày")}


def write_split(folder: Path, count: int, speakers: int, seed: int) -> None:
    """High tones are angry; the transcripts say so too, now and then."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "id", "emotion", "speaker", "text"])
        for number in range(count):
            emotion = ("neutral", "angry", "neutral")[number % 3]
            time_s = np.arange(round(16_000 * (0.3 + 0.02 * (number % 5)))) / 16_000
            audio = 0.1 * np.sin(2 * np.pi * (1500 if emotion == "angry" else 400) * time_s)
            audio = audio + 0.05 * rng.standard_normal(len(audio))
            soundfile.write(folder / f"{number}.wav", audio, 16_000)
            text = TEXTS[emotion][number % 2] if number % 4 else ""
            row_id = f"{folder.name}-{number}"
            table.writerow([f"{number}.wav", row_id, emotion, f"{folder.name}{number % speakers}", text])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "tones"
    write_split(folder / "train", 30, 6, seed=0)
    write_split(folder / "validation", 12, 3, seed=1)
    return folder


NO_EVALUATION = {"training__eval_strategy": "no", "training__load_best_model_at_end": "false"}
SMALL = {
    "model.dfat.folds": "2", "model.dfat.trials": "1", "model.dfat.num_trees": "5",
    "model.dfat.acoustic.filterbank.num_mel_bins": "16", "model.dfat.acoustic.filterbank.num_cepstra": "6",
    "model.dfat.acoustic.pooling": "statistics", "model.dfat.text.size": "8", "model.dfat.text.embedding_size": "8",
    "model.dfat.text.epochs": "4", "training.use_cpu": "true", "training.eval_strategy": "epoch",
}  # fmt: skip


def config_of(corpus: Path, out: Path, **changes: str) -> SERRunConfig:
    values = {
        **SMALL,
        "system": "dfat",
        "data.train": f"[{{path: {corpus}, split: train}}]",
        "data.validation": f"[{{path: {corpus}, split: validation}}]",
        "training.output_dir": str(out),
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return read_config([word for key, value in values.items() for word in (f"--{key}", value)], SERRunConfig)


def train(corpus: Path, out: Path, **changes: str) -> dict[str, float]:
    config = config_of(corpus, out, **changes)
    return train_dfat(config, plan_run(config), ["scripts/train_ser.py", "--config", "configs/ser/dfat_small.yaml"])


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "dual"
    return out, train(corpus, out)


def test_the_dual_fusion_learns_and_reports_its_parts(finished):
    out, scores = finished
    assert scores["eval_uar"] > 0.9 and scores["oof_uar"] > 0.9
    parts = {"lr", "rf", "xgb", "acoustic_lr", "text_lr"}
    assert {f"{split}_uar_{part}" for split in ("oof", "eval") for part in parts} <= set(scores)
    assert {"eval_accuracy", "eval_f1_macro", "oof_accuracy", "oof_f1_macro"} <= set(scores)
    weights = [scores[f"weight_{name}"] for name in ("lr", "rf", "xgb")]
    assert sum(weights) == pytest.approx(1) and min(weights) >= 0
    saved = json.loads((out / "metrics.json").read_text())
    assert saved.items() >= scores.items() and saved["stage"] == "dfat" and saved["seconds"] > 0


def test_the_folder_is_whole_and_answers(finished, corpus):
    out, _ = finished
    model = out / "model"
    assert check_folder(model) == [] and not (out / "model.partial").exists()
    published = files_to_publish(model)
    assert {f"classifiers/{name}" for name in ("lr.skops", "rf.skops", "xgb.json", "digests.json")} <= set(published)
    assert {"model.safetensors", "tokenizer.json", "preprocessor_config.json", "README.md"} <= set(published)
    card = (model / "README.md").read_text(encoding="utf-8")
    assert ("UAR" in card and "lr 0." in card) or "lr 1." in card
    from models.dfat import DFATPipeline

    dfat = pipeline("audio-classification", model=str(model), pipeline_class=DFATPipeline, device="cpu")
    rows = list(csv.DictReader((corpus / "validation" / "metadata.csv").open(encoding="utf-8")))
    right = 0
    for row in rows:
        audio, rate = soundfile.read(corpus / "validation" / row["file_name"], dtype="float32")
        best = dfat({"array": audio, "sampling_rate": rate, "text": row["text"]})[0]["label"]
        right += best == ("negative" if row["emotion"] == "angry" else "neutral")
    # The same figure that training reports.
    saved = json.loads((out / "metrics.json").read_text())
    assert right / len(rows) == pytest.approx(saved["eval_accuracy"])


def test_a_run_is_never_written_over_and_a_resumed_one_is_the_same(finished, corpus, tmp_path, monkeypatch):
    out, scores = finished
    with pytest.raises(RunError, match="finished run"):
        train(corpus, out)
    import trainers.dfat.fusing as fusing

    real, calls = fusing.tune, []

    def killed(*args, **options):
        calls.append(real(*args, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(fusing, "tune", killed)
    with pytest.raises(KeyboardInterrupt):
        train(corpus, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.setattr(fusing, "tune", real)
    import trainers.dfat.features as features

    # The recordings have been heard.
    monkeypatch.setattr(features, "read_audio", lambda *args: pytest.fail("heard twice"))
    assert train(corpus, tmp_path / "run", training__resume="auto") == scores


@pytest.mark.parametrize(
    ("changes", "members"),
    [
        ({"fusion": "early"}, 1),
        ({"fusion": "late_streams", "classifiers": "[lr, rf]"}, 4),
        ({"streams": "[acoustic]", "classifiers": "[lr]", "fusion": "early"}, 1),
        ({"streams": "[text]", "classifiers": "[xgb, lr]", "trials": "0"}, 2),
        ({"text.network": "transformer", "text.tokens": "bpe", "classifiers": "[lr]"}, 1),
    ],
    ids=["early", "late", "baseline", "text", "transformer"],
)  # fmt: skip
def test_streams_classifiers_and_fusions_are_switches(corpus, tmp_path, changes, members):
    scores = train(corpus, tmp_path / "run", **{f"model__dfat__{key}": value for key, value in changes.items()})
    weights = {name: value for name, value in scores.items() if name.startswith("weight_")}
    assert len(weights) == members and sum(weights.values()) == pytest.approx(1) and 0 <= scores["eval_uar"] <= 1
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    assert len(config["members"]) == members
    if changes.get("fusion") == "early" and "classifiers" not in changes:
        best = max(scores[f"oof_uar_{name}"] for name in ("lr", "rf", "xgb"))
        assert scores[f"oof_uar_{next(iter(weights)).removeprefix('weight_')}"] == best == scores["oof_uar"]
    if "late" in changes.get("fusion", ""):
        assert set(weights) == {f"weight_{s}_{k}" for s in ("acoustic", "text") for k in ("lr", "rf")}
        assert len(list((tmp_path / "run/model/classifiers").iterdir())) == 5
    if changes.get("streams") == "[acoustic]":
        assert not (tmp_path / "run/model/tokenizer.json").exists() and scores["eval_uar"] > 0.9


def test_a_pretrained_encoder_is_pooled(corpus, tmp_path):
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    from models.dfat import DFATForAudioClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = Wav2Vec2Config(**sizes, conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
    encoder = Wav2Vec2Model(config).eval()
    encoder.save_pretrained(tmp_path / "encoder")
    options = {
        "model__dfat__classifiers": "[lr]", "model__dfat__streams": "[acoustic]",
        "model__dfat__acoustic__pooling": "mean",
    }  # fmt: skip
    for layer, name in (("null", "last"), ("1", "first")):
        train(
            corpus, tmp_path / name, model__dfat__acoustic__encoder=str(tmp_path / "encoder"),
            model__dfat__acoustic__layer=layer, **options,
        )  # fmt: skip
    model = DFATForAudioClassification.from_pretrained(tmp_path / "last" / "model")
    audio = torch.randn(1, 8_000) * 0.1
    normed = (audio - audio.mean()) / torch.sqrt(audio.var(unbiased=False) + 1e-7)
    heard = normed if model.config.encoder_specs[0].normalise else audio
    with torch.no_grad():
        states = encoder(heard, output_hidden_states=True).hidden_states
    torch.testing.assert_close(model.acoustic_features(audio), states[2].mean(1), atol=1e-4, rtol=1e-3)
    first = DFATForAudioClassification.from_pretrained(tmp_path / "first" / "model")
    torch.testing.assert_close(first.acoustic_features(audio), states[1].mean(1), atol=1e-4, rtol=1e-3)
    for path, layer in ((str(tmp_path / "nowhere"), "null"), (str(tmp_path / "encoder"), "3")):
        with pytest.raises(ConfigError, match=r"acoustic\.(encoder|layer)"):
            train(corpus, tmp_path / "no", model__dfat__acoustic__encoder=path, model__dfat__acoustic__layer=layer,
                  **options)  # fmt: skip


def test_without_validation_data_out_of_fold_figures_remain(corpus, tmp_path):
    scores = train(
        corpus, tmp_path / "run", data__validation="[]", **NO_EVALUATION,
        model__dfat__classifiers="[lr]", model__dfat__streams="[acoustic]",
    )  # fmt: skip
    assert scores["oof_uar"] > 0.9 and not [name for name in scores if name.startswith("eval")]


def test_starts_that_are_refused(corpus, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="augmentation"):
        train(corpus, tmp_path / "run", data__augmentation__speed="0.1")
    with pytest.raises(ConfigError, match=r"text\.recogniser: cannot load"):
        train(corpus, tmp_path / "other", model__dfat__text__recogniser=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="no training row of class"):
        train(corpus, tmp_path / "run", labels="{neutral: [neutral], sad: [sad], negative: [angry]}")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        train(corpus, tmp_path / "run")
    monkeypatch.delenv("WORLD_SIZE")
    import trainers.dfat.training as training

    monkeypatch.setattr(training, "find_spec", lambda name: None if name == "skops" else "there")
    with pytest.raises(ConfigError, match="pip install 'skops"):
        train(corpus, tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_rows_without_transcripts_need_a_recogniser(tmp_path):
    write_split(tmp_path / "corpus" / "train", 6, 3, seed=0)
    table = tmp_path / "corpus" / "train" / "metadata.csv"
    rows = list(csv.reader(table.open(encoding="utf-8")))
    lines = io.StringIO()
    csv.writer(lines).writerows([row[:4] for row in rows])
    table.write_text(lines.getvalue(), encoding="utf-8")
    with pytest.raises(ConfigError, match="recogniser"):
        train(tmp_path / "corpus", tmp_path / "run", data__validation="[]", **NO_EVALUATION)


def test_transcripts_are_recognised_once(tmp_path, monkeypatch, caplog):
    import trainers.recognisers as recognisers

    heard = []

    class Loaded:
        kind = "ctc"

    def recognise(loaded, rows):
        heard.extend(row["id"] for row in rows)
        return recognisers.Recognised([f"text {row['id']}" for row in rows], None, 0.0, 0.0)

    monkeypatch.setattr(recognisers, "load_recogniser", lambda name, device: Loaded())
    monkeypatch.setattr(recognisers, "recognise", recognise)

    class Table(list):
        def __getitem__(self, key):
            return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    rows = Table({"id": str(number), "audio": None, "text": "own"} for number in range(70))
    path = tmp_path / "transcripts.jsonl"
    found = transcripts(rows, "some/asr", path, "cpu")
    assert found == [f"text {number}" for number in range(70)] and len(heard) == 70
    lines = path.read_text(encoding="utf-8")
    # Killed while it wrote: the last line is cut, and one is of another recogniser.
    path.write_text(lines[:-12] + "\n" + json.dumps({"id": "3", "recogniser": "other", "text": "no"}), "utf-8")
    assert transcripts(rows, "some/asr", path, "cpu") == found and heard[70:] == ["69"]
    assert "damaged" in caplog.text and len(read_transcripts(path, "some/asr")) == 70
    assert transcripts(rows, "some/asr", path, "cpu") == found and len(heard) == 71
    assert transcripts(rows, None, path, "cpu") == ["own"] * 70


def test_batches_hold_every_row_once():
    durations = [3.0, None, 59.0, 61.0, 200.0, 1.0, 59.5]
    found = list(batches(durations))
    assert sorted(row for batch in found for row in batch) == list(range(7))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(durations[row] or 0 for row in batch) <= 120
    assert found[0] == [4] and list(batches([])) == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse_shrink_and_repeat_nothing(path):
    config = read_config(["--config", str(path)], SERRunConfig)
    assert config.system == "dfat" and config.data.train
    small = read_config(["--config", str(path), "--config", str(CONFIGS / "smoke.yaml")], SERRunConfig).model.dfat
    assert small.acoustic.encoder is None and small.text.recogniser is None and small.trials == 1
    assert f"configs/ser/{path.name}" in path.read_text(encoding="utf-8")

    def leaves(tree, prefix=""):
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]

    def merged(name):
        tree = yaml.safe_load((path.parent / name).read_text(encoding="utf-8"))
        below = merged(tree["base"]) if tree.get("base") else {}
        return below | dict(leaves(tree))

    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    below = merged(own["base"])
    assert not [key for key, value in leaves(own) if key in below and below[key] == value]
    # Nor what is the default anyway.
    defaults = dict(leaves(json.loads(json.dumps(DFATArguments(), default=vars)), "model.dfat."))
    assert not [key for key, value in leaves(own) if key not in below and defaults.get(key, ...) == value]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--model.dfat.streams", "[]"], "model.dfat.streams"),
        (["--model.dfat.streams", "[text, text]"], "each once"),
        (["--model.dfat.classifiers", "[svm]"], "one of lr, rf, xgb"),
        (["--model.dfat.fusion", "late_streams", "--model.dfat.streams", "[text]"], "two streams"),
        (["--model.dfat.folds", "1"], "folds"),
        (["--model.dfat.weight_step", "0.3"], "whole number"),
        (["--model.dfat.weight_step", "0.001"], "coarser"),
        (["--model.dfat.text.size", "7"], "even"),
        (["--model.dfat.text.network", "transformer", "--model.dfat.text.num_heads", "3"], "num_heads"),
        (["--model.dfat.acoustic.filterbank.num_cepstra", "80"], "num_cepstra"),
        (["--model.dfat.acoustic.filterbank.deltas", "3"], "deltas"),
        (["--model.dfat.trials", "-1"], "trials"),
        (["--model.dfat.acoustic.encoder", "''"], "encoder"),
    ],
)
def test_settings_out_of_range_are_named(argv, words):
    with pytest.raises(ConfigError, match=words):
        read_config(["--system", "dfat", "--data.train", "[{path: a}]", "--data.validation", "[{path: b}]", *argv],
                    SERRunConfig)  # fmt: skip


def test_arguments_need_no_torch():
    script = "import sys; import trainers.dfat, trainers.dfat.arguments; sys.exit('torch' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_script_trains_dfat(corpus, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"data:\n  train: [{{path: {corpus}}}]\n  validation: [{{path: {corpus}, split: validation}}]\n")
    main = runpy.run_path(str(ROOT / "scripts" / "train_ser.py"))["main"]
    recipe = str(CONFIGS / "ser" / "dfat_mfcc_baseline.yaml")
    scores = main([
        "--config", recipe, "--config", str(config), "--config", str(CONFIGS / "smoke.yaml"),
        "--training.output_dir", str(tmp_path / "run"),
    ])  # fmt: skip
    assert scores["eval_uar"] > 0.9 and (tmp_path / "run/model/classifiers/lr.skops").is_file()
