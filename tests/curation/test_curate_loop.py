"""The training loop: rounds that can be stopped between any two stages, folds, and what it refuses."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny_curation import save_corpus

from data_scripts.curation.confidence import fold_of
from scripts.curate import main

TRAIN = """
stage: s2p
model:
  s2p:
    encoder_sizes: {type: wav2vec2-bert, d_model: 16, num_layers: 1, num_heads: 2, ffn_dim: 16, frame_stack: 3}
    freeze_encoder: false
    d_model: 16
    num_layers: 1
    num_heads: 2
    ffn_dim: 16
    ctc_weight: 0.5
data: {max_dropped: 1.0}
training:
  max_steps: 2
  use_cpu: true
  bf16: false
  dataloader_num_workers: 0
  dataloader_persistent_workers: false
  early_stopping_patience: null
  load_best_model_at_end: false
  eval_strategy: "no"
  save_strategy: "no"
  report_to: [none]
"""


@pytest.fixture
def place(tmp_path):
    save_corpus(tmp_path / "corpus", rows_in_shards=(5, 5), bad=False)
    (tmp_path / "train.yaml").write_text(TRAIN, encoding="utf-8")
    return tmp_path


def loop(place, *more, folds=2):
    return main(
        ["loop", "--output_dir", str(place / "out"), "--source.path", str(place / "corpus"), "--device", "cpu",
         "--loop.train_config", str(place / "train.yaml"), "--loop.folds", str(folds), "--decide.methods",
         "[confidence]", "--decide.confidence.min_confidence", "0", "--decide.confidence.max_error_rate", "99", *more]
    )  # fmt: skip


def outputs(folder):
    """Bytes of what is decided and kept, by path."""
    files = [path for path in folder.rglob("*.parquet") if "fold" not in str(path.relative_to(folder))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_two_rounds_of_two_folds_and_a_stop_between_stages(place):
    assert loop(place, "--loop.rounds", "2") == 0
    first = outputs(place / "out")
    rounds = place / "out" / "rounds"
    for number in ("1", "2"):
        rows = pq.read_table(rounds / number / "decisions" / "default" / "decisions.parquet").to_pylist()
        assert [row["id"] for row in rows] == [f"tones/{n:03d}" for n in range(10)]
        for row in rows:
            judge = next(s for s in row["scores"] if s["model"] == f"trained{fold_of(row['id'], 2)}")
            assert row["confidence"] == judge["confidence"]
        folds = [pq.read_table(sorted((rounds / number).glob(f"fold{n}/*.parquet")))["id"].to_pylist() for n in (0, 1)]
        assert folds[0] and folds[1] and not set(folds[0]) & set(folds[1])
        assert all(fold_of(row_id, 2) == 1 for row_id in folds[0])
    # What a stop in the second round leaves: its second model, scores and decisions are not there.
    times = {path: path.stat().st_mtime_ns for path in rounds.glob("*/train*/metrics.json")}
    shutil.rmtree(rounds / "2" / "train1")
    for name in ("scores", "decisions", "kept"):
        shutil.rmtree(rounds / "2" / name)
    (rounds / "2" / "scores.parquet").unlink()
    assert loop(place, "--loop.rounds", "2") == 0
    again = {path: path.stat().st_mtime_ns for path in rounds.glob("*/train*/metrics.json")}
    assert [path for path in times if times[path] != again[path]] == [rounds / "2" / "train1" / "metrics.json"]
    assert outputs(place / "out") == first


@pytest.mark.slow
def test_a_launcher_trains_and_scores_in_processes_of_its_own(place):
    launcher = "accelerate launch --multi_gpu --num_processes 2 --main_process_port 0"
    assert loop(place, "--loop.rounds", "1", "--loop.launcher", launcher, folds=1) == 0
    report = json.loads((place / "out" / "rounds" / "1" / "train" / "environment.json").read_text(encoding="utf-8"))
    assert "2" in json.dumps(report) and (place / "out" / "rounds" / "1" / "kept" / "default").is_dir()


def test_what_the_loop_refuses(place, capsys, monkeypatch):
    assert loop(place, "--loop.train_config", "null") == 2
    assert "loop.train_config" in capsys.readouterr().err
    without = TRAIN.replace("ctc_weight: 0.5", "ctc_weight: 0.0")
    (place / "train.yaml").write_text(without, encoding="utf-8")
    assert loop(place) == 2
    assert "ctc_weight above 0" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert loop(place) == 2
    assert "name the launcher in loop.launcher" in capsys.readouterr().err
    assert not Path(place / "out" / "rounds" / "1" / "train0").exists()
