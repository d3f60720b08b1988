"""The loader takes what is meant, and says where and why it does not take the rest."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.arguments import Config
from trainers.checks import ConfigError
from trainers.config import all_keys, dump_config, field_help, help_text, load_config, read_config

SPEECH = ["--data.train", "[{path: corpus}]", "--data.validation", "[{path: corpus, split: validation}]"]


def error_of(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(argv)
    return str(caught.value)


def test_values_are_read_by_the_type_of_their_field(write):
    path = write(
        "a.yaml",
        "name: no\ntraining:\n  learning_rate: 1e-4\n  max_steps: 1e3\n  bf16: True\n  run_name: null\n"
        "  lr_scheduler_kwargs: {num_cycles: 2, power: 1e-1}\ndata:\n  train: [{path: 2024, columns: {text: yes}}]\n"
        "  validation: [{path: x}]\n",
    )
    config = read_config(["--config", path])
    assert config.name == "no"
    assert config.training.learning_rate == 1e-4 and isinstance(config.training.learning_rate, float)
    assert config.training.max_steps == 1000 and isinstance(config.training.max_steps, int)
    assert config.training.bf16 is True and config.training.run_name is None
    assert config.training.lr_scheduler_kwargs == {"num_cycles": 2, "power": 0.1}
    assert config.data.train[0].path == "2024" and config.data.train[0].columns == {"text": "yes"}


def test_later_files_win_and_the_command_line_wins_over_files(write):
    first = write(
        "a.yaml", "training: {seed: 1, max_steps: 10, logging_steps: 3}\ndata: {train: [{path: a}, {path: b}]}"
    )
    second = write("b.yaml", "training: {seed: 2, max_steps: 20}\ndata: {train: [{path: c}], validation: [{path: d}]}")
    config = read_config(["--config", first, "--training.seed=3", f"--config={second}", "--training.bf16"])
    assert (config.training.seed, config.training.max_steps, config.training.logging_steps) == (3, 20, 3)
    assert [source.path for source in config.data.train] == ["c"]
    assert config.training.bf16 is True


def test_negative_and_quoted_values_on_the_command_line(read):
    config = read("--training.max_steps", "-1", "--training.run_name", "'null'", "--training.report_to", "[none]")
    assert config.training.max_steps == -1
    assert config.training.run_name == "null"
    assert config.training.report_to == ["none"]


def test_base_is_found_beside_the_file_and_read_once(write):
    write("base.yaml", "training: {seed: 1, max_steps: 5}\ndata: {train: [{path: a}], validation: [{path: b}]}")
    first = write("sub/first.yaml", "base: ../base.yaml\ntraining: {seed: 2}")
    second = write("sub/second.yaml", "base: ../base.yaml\ntraining: {logging_steps: 9}")
    config = read_config(["--config", first, "--config", second])
    # The second mention of the base must not take back what the first file changed.
    assert (config.training.seed, config.training.max_steps, config.training.logging_steps) == (2, 5, 9)


def test_base_in_a_circle_and_missing_base(write):
    path = write("a.yaml", "base: b.yaml")
    write("b.yaml", "base: a.yaml")
    assert "circle" in error_of("--config", path)
    path = write("c.yaml", "seed: 1\nbase: bass.yaml")
    write("base.yaml", "")
    assert f"{path}:2: base: no such config file" in error_of("--config", path)
    assert "did you mean" in error_of("--config", path) and "base.yaml" in error_of("--config", path)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "training:\n  learning_rat: 1",
            2,
            "training.learning_rat: unknown key; did you mean training.learning_rate?",
        ),
        ("stage: s2p\nlearning_rate: 1", 2, "learning_rate: unknown key; did you mean training.learning_rate?"),
        ("zzz: 1", 1, "zzz: unknown key; allowed here: name, data, lora"),
        ("training:\n  warmup_ratio: 0.1", 2, "use training.warmup_steps"),
        ("training:\n  max_steps: three", 2, "training.max_steps: must be a whole number, got 'three'"),
        ("training:\n  max_steps: 1.5", 2, "must be a whole number, got '1.5'"),
        ("training:\n  max_steps: '5'", 2, "must be a whole number, got the quoted text '5'"),
        ("training:\n  max_steps: null", 2, "must be a whole number, got null"),
        ("training:\n  learning_rate: .inf", 2, "must be a number, got '.inf'"),
        ("training:\n  learning_rate: nan", 2, "must be a number, got 'nan'"),
        ("training:\n  bf16: yes", 2, "training.bf16: must be true or false, got 'yes'"),
        ("training:\n  seed: [1]", 2, "must be a whole number, got a list"),
        ("training:\n  optim: adam_torch", 2, "must be one of adamw_torch_fused"),
        ("training:\n  optim: adamw_torhc", 2, "did you mean adamw_torch?"),
        ("training: 3", 1, "training: is a section with keys"),
        ("training:\n  report_to: none", 2, "must be a list such as"),
        ("training:\n  lr_scheduler_kwargs: 3", 2, "must be a mapping"),
        (
            "data:\n  train:\n    - path: a\n    - pth: b",
            4,
            "data.train[1].pth: unknown key; did you mean",
        ),
        ("data:\n  train:\n    - path: a\n    - weight: 2", 4, "data.train[1].path: is required"),
        ("data:\n  train:\n    - {path: a, weight: 0}", 3, "data.train[0].weight: weight"),
        ("data:\n  train:\n    - {path: a, kind: fodler}", 3, "did you mean folder?"),
        ("data:\n  train: [a]", 2, "data.train[0]: is a section"),
        ("training:\n  seed: 1\n  seed: 2", 3, "training.seed: given twice"),
        ("data:\n  train:\n    - {path: a, path: b}", 3, "path: given twice"),
        ("training: &x {seed: 1}\ndata: *x", 2, "aliases"),
        ("name: !!python/object/apply:os.system [echo]", 1, "python/object"),
        ("a: [1\nb: 2", 2, "not valid YAML"),
        ("- a\n- b", 1, "a config is a mapping"),
        ("training:\n\tseed: 1", 2, "not valid YAML"),
        ("training:\n  learning_rate: -1", 2, "training.learning_rate: must be above 0, got -1"),
    ],
)
def test_mistakes_name_the_file_and_the_line(write, text, line, words):
    path = write("a.yaml", text)
    message = error_of("--config", path)
    assert f"{path}:{line}: " in message
    assert words in message


def test_several_mistakes_are_reported_at_once(write):
    path = write("a.yaml", "stage: s3p\ntraining:\n  sed: 1\n  max_steps: x\n")
    message = error_of("--config", path)
    assert message.startswith("3 mistakes")
    assert all(f"{path}:{line}: " in message for line in (1, 3, 4))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["positional"], "unexpected argument 'positional'"),
        (["--training.seed"], "training.seed: needs a value"),
        (["--training.seed", "--stage", "s2p"], "training.seed: needs a value"),
        (["--training.lr", "1"], "command line: training.lr: unknown key"),
        (["--config", "nowhere/x.yaml"], "no such config file: nowhere/x.yaml"),
        (["--data.train", "corpus"], "must be a list"),
        (["--data.train", "[{path: x"], "command line: not valid YAML"),
        (["--model.s2p", "3"], "is a section"),
    ],
)
def test_mistakes_on_the_command_line(argv, words):
    assert words in error_of(*argv)


def test_files_that_are_no_configs(tmp_path, write):
    assert "no such config file" in error_of("--config", str(tmp_path))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: hòa".encode("latin-1"))
    assert "not UTF-8 at byte 7" in error_of("--config", str(latin))
    huge = write("huge.yaml", "# " + "x" * 1_100_000)
    assert "at most" in error_of("--config", huge)
    deep = write("deep.yaml", "name: " + "[" * 20_000)
    assert "not valid YAML" in error_of("--config", deep)


@pytest.mark.parametrize("key", ["training.hub_token", "publish.token", "hub_token"])
def test_tokens_are_refused_and_not_repeated(key):
    message = error_of(f"--{key}", "hf_secretsecret")
    assert "HF_TOKEN" in message and "secret" not in message


def test_resolved_config_reads_back_to_the_same(write, read):
    config = read(
        "--training.learning_rate", "3e-5", "--training.run_name", "'no'", "--name", "thử-nghiệm", "--lora.rank", "4",
        "--model.s2p.encoder", "org/model", "--training.lr_scheduler_kwargs", "{a: [1, {b: 1e-3}]}",
    )  # fmt: skip
    path = write("resolved.yaml", dump_config(config))
    again = read_config(["--config", path])
    assert again == config
    assert again.training.output_dir == "runs/thử-nghiệm/s2p"


texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn", "Zl", "Zp")), min_size=1, max_size=20
)


@settings(max_examples=60, deadline=None)
@given(
    run_name=texts | st.none(),
    rate=st.floats(1e-12, 1e3),
    columns=st.dictionaries(st.sampled_from(["text", "id"]), texts),
)
def test_round_trip_of_any_value(tmp_path_factory, run_name, rate, columns):
    config = read_config(SPEECH)
    config.training.run_name, config.training.learning_rate = run_name, rate
    config.data.train[0].columns = columns
    path = tmp_path_factory.mktemp("round") / "resolved.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert read_config(["--config", str(path)]) == config


def test_every_key_has_help():
    for key, kind in all_keys(Config).items():
        assert key.rsplit(".", 1)[-1]
        if hasattr(kind, "__dataclass_fields__"):
            assert set(field_help(kind)) == set(kind.__dataclass_fields__), kind
    text = help_text(Config, "usage")
    assert "--training.learning_rate  (a number; default 0.0001)" in text
    assert "--model.joint.decoder  (freeze | unfreeze; default freeze)" in text
    assert "Peak learning rate." in text


def test_help_of_a_dataclass_documented_in_its_docstring():
    @dataclass
    class Elsewhere:
        """Something.

        Args:
            first: one line.
            second: begins here
                and goes on.
        """

        first: int = 1
        second: str = "x"
        third: str = "y"

    assert field_help(Elsewhere) == {"first": "one line.", "second": "begins here and goes on."}
    assert "--third  (text; default y)" in help_text(Elsewhere)


def test_help_and_print_config_exit_well(capsys):
    with pytest.raises(SystemExit) as caught:
        load_config(["--help"], usage="usage: here")
    assert caught.value.code == 0 and capsys.readouterr().out.startswith("usage: here")
    with pytest.raises(SystemExit) as caught:
        load_config([*SPEECH, "--print_config"])
    assert caught.value.code == 0 and "learning_rate: 0.0001" in capsys.readouterr().out


def test_only_the_first_process_reports(capsys, monkeypatch):
    for rank, reports in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as caught:
            load_config(["--stage", "x"])
        assert caught.value.code == 2
        assert bool(capsys.readouterr().err) == reports


def test_a_mistake_costs_no_import_of_torch(repo_root: Path):
    script = repo_root / "scripts" / "train_tspc.py"
    start = time.monotonic()
    run = subprocess.run(
        [sys.executable, str(script), "--training.learning_rat", "1"], capture_output=True, text=True, timeout=60
    )
    seconds = time.monotonic() - start
    assert run.returncode == 2
    assert run.stderr == (
        "config error: command line: training.learning_rat: unknown key; did you mean training.learning_rate?\n"
    )
    # 0.2 s on an idle core; importing torch alone takes longer than this bound.
    assert seconds < 3
    listed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, trainers.config; print({'torch', 'datasets', 'numpy'} & set(sys.modules))",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert listed.stdout.strip() == "set()"
