"""`scripts/train_asr.py` end to end on tiny audio: every system; resumed, refused, and ready to be published."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file
from script_kit import Script, as_if_killed
from transformers import AutoTokenizer

from trainers.asr_arguments import ASRConfig
from trainers.checkpoint_folder import check_folder
from trainers.config import read_config
from trainers.runs import read_metrics

pytestmark = pytest.mark.usefixtures("in_the_repository")
SCRIPT = Script("train_asr")
run, refused = SCRIPT.run, SCRIPT.refused
SENTENCES = ["xin chào", "hôm nay họp nhóm", "một hai ba", "thứ sáu ngày mai", "tôi đi học", "bốn năm sáu"]


def write_split(folder: Path, texts: list[str], seconds: list[float]) -> None:
    """A folder of tones, one for each text."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(texts))
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "id", "text"])
        for number, (text, length_s) in enumerate(zip(texts, seconds, strict=True)):
            time_s = np.arange(round(16_000 * length_s)) / 16_000
            audio = 0.1 * np.sin(2 * np.pi * (200 + 60 * (number % 6)) * time_s)
            soundfile.write(folder / f"{number}.wav", audio + 0.01 * rng.standard_normal(len(audio)), 16_000)
            table.writerow([f"{number}.wav", f"{folder.name}-{number}", text])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A folder with 12 + 3 synthetic utterances of a second and a config that names them."""
    root = tmp_path_factory.mktemp("asr")
    # Two that cannot be learned: a recording shorter than the subsampling, and one shorter than its text.
    texts = [SENTENCES[number % 6] for number in range(10)] + ["xin chào", "hôm nay họp nhóm thứ sáu ngày mai"]
    write_split(root / "data" / "train", texts, [1.0 + 0.05 * number for number in range(10)] + [0.11, 0.3])
    write_split(root / "data" / "validation", SENTENCES[:3], [1.0, 1.1, 1.2])
    (root / "mine.yaml").write_text(
        f"data:\n  train: [{{path: {root}/data, split: train}}]\n"
        f"  validation: [{{path: {root}/data, split: validation}}]\n"
        f"training: {{output_dir: '{root}/runs/{{name}}/{{stage}}', disable_tqdm: true}}\n"
        "averaging: {start: 0.0}\n",
        encoding="utf-8",
    )
    return root


def arguments(workspace: Path, system: str, *more: str, name: str = "smoke") -> list[str]:
    config = {"zipformer": "asr/zipformer_30m", "fastconformer": "asr/fastconformer"}[system]
    argv = ["--config", f"configs/{config}.yaml", "--config", str(workspace / "mine.yaml")]
    argv += ["--config", "configs/smoke.yaml", "--name", name, "--data.short_medium.ratio", "0"]
    return [*argv, *more]


@pytest.fixture(scope="module")
def trained(workspace) -> dict[str, Path]:
    """The run directory of each system, trained once."""
    for system in ("zipformer", "fastconformer"):
        run(*arguments(workspace, system))
    return {system: workspace / "runs" / "smoke" / system for system in ("zipformer", "fastconformer")}


@pytest.mark.parametrize("system", ["zipformer", "fastconformer"])
def test_a_run_directory_holds_everything(trained, workspace, system):
    folder = trained[system]
    config = read_config(["--config", str(folder / "config.yaml")], ASRConfig)
    assert config == read_config(arguments(workspace, system), ASRConfig)
    losses = [entry["loss"] for entry in read_metrics(folder) if "loss" in entry]
    assert len(losses) == 4 and all(np.isfinite(losses))
    scores = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert scores["stage"] == system and scores["eval_wer"] >= 0 and scores["steps"] == 4
    assert scores["eval_ctc_loss"] > 0
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "scripts/train_asr.py" in card and str(workspace) not in card
    assert check_folder(folder / "model") == []
    assert all(check_folder(model) == [] for model in folder.glob("checkpoint-*"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert tokenizer.convert_tokens_to_ids(["<blank>", "<unk>"]) == [0, 1] and tokenizer.pad_token_id == 0
    assert tokenizer.decode(tokenizer("hôm nay quỳnh")["input_ids"]) == "hôm nay quỳnh"


def test_labels_that_do_not_fit_are_dropped_and_counted(trained):
    report = json.loads((trained["zipformer"] / "drop_report-labels.json").read_text(encoding="utf-8"))
    assert report["counts"]["dropped"] == {"label_too_long": 2}
    assert [finding["row_id"] for finding in report["findings"]] == ["train-10", "train-11"]
    start = json.loads((trained["zipformer"] / "model" / "card.json").read_text(encoding="utf-8"))
    assert start["training"]["optimiser"] == "scaled_adam" and "CTC" in start["training"]["loss"]


def test_resumed_run_gives_the_same_weights(trained, workspace, capsys):
    assert "already holds a finished run" in refused(capsys, *arguments(workspace, "zipformer"))
    changed = arguments(workspace, "zipformer", "--training.resume", "auto", "--tokenizer.bpe_vocab_size", "190")
    assert "tokenizer.bpe_vocab_size: was 200, now 190" in refused(capsys, *changed)
    # As if the process had died after the checkpoint of step 2.
    whole = trained["zipformer"]
    cut = workspace / "runs" / "cut" / "zipformer"
    as_if_killed(whole, cut, 4)
    run(*arguments(workspace, "zipformer", "--training.resume", "auto", f"--training.output_dir={cut}"))
    for part in ("checkpoint-4/model.safetensors", "checkpoint-4/average.safetensors", "model/model.safetensors"):
        first, again = (load_file(folder / part) for folder in (whole, cut))
        # To the bit in a process of its own; here memory lies elsewhere, and sums of floats with it.
        assert all(np.allclose(first[name], again[name], rtol=1e-4, atol=1e-6) for name in first), part
    losses = [[(e["step"], e["loss"]) for e in read_metrics(folder) if "loss" in e] for folder in (whole, cut)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_resumed_run_is_bit_identical(workspace):
    argv = arguments(workspace, "zipformer", name="bits")
    SCRIPT.launch(*argv)
    whole = workspace / "runs" / "bits" / "zipformer"
    cut = whole.with_name("cut")
    as_if_killed(whole, cut, 4)
    SCRIPT.launch(*argv, "--training.resume", "true", f"--training.output_dir={cut}")
    for part in ("checkpoint-4/model.safetensors", "checkpoint-4/average.safetensors", "model/model.safetensors"):
        assert (cut / part).read_bytes() == (whole / part).read_bytes(), part
    assert read_metrics(cut)[-1]["eval_loss"] == read_metrics(whole)[-1]["eval_loss"]


@pytest.mark.parametrize("system", ["zipformer", "fastconformer"])
def test_a_trained_model_is_trained_on_with_its_tokenizer(trained, workspace, system):
    more = [f"--model.{system}.path", str(trained[system] / "model"), "--training.max_steps", "1"]
    more += ["--training.eval_strategy", "no", "--training.save_strategy", "no", "--training.early_stopping_patience"]
    run(*arguments(workspace, system, *more, "null", "--training.load_best_model_at_end", "false", name="on"))
    folder = workspace / "runs" / "on" / system
    assert check_folder(folder / "model") == []
    files = [(one / "model" / "tokenizer.json").read_bytes() for one in (trained[system], folder)]
    assert files[0] == files[1]


def test_bad_starts_are_one_clear_error(trained, workspace, capsys, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece: i for i, piece in enumerate(["<blank>", "<unk>", *"▁abcdefghijklmnopqrstuvwxyzăâđêôơư"])}
    toneless = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    toneless.pre_tokenizer = pre_tokenizers.Metaspace()
    toneless = PreTrainedTokenizerFast(tokenizer_object=toneless, pad_token="<blank>", unk_token="<unk>")
    toneless.save_pretrained(tmp_path / "toneless")
    zipformer = str(trained["zipformer"] / "model")
    misfit = tmp_path / "misfit"
    shutil.copytree(zipformer, misfit)
    tokenizer = AutoTokenizer.from_pretrained(misfit)
    tokenizer.add_tokens(["nhớ"])
    tokenizer.save_pretrained(misfit)
    # smoke.yaml takes paths away, so what is given here must come after it.
    for more, words in (
        (["--tokenizer.path", str(tmp_path / "toneless")], "cannot write 60 of the 60 vowels with a tone mark"),
        (["--tokenizer.path", str(tmp_path / "nothing")], "tokenizer.path: no such folder"),
        (["--tokenizer.bpe_vocab_size", "40"], "vocab_size is 40; the alphabet"),
        (["--model.zipformer.path", str(misfit)], "the model emits"),
        (["--model.zipformer.path", str(trained["fastconformer"] / "model")], "model.zipformer.path: cannot load"),
        (["--model.zipformer.sizes.num_heads", "[2, 2, 2]"], "num_heads has 3 numbers for 2 stacks"),
        (["--data.max_dropped", "0.1"], "label_too_long"),
    ):
        message = refused(capsys, *arguments(workspace, "zipformer", *more, name="bad"))
        assert "cannot start:" in message
        assert words in message
    assert not (workspace / "runs" / "bad" / "zipformer" / "model").exists()
