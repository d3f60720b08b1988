"""Bad configs, C1 to C4: the training command ends with status 2 and says file, line and key."""

import pytest
from bad_inputs import Checker, covers

from trainers.config import load_config, read_config

SPEECH = "data: {train: [{path: a}], validation: [{path: a, split: validation}]}\n"


@pytest.fixture
def check(faults):
    return Checker(faults)


@pytest.fixture
def refused(tmp_path, capsys, check):
    """`refused("C1", "training: {...}", "words")`: what the command says about a file or an option."""

    def ask(code, text, *words, argv=()):
        path = tmp_path / "mine.yaml"
        path.write_text(SPEECH + text, encoding="utf-8")
        with pytest.raises(SystemExit) as left:
            load_config(["--config", str(path), *argv])
        said = capsys.readouterr().err
        check(code, left.value.code == 2 and all(word in said for word in words), said)

    return ask


@covers("C1")
def test_unknown_keys(refused):
    refused(
        "C1", "training: {learning_rte: 1e-4}", "mine.yaml:2: training.learning_rte", "mean training.learning_rate?"
    )
    refused(
        "C1", "", "command line: data.max_row: unknown key; did you mean data.max_rows?", argv=["--data.max_row", "3"]
    )


@covers("C2")
def test_numbers_by_the_type_of_their_key(refused, tmp_path, check):
    for text in ("1e-4", "0.0001", "1.0e-4"):
        path = tmp_path / "good.yaml"
        path.write_text(f"{SPEECH}training: {{learning_rate: {text}}}\n", encoding="utf-8")
        rate = read_config(["--config", str(path)]).training.learning_rate
        check("C2", rate == 1e-4 and isinstance(rate, float), rate)
    for text in ("three", "abc", "'1e-4'", "nan", "0x1"):
        refused("C2", f"training: {{learning_rate: {text}}}", "mine.yaml:2: training.learning_rate: must be a number")


@covers("C3")
@pytest.mark.parametrize(
    "key, value",
    [
        ("learning_rate", "-1"),
        ("per_device_train_batch_size", "0"),
        ("per_device_train_batch_size", "-4"),
        ("label_smoothing_factor", "7"),
        ("save_steps", "0"),
        ("num_train_epochs", "-1"),
    ],
)
def test_numbers_out_of_range(refused, key, value):
    refused("C3", f"training: {{{key}: {value}}}", f"mine.yaml:2: training.{key}: must be", f"got {value}")


@covers("C4")
def test_files_that_are_no_configs(refused):
    refused("C4", "", "no such config file", "gone.yaml", argv=["--config", "gone.yaml"])
    refused("C4", "training: {seed: 1,\n  seed: 2}", "mine.yaml:3", "training.seed", "twice")
    for tag in ("!!python/object/apply:os.system ['exit 1']", "!!python/name:os.system"):
        refused("C4", f"name: {tag}", "mine.yaml:2", "name", "tag")
    refused("C4", "base: &a [1]\nname: *a", "mine.yaml:3", "aliases")
