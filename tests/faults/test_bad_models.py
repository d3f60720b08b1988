"""Bad checkpoints and model folders, K1 to K9: refused by name before anything is run or allocated."""

import itertools
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from bad_inputs import Checker, covers, encode, voice
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from publishing.tiny_tspc import save_tiny_models

from trainers import checkpoints
from trainers.checks import ConfigError
from trainers.config import read_config
from trainers.runs import Run, RunError, settle_checkpoint


class Bomb:
    """Leaves a mark wherever it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.fixture
def check(faults):
    return Checker(faults)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def copy(models, tmp_path):
    """`copy("s2p")`: a model folder to spoil."""
    return lambda kind: Path(shutil.copytree(models[kind], tmp_path / kind))


@pytest.fixture
def transcribe(tmp_path, capsys, monkeypatch):
    """`transcribe(folder)`: status and message of the command."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    from scripts.transcribe import main

    (tmp_path / "a.wav").write_bytes(encode(voice()))

    numbers = itertools.count()

    def run(folder, *more):
        status = main([str(tmp_path / "a.wav"), "--model", str(folder), "--device", "cpu", *more,
                       "--output", str(tmp_path / f"out-{next(numbers)}.jsonl")])  # fmt: skip
        return status, capsys.readouterr().err

    return run


def start_from(folder, stage="s2p"):
    """What a training run says about starting from a folder."""
    from trainers.assembly import build_processor_and_model

    data = ["--data.train", "[{path: a}]", "--data.validation", "[{path: b}]"]
    config = read_config(["--stage", stage, f"--model.{stage}.path", str(folder), *data])
    with pytest.raises(ConfigError) as caught:
        build_processor_and_model(config)
    return str(caught.value)


def change_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")


@covers("K1", "K2")
def test_weight_files_that_are_damaged(copy, transcribe, check):
    folder = copy("tspc")
    weights = folder / "model.safetensors"
    size = weights.stat().st_size
    for part in (size // 2, 100, 4, 0):
        os.truncate(weights, part)
        status, said = transcribe(folder)
        named = str(folder) in said and "older checkpoint" in said
        check("K1", status == 2 and named, said)
    folder = copy("s2p")
    weights = folder / "model.safetensors"
    weights.write_bytes((1 << 62).to_bytes(8, "little") + weights.read_bytes()[8:])
    status, said = transcribe(folder)
    check("K2", status == 2 and str(folder) in said, said)
    check("K2", "damaged" in (said := start_from(folder)) and "model.s2p.path" in said, said)


@covers("K3")
def test_vocabularies_of_other_sizes(copy, models, transcribe, check):
    from tokenizers import Tokenizer

    folder = copy("s2p")
    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    change_config(folder, lambda config: config.update(vocab_size=size + 6))
    shapes = [f"({size}, 16)", f"({size + 6}, 16)", "decoder.embed_tokens.weight"]
    status, said = transcribe(folder)
    check("K3", status == 2 and all(word in said for word in shapes), said)
    check("K3", all(word in (said := start_from(folder)) for word in shapes), said)
    # Weights and config agree, the tokenizer is of another model.
    folder = copy("p2t")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["extra", "more"])
    tokenizer.save(str(folder / "tokenizer.json"))
    said = start_from(folder, "p2t")
    check("K3", "the text tokenizer has 112 tokens but the model has 110 text embeddings" in said, said)
    folder = copy("tspc")
    shutil.copyfile(models["p2t"] / "tokenizer.json", folder / "phoneme_tokenizer" / "tokenizer.json")
    status, said = transcribe(folder)
    check("K3", status == 2 and f"tokens but the model emits {size}" in said, said)


@covers("K4")
def test_layers_that_are_missing_or_too_many(copy, transcribe, check):
    folder = copy("s2p")
    whole = load_file(folder / "model.safetensors")
    gone = "decoder.layers.0.fc1.weight"
    gone = gone if gone in whole else next(name for name in whole if name.startswith("decoder.layers.0"))
    extra = {**whole, "decoder.layers.7.fc1.weight": torch.zeros(16, 16)}
    short = {name: tensor for name, tensor in whole.items() if name != gone}
    for tensors, name, words in ((short, gone, "missing"), (extra, "decoder.layers.7.fc1.weight", "no place")):
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        status, said = transcribe(folder)
        check("K4", status == 2 and name in said and words in said, said)
        check("K4", name in (said := start_from(folder)), said)


@covers("K5", "K6")
def test_pickles_in_a_model_folder(copy, transcribe, check, tmp_path):
    mark = tmp_path / "mark"
    folder = copy("s2p")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"):
        (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    status, said = transcribe(folder)
    check("K6", status == 0 and not mark.exists(), said)
    from trainers.publishing import files_to_publish

    check(
        "K6",
        not [name for name in files_to_publish(folder) if not name.endswith((".json", ".md", ".py", ".safetensors"))],
    )
    # Without safetensors the pickle is not taken instead.
    (folder / "model.safetensors").unlink()
    status, said = transcribe(folder)
    check("K5", status == 2 and str(folder) in said and not mark.exists(), said)
    check("K5", "model.s2p.path" in (said := start_from(folder)) and not mark.exists(), said)
    baseline = tmp_path / "whisper"
    from publishing.tiny_baselines import save_tiny_whisper

    save_tiny_whisper(baseline)
    for path in baseline.glob("*.safetensors"):
        path.unlink()
    (baseline / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    status, said = transcribe(baseline)
    check("K5", status == 2 and str(baseline) in said and not mark.exists(), said)


@covers("K5", "K7")
def test_pickles_in_a_checkpoint(check, tmp_path, monkeypatch, caplog):
    mark = tmp_path / "mark"
    for sealed in (False, True):
        run = tmp_path / f"run-{sealed}"
        folder = run / "checkpoint-4"
        (folder / "global_step4").mkdir(parents=True)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "global_step4/mp_rank_00_model_states.pt"):
            (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
        if not sealed:
            settled = settle_checkpoint(Run(run, folder))
            named = "checkpoint-4 cannot be used: seal.json is missing" in caplog.text
            check("K5", settled.checkpoint is None and named and not mark.exists(), caplog.text)
            continue
        # As a stranger would: with a seal that fits, under a key of their own.
        monkeypatch.setenv(checkpoints.KEY_VARIABLE, str(tmp_path / "stranger"))
        checkpoints.seal(folder, {})
        monkeypatch.setenv(checkpoints.KEY_VARIABLE, str(tmp_path / "own"))
        with pytest.raises(RunError) as caught:
            settle_checkpoint(Run(run, folder))
        said = str(caught.value)
        check("K7", "pickled DeepSpeed states" in said and str(folder) in said and not mark.exists(), said)


@covers("K8")
@pytest.mark.parametrize(
    "kind, change",
    [
        ("s2p", {"d_model": 1 << 24}),
        ("s2p", {"vocab_size": 1 << 40}),
        ("s2p", {"decoder_layers": 10**9}),
        ("s2p", {"max_target_positions": 10**12}),
        ("tspc", {"p2t_config": {"d_ff": 1 << 40}}),
        ("tspc", {"s2p_config": {"encoder_config": {"encoder_layers": 10**8}}}),
        ("tspc", {"s2p_config": {"encoder_config": {"max_source_positions": 10**12}}}),
    ],
    ids=str,
)
def test_huge_dimensions(kind, change, copy, transcribe, check, monkeypatch):
    def update(config, change):
        for key, value in change.items():
            if isinstance(value, dict):
                update(config[key], value)
            else:
                config[key] = value

    folder = copy(kind)
    change_config(folder, lambda config: update(config, change))
    # Not even the skeleton of the model is built.
    monkeypatch.setattr(torch.nn.Linear, "__init__", lambda *_, **__: pytest.fail("a layer was built"))
    status, said = transcribe(folder)
    check("K8", status == 2 and str(folder) in said and "parameters" in said, said)


@covers("K9")
def test_code_beside_a_model(copy, transcribe, check, tmp_path):
    mark = tmp_path / "mark"
    evil = f"import os\nos.mkdir({str(mark)!r})\n"
    folder = copy("tspc")
    for name in folder.glob("*.py"):
        name.write_text(evil, encoding="utf-8")
    change_config(folder, lambda config: config.update(auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.M"}))
    (folder / "evil.py").write_text(evil, encoding="utf-8")
    status, said = transcribe(folder)
    check("K9", status == 0 and not mark.exists(), said)
    change_config(folder, lambda config: config.update(model_type="evil"))
    status, said = transcribe(folder)
    check("K9", status == 2 and str(folder) in said and not mark.exists(), said)
