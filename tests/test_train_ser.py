"""`scripts/train_ser.py` end to end on tones: learnt, resumed, cached, adapted, refused, and ready to be published."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file
from script_kit import ROOT, Script, as_if_killed
from transformers import pipeline

from models.ser import SERForAudioClassification
from trainers.checkpoint_folder import check_folder
from trainers.config import read_config
from trainers.runs import read_metrics
from trainers.ser_arguments import SERRunConfig

pytestmark = pytest.mark.usefixtures("in_the_repository")
SCRIPT = Script("train_ser")
run, refused = SCRIPT.run, SCRIPT.refused
# High tones are negative. Happiness is of no class, and one row has no emotion.
EMOTIONS = ("neutral", "angry", "calm", "sad", "neutral", "neutral", "happy", "")
HIGH = ("angry", "sad", "negative", "surprised")


def write_split(folder: Path, count: int, emotions=EMOTIONS, texts=("",)) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(list(f"{folder.parent.name}/{folder.name}".encode()))
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "id", "emotion", *(["text"] if any(texts) else [])])
        for number in range(count):
            emotion = emotions[number % len(emotions)]
            time_s = np.arange(round(16_000 * (0.5 + 0.02 * (number % 9)))) / 16_000
            audio = 0.1 * np.sin(2 * np.pi * (1800 if emotion in HIGH else 300) * time_s)
            audio *= number % 8 > 0  # some clips are silent
            soundfile.write(folder / f"{number}.wav", audio + 0.01 * rng.standard_normal(len(audio)), 16_000)
            text = [texts[number % len(texts)]] if any(texts) else []
            table.writerow([f"{number}.wav", f"{folder.parent.name}-{folder.name}-{number}", emotion, *text])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Two corpora, one of them without a text column, and a config that names them."""
    root = tmp_path_factory.mktemp("ser")
    write_split(root / "tones" / "train", 16)
    write_split(root / "tones" / "validation", 8)
    write_split(root / "said" / "train", 8, ("negative", "neutral", "surprised"), ("Còn 5 đồng!", "", "tao mày"))
    (root / "mine.yaml").write_text(
        f"data:\n  train: [{{path: {root}/tones, split: train}}, {{path: {root}/said, split: train}}]\n"
        f"  validation: [{{path: {root}/tones, split: validation}}]\n"
        # What said calls surprised is negative there.
        "label_maps: {said: {neutral: [neutral], negative: [negative, surprised]}}\n"
        f"training: {{output_dir: '{root}/runs/{{name}}/{{stage}}', disable_tqdm: true}}\n",
        encoding="utf-8",
    )
    return root


def arguments(workspace: Path, config: str, *more: str, name: str = "smoke") -> list[str]:
    argv = ["--config", f"configs/ser/{config}.yaml", "--config", str(workspace / "mine.yaml")]
    argv += ["--config", "configs/smoke.yaml", "--name", name, "--data.short_medium.ratio", "0"]
    return [*argv, *more]


# A steady tone is nothing but the mean of its frames.
FRAMES = "[{kind: filterbank, normalise: false, config: {num_mel_bins: 40}}]"
FILTERBANK = ["--model.fusion.encoders", FRAMES, "--data.max_rows", "100"]
LEARNT = [*FILTERBANK, "--model.fusion.head", "mlp", "--training.max_steps", "8", "--training.learning_rate", "1e-2"]
# None may be dropped: what is of no class is not counted among them.
LEARNT += ["--training.save_steps", "4", "--training.eval_steps", "4", "--data.max_dropped", "0"]


@pytest.fixture(scope="module")
def knn(workspace) -> Path:
    """The run directory of the runner-up's recipe, its encoder a filter bank."""
    scores = run(*arguments(workspace, "tiny/supcon_knn", *LEARNT, name="knn"))
    assert scores["eval_uar"] >= scores["eval_uar_without_knn"]
    return workspace / "runs" / "knn" / "fusion"


def test_a_run_directory_holds_everything(knn, workspace):
    config = read_config(["--config", str(knn / "config.yaml")], SERRunConfig)
    assert config.system == "fusion" and config.knn.enabled and config.sampling.balanced
    entries = read_metrics(knn)
    losses = [entry for entry in entries if "loss" in entry]
    assert len(losses) == 8 and all(
        entry["loss"] == pytest.approx(0.7 * entry["ce_loss"] + 0.3 * entry["supcon_loss"], rel=1e-4)
        for entry in losses
    )
    scores = json.loads((knn / "metrics.json").read_text(encoding="utf-8"))
    assert scores["stage"] == "fusion" and {"eval_accuracy", "eval_f1_macro", "eval_recall_negative"} <= set(scores)
    assert scores["eval_uar"] == 1.0
    card = (knn / "model" / "README.md").read_text(encoding="utf-8")
    assert "scripts/train_ser.py" in card and str(workspace) not in card and "100.00" in card
    assert all(check_folder(model) == [] for model in [knn / "model", *knn.glob("checkpoint-*")])


def test_emotions_of_no_class_are_left_out_and_counted(knn):
    report = json.loads((knn / "drop_report-train-0-emotions.json").read_text(encoding="utf-8"))
    assert report["counts"]["dropped"] == {"emotion_without_class": 2, "no_emotion": 2}
    # Surprise is of a class in this corpus alone; digits of a transcript that nobody reads are no reason to drop it.
    report = json.loads((knn / "drop_report-train-1-emotions.json").read_text(encoding="utf-8"))
    assert report["counts"]["dropped"] == {} and report["num_rows"] == 8


def test_the_finished_model_is_one_of_transformers(knn, workspace):
    classify = pipeline("audio-classification", str(knn / "model"), trust_remote_code=True)
    saved = json.loads((knn / "model" / "knn.json").read_text(encoding="utf-8"))
    assert saved["num_keys"] == 20 and saved["label_names"] == ["neutral", "negative"]
    assert classify.model.datastore.beta == saved["beta"]
    files = {"neutral": "2.wav", "negative": "1.wav"}
    for label, file in files.items():
        (best, _) = classify(str(workspace / "tones" / "validation" / file))
        assert best["label"] == label


def test_resumed_run_gives_the_same_weights_and_neighbours(knn, workspace, capsys):
    argv = arguments(workspace, "tiny/supcon_knn", *LEARNT, name="knn")
    assert "already holds a finished run" in refused(capsys, *argv)
    changed = refused(capsys, *argv, "--training.resume", "auto", "--labels", "{neutral: [neutral], negative: [sad]}")
    assert "labels" in changed and "calm" in changed
    cut = workspace / "runs" / "cut" / "fusion"
    as_if_killed(knn, cut, 8)
    run(*argv, "--training.resume", "auto", f"--training.output_dir={cut}")
    for part in ("checkpoint-8/model.safetensors", "model/model.safetensors", "model/knn.safetensors"):
        first, again = (load_file(folder / part) for folder in (knn, cut))
        # To the bit in a process of its own.
        assert all(np.allclose(first[name], again[name], rtol=1e-4, atol=1e-6) for name in first), part
    losses = [[(e["step"], e["loss"]) for e in read_metrics(folder) if "loss" in e] for folder in (knn, cut)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_resumed_run_is_bit_identical(workspace):
    argv = arguments(workspace, "tiny/emotion2vec", name="bits")
    argv += ["--training.eval_strategy", "steps", "--training.save_strategy", "steps"]
    SCRIPT.launch(*argv)
    whole = workspace / "runs" / "bits" / "emotion2vec"
    cut = whole.with_name("cut")
    as_if_killed(whole, cut, 4)
    SCRIPT.launch(*argv, "--training.resume", "true", f"--training.output_dir={cut}")
    for part in ("checkpoint-4/model.safetensors", "model/model.safetensors"):
        assert (cut / part).read_bytes() == (whole / part).read_bytes(), part
    assert read_metrics(cut)[-1]["eval_loss"] == read_metrics(whole)[-1]["eval_loss"]


def test_transcripts_are_read_where_there_are_some(workspace):
    """The digits of one stay, another is empty, and the rows of a whole corpus have none."""
    run(*arguments(workspace, "cross_attention", "--knn.enabled", "false", name="text"))
    folder = workspace / "runs" / "text" / "fusion" / "model"
    assert check_folder(folder) == [] and (folder / "tokenizer.json").is_file()
    classify = pipeline("audio-classification", str(folder), trust_remote_code=True)
    audio = {"array": np.zeros(8000, np.float32), "sampling_rate": 16_000}
    scores = [classify({**audio, "text": text})[0]["score"] for text in ("", "tao mày")]
    assert scores[0] != scores[1]
    # Trained on with its own tokenizer.
    more = ["--model.fusion.path", str(folder), "--training.max_steps", "1", "--training.eval_strategy", "no"]
    more += ["--training.load_best_model_at_end", "false", "--training.early_stopping_patience", "null"]
    run(*arguments(workspace, "cross_attention", *more, "--knn.enabled", "false", name="text-on"))
    again = workspace / "runs" / "text-on" / "fusion" / "model"
    assert (again / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_cached_features_train_the_same_model(workspace):
    found = {}
    for cached in ("true", "false"):
        cache = ["--cache.features", cached, "--cache.folder", str(workspace / "cache"), "--knn.enabled", "true"]
        argv = arguments(workspace, "plus_large_mlp", *cache, name=f"cached-{cached}")
        found[cached] = run(*argv)["eval_loss"]
    assert found["true"] == pytest.approx(found["false"], abs=2e-3)
    folders = [workspace / "runs" / f"cached-{cached}" / "fusion" / "model" for cached in ("true", "false")]
    keys = [load_file(folder / "knn.safetensors")["keys"] for folder in folders]
    np.testing.assert_allclose(keys[0], keys[1], atol=5e-3)
    assert list((workspace / "cache").iterdir())


def test_adapters_on_a_pre_trained_encoder(workspace, tmp_path):
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    Wav2Vec2Model(Wav2Vec2Config(**sizes)).save_pretrained(tmp_path / "encoder")
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path / "encoder")
    more = ["--model.fusion.encoders", f"[{{path: {tmp_path}/encoder, features: 2}}]", "--lora.rank", "2"]
    run(*arguments(workspace, "supcon_knn", *more, "--sampling.corpora", "false", name="lora"))
    folder = workspace / "runs" / "lora" / "fusion"
    assert check_folder(folder / "model") == [] and (folder / "base" / "config.json").is_file()
    before, after = (SERForAudioClassification.from_pretrained(folder / part) for part in ("base", "model"))
    moved = {name for name, value in after.state_dict().items() if not value.equal(before.state_dict()[name])}
    assert {name.rsplit(".", 2)[1] for name in moved if name.startswith("encoders")} == {"q_proj", "v_proj"}
    assert {name.split(".")[0] for name in moved} >= {"encoders", "head", "projection"}
    card = json.loads((folder / "model" / "card.json").read_text(encoding="utf-8"))
    assert after.datastore is not None and card["training"]["lora_rank"] == 2
    assert card["training"]["knn_neighbours"] == after.datastore.k


def test_emotion2vec_with_its_own_classifier_or_another(workspace, capsys):
    run(*arguments(workspace, "emotion2vec", "--labels", "{neutral: [neutral], calm: [calm], high: [angry, sad]}",
                   "--label_maps", "{said: {neutral: [neutral], high: [negative]}}", name="three"))  # fmt: skip
    three = workspace / "runs" / "three" / "emotion2vec" / "model"
    kept = ["--model.emotion2vec.new_head", "false", "--labels", "{high: [angry, sad], neutral: [neutral]}"]
    # Sizes of smoke.yaml are for a model from scratch.
    own, tiny = workspace / "path.yaml", f"base: {ROOT}/configs/ser/tiny/corpus.yaml"
    own.write_text(
        f"{tiny}\nsystem: emotion2vec\nmodel: {{emotion2vec: {{path: {three}}}}}\n"
        "training: {max_steps: 2, eval_steps: 2, save_steps: 2}\n",
        encoding="utf-8",
    )
    base = ["--config", str(own), "--config", str(workspace / "mine.yaml"), "--label_maps", "{}", *kept]
    scores = run(*base, "--name", "kept", "--data.train", f"[{{path: {workspace}/tones}}]")
    assert {"eval_recall_high", "eval_recall_neutral"} <= set(scores)
    classify = pipeline("audio-classification", str(workspace / "runs/kept/emotion2vec/model"), trust_remote_code=True)
    assert {one["label"] for one in classify(np.zeros(8000, np.float32))} == {"neutral", "high"}
    other = ["--labels", "{sad: [sad], neutral: [neutral]}", "--name", "other"]
    lacking = refused(capsys, *base[:-1], "{sad: [sad], neutral: [neutral]}", "--name", "other")
    assert "new_head" in lacking and "has no class sad; it has neutral, calm, high" in lacking
    adapted = ["--lora.rank", "2", "--lora.target_modules", "[qkv, proj]", "--model.emotion2vec.new_head", "true"]
    run(*base, *adapted, *other[2:], "--data.train", f"[{{path: {workspace}/tones}}]")
    assert check_folder(workspace / "runs" / "other" / "emotion2vec" / "model") == []


def test_bad_starts_are_one_clear_error(knn, workspace, capsys, tmp_path):
    write_split(tmp_path / "happy" / "train", 4, ("happy", "neutral"))
    write_split(tmp_path / "odd" / "train", 4, ("neutral", "furious"))
    headless = tmp_path / "headless"
    shutil.copytree(knn / "model", headless)
    from safetensors.numpy import save_file

    weights = load_file(headless / "model.safetensors")
    weights = {name: value for name, value in weights.items() if not name.startswith("head.classifier")}
    save_file(weights, headless / "model.safetensors", metadata={"format": "pt"})
    for more, words in (
        (["--data.train", f"[{{path: {tmp_path}/happy}}]"], "no training row of class negative (rows: neutral 2)"),
        (["--data.train", f"[{{path: {tmp_path}/odd}}]"], "unknown emotion 'furious'; allowed are neutral"),
        (["--model.fusion.path", str(tmp_path / "nothing")], "model.fusion.path: no such folder"),
        (["--model.fusion.path", str(headless)], "head.classifier.weight"),
        (["--model.fusion.path", str(knn / "model"), "--labels", "{calm: [calm], angry: [angry]}", "--label_maps",
          "{said: {calm: [neutral], angry: [negative]}}"], "is a model of neutral, negative; set labels to these"),
        (["--model.fusion.encoders", "[{kind: filterbank, config: {num_mel_bins: 0}}]"], "num_mel_bins"),
        (["--model.fusion.head", "speechformer", "--model.fusion.speechformer.projection", "31"],
         "multiple of speechformer_heads"),
    ):  # fmt: skip
        message = refused(capsys, *arguments(workspace, "tiny/filterbank", *more, name="bad"))
        assert "cannot start:" in message and words in message, message
    assert not (workspace / "runs" / "bad" / "fusion" / "model").exists()


def test_a_class_that_validation_lacks_is_a_warning(workspace, caplog, tmp_path):
    write_split(tmp_path / "low" / "validation", 4, ("neutral",))
    more = [*FILTERBANK, "--data.validation", f"[{{path: {tmp_path}/low, split: validation}}]"]
    with caplog.at_level("WARNING", logger="trainers.metrics.classes"):
        scores = run(*arguments(workspace, "tiny/filterbank", *more, "--training.max_steps", "2", name="lacking"))
    assert "no evaluation row of class negative" in caplog.text and scores["eval_uar"] <= 0.5
