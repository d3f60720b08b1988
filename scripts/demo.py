"""The whole suite in one sitting: synthesise, train three stages, evaluate, transcribe. About 10 minutes on 2 cores.

    python scripts/demo.py                                    # or: make demo
    python scripts/demo.py --name look --config configs/smoke.yaml --sentences 64     # a minute; figures mean nothing

Everything lands in runs/<name>: data/, s2p/, p2t/, joint/ and metrics.json. Run again after an interruption: what is
finished is kept. Training and evaluation are the suite's own commands, printed before they run.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data_scripts.synthesis.corpus import synthesise_splits

STAGES = {"s2p": "speech to phonemes", "p2t": "phonemes to text", "joint": "both, joined by the bridge"}
SPLITS = {"test_seen": "seen", "test_unseen": "unseen"}
COLUMNS = {"per_full": "PER (full)", "per_vmd": "PER (vmd)", "wer": "WER", "syer": "SyER"}
console = Console()


def run(launcher: str, *command: str) -> None:
    """Run one of the suite's commands as a user would; the demo stops with its exit status if it fails."""
    console.print(f"[bold]$ {launcher} {' '.join(command)}[/bold]", soft_wrap=True, highlight=False)
    program = {"python": [], "accelerate launch": ["-m", "accelerate.commands.launch"]}[launcher]
    status = subprocess.run(
        [sys.executable, *program, *command], env={"OMP_NUM_THREADS": "1", **os.environ}
    ).returncode
    if status:
        sys.exit(status)


def train(stage: str, folder: Path, overlays: list[str]) -> None:
    """Train one stage, unless its finished model is there."""
    if (folder / stage / "model" / "config.json").is_file():
        console.print(f"{folder / stage / 'model'} is there already: kept")
        return
    configs = [option for path in (f"configs/demo/{stage}.yaml", *overlays) for option in ("--config", path)]
    # Two processes of one thread each get nearly twice as far as one process of two threads.
    launch = ["--config_file", "configs/accelerate/multi_gpu.yaml", "--num_processes", "2"]
    run("accelerate launch", *launch, "scripts/train_tspc.py", *configs, "--name", folder.name,
        "--training.resume", "auto")  # fmt: skip


def evaluate(folder: Path, split: str) -> dict[str, dict[str, float]]:
    """Error rates of TSPC and of TSPC-Zero on one test split."""
    report = folder / f"{split}.json"
    joint, s2p, p2t = (str(folder / stage / "model") for stage in ("joint", "s2p", "p2t"))
    options = ["--data.path", str(folder / "data"), "--data.split", split, "--spanless_language", "vi"]
    options += ["--device", "cpu", "--batch_size", "25", "--output", str(report)]
    run("python", "scripts/eval_asr.py", "--model", joint, "--zero", s2p, p2t, *options)
    rows = json.loads(report.read_text(encoding="utf-8"))["rows"]
    values = [{name: row["metrics"][name]["value"] for name in COLUMNS} for row in rows]
    return dict(zip(("TSPC", "TSPC-Zero"), values, strict=True))


def show(scores: dict[str, dict[str, dict[str, float]]]) -> None:
    """One table: voices x model x error rate."""
    table = Table("voices", "model", title="Sentences never trained on: error rates in percent")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for split, voices in SPLITS.items():
        for model, values in scores[split].items():
            table.add_row(voices, model, *(f"{100 * values[name]:.1f}" for name in COLUMNS))
    console.print(table)


def transcribe(folder: Path) -> None:
    """Transcribe a code-switched recording of an unseen voice through `pipeline()`, as a user of the model would."""
    from transformers import pipeline

    import models.tspc  # noqa: F401  registers the model, so that the pipeline needs no remote code
    from models.tspc import TSPCPipeline

    with open(folder / "data" / "test_unseen" / "metadata.csv", encoding="utf-8", newline="") as file:
        row = next(row for row in csv.DictReader(file) if json.loads(row["spans"]))
    path = str(folder / "data" / "test_unseen" / row["file_name"])
    model = str(folder / "joint" / "model")
    recognise = pipeline("automatic-speech-recognition", model=model, pipeline_class=TSPCPipeline, device="cpu")
    result: Any = recognise(path, return_phonemes=True)
    console.print(f">>> pipeline('automatic-speech-recognition', model={model!r})({path!r})", soft_wrap=True)
    for name, value in {"said": row["text"], "heard": result["text"], "phonemes": result["phonemes"]}.items():
        console.print(f"{name:>8}: {value}", soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="demo", help="folder below runs/")
    parser.add_argument("--config", action="append", default=[], help="overlay for every stage; may be repeated")
    parser.add_argument("--sentences", type=int, default=4000, help="training sentences to synthesise")
    args = parser.parse_args(argv)
    folder, start = Path("runs") / args.name, time.monotonic()
    console.rule("the embedded corpus in synthetic voices")
    few = max(8, args.sentences // 16)
    synthesise_splits(folder / "data", train=args.sentences, validation=few, test=few, seen_speakers=160,
                      unseen_speakers=16, num_workers=2, progress=True)  # fmt: skip
    for stage, meaning in STAGES.items():
        console.rule(f"{stage}: {meaning}")
        train(stage, folder, args.config)
    console.rule("evaluation")
    scores = {split: evaluate(folder, split) for split in SPLITS}
    seen, unseen = (scores[split]["TSPC"] for split in SPLITS)
    metrics = {
        "per_full": seen["per_full"],
        "per_vmd": seen["per_vmd"],
        "wer_seen_voices": seen["wer"],
        "wer_unseen_voices": unseen["wer"],
        "wer_zero": scores["test_seen"]["TSPC-Zero"]["wer"],
        "seconds": round(time.monotonic() - start, 1),
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    console.rule("result")
    show(scores)
    transcribe(folder)
    console.print(f"{metrics['seconds'] / 60:.1f} minutes; figures in {folder / 'metrics.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
