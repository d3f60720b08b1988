"""Curation finds faults planted among real recordings, and training on what it keeps is worth more than on all."""

import json

import pyarrow.parquet as pq
import pytest
from planted import make

from data_scripts.text.g2p import G2P
from scripts.curate import main
from scripts.train_tspc import main as train
from trainers.metrics.bootstrap import bootstrap_difference
from trainers.metrics.phonemes import phoneme_error_counts

WORDS = ("cà phê", "karaoke", "khách sạn", "trở lại")
TRAIN = """
stage: s2p
model:
  s2p:
    encoder_sizes: {type: wav2vec2-bert, d_model: 96, num_layers: 3, num_heads: 4, ffn_dim: 256, frame_stack: 5}
    freeze_encoder: false
    d_model: 64
    num_layers: 1
    num_heads: 4
    ffn_dim: 128
    ctc_weight: 0.7
data: {max_duration_s: 10, batch_duration_s: 40, max_dropped: 0.5}
training:
  max_steps: 150
  learning_rate: 3e-3
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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_planted_faults_are_found_and_dropping_them_pays(shared_data, tmp_path):
    faults = make(shared_data / "vi_words_8k", shared_data / "noise", tmp_path, texts=WORDS)
    config = tmp_path / "train.yaml"
    config.write_text(TRAIN, encoding="utf-8")
    noisy = tmp_path / "noisy"
    status = main(
        ["loop", "--output_dir", str(tmp_path / "out"), "--source.path", str(noisy), "--device", "cpu",
         "--loop.train_config", str(config), "--loop.rounds", "1", "--loop.folds", "2",
         "--decide.methods", "[confidence]", "--decide.confidence.measure", "min_window",
         "--decide.confidence.drop_quantile", "0.4", "--decide.confidence.min_confidence", "0",
         "--decide.confidence.max_error_rate", "99", "--decide.confidence.keep_easy_fraction", "1"]
    )  # fmt: skip
    assert status == 0
    first = tmp_path / "out" / "rounds" / "1"
    rows = pq.read_table(first / "decisions" / "default" / "decisions.parquet").to_pylist()
    dropped = {row["id"] for row in rows if not row["keep"]}
    precision = len(dropped & set(faults)) / len(dropped)
    recall = len(dropped & set(faults)) / len(faults)
    # Dropping 40 % of the rows by chance would give 0.4 for both.
    assert precision > 0.55 and recall > 0.55, (precision, recall)

    sources = {"all": noisy, "kept": first / "kept" / "default"}
    for name, source in sources.items():
        output = ["--training.output_dir", str(tmp_path / name), "--data.train", f"[{{path: {source}}}]"]
        train(["--config", str(config), *output])
    models = ", ".join(f"{{name: {name}, path: {tmp_path / name / 'model'}}}" for name in sources)
    scored = ["score", "--output_dir", str(tmp_path / "test"), "--source.path", str(noisy), "--source.split", "test"]
    assert main([*scored, "--models", f"[{models}]", "--device", "cpu"]) == 0
    tested = pq.read_table(tmp_path / "test" / "scores.parquet").to_pylist()
    references = [G2P("full").phonemise(row["text"]).phonemes for row in tested]
    everything, kept = (
        phoneme_error_counts(references, [row["scores"][index]["hypothesis"] for row in tested])["per_full"]
        for index in range(2)
    )
    low, high = bootstrap_difference(kept.errors, everything.errors, kept.reference_lengths, num_samples=1000)
    pers = [counts.total_errors / counts.reference_lengths.sum() for counts in (everything, kept)]
    # Shown with -s, for the log.
    print(json.dumps({"precision": precision, "recall": recall, "per_all_kept": pers, "difference": [low, high]}))
    assert high < 0, (pers, low, high)
