"""A training run as a child process that writes down every step, and can be told to die in the middle of a save.

The child is forked from a server that has paid for the imports, so a start costs two seconds instead of ten. It runs
`scripts/train_tspc.py` itself: what dies and resumes here is what users run.
"""

import hashlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "train_tspc.py"
TIMEOUT_S = 150


def trace_steps(path: Path) -> None:
    """Append to `path`: step, rows, hash of inputs and loss of every batch, and a hash of the weights after a step."""
    import torch
    from transformers import TrainerCallback

    from trainers.seq2seq import SpeechSeq2SeqTrainer

    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(entry: dict[str, Any]) -> None:
        os.write(file, (json.dumps(entry) + "\n").encode())

    def digest(tensors: Sequence[torch.Tensor]) -> str:
        total = hashlib.sha1()
        for tensor in tensors:
            total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return total.hexdigest()[:16]

    write({"start": time.time()})

    class Weights(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            parameters = list(model.parameters())
            # ZeRO-3 leaves each rank its part of a weight.
            write({"step": state.global_step, "weights": digest([getattr(p, "ds_tensor", p) for p in parameters])})

    step = SpeechSeq2SeqTrainer.training_step
    init = SpeechSeq2SeqTrainer.__init__

    def traced_init(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.add_callback(Weights())

    def traced_step(self, model, inputs, *args, **kwargs):
        tensors = [value for _, value in sorted(inputs.items()) if isinstance(value, torch.Tensor)]
        entry = {"step": self.state.global_step + 1, "rows": list(inputs["row_ids"]), "inputs": digest(tensors)}
        loss = step(self, model, inputs, *args, **kwargs)
        write({**entry, "loss": float(loss).hex()})
        return loss

    SpeechSeq2SeqTrainer.__init__ = traced_init
    SpeechSeq2SeqTrainer.training_step = traced_step


def die() -> None:
    """As the kernel would have it: no handler, no cleanup."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_save(place: str, at_step: int) -> None:
    """Arrange to be killed while checkpoint `at_step` is being written, at one of `SAVE_PLACES`."""
    import torch

    from trainers import checkpoints
    from trainers.reliable import ReliableTrainer

    real_save, real_seal = torch.save, checkpoints.seal

    def half_saved(value, to, *args, **kwargs):
        real_save(value, to, *args, **kwargs)
        if f"checkpoint-{at_step}/" in str(to) and str(to).endswith(place):
            with open(to, "rb+") as half:
                half.truncate(os.path.getsize(to) // 2)
            die()

    def half_sealed(folder, facts):
        if str(folder).endswith(f"checkpoint-{at_step}"):
            if place == "half the seal":
                (Path(folder) / f"{checkpoints.SEAL_FILE}.partial").write_text('{"format": 1, "fa')
            die()
        real_seal(folder, facts)

    save_model = ReliableTrainer.save_model

    def saved_model(self, output_dir=None, _internal_call=False):
        save_model(self, output_dir, _internal_call)
        if str(output_dir).endswith(f"checkpoint-{at_step}"):
            die()

    if place == "after the weights":
        ReliableTrainer.save_model = saved_model
    elif place.endswith((".pt", ".pth")):
        torch.save = half_saved
    else:
        checkpoints.seal = half_sealed


def poison_rows(prefix: str) -> None:
    """Rows whose id is `prefix`, or begins with it if it ends in "-", come with a NaN in their features."""
    from trainers.reliable import ReliableTrainer

    prepare = ReliableTrainer._prepare_inputs

    def poisoned(self, inputs):
        for index, row in enumerate(inputs.get("row_ids", [])):
            if self.model.training and (row == prefix or (prefix.endswith("-") and row.startswith(prefix))):
                inputs["input_features"][index].flatten()[0] = float("nan")
        return prepare(self, inputs)

    ReliableTrainer._prepare_inputs = poisoned


def hide_the_full_disk() -> None:
    """The check before a save finds room; the save itself does not."""
    from trainers import checkpoints

    real = checkpoints.shutil.disk_usage
    checkpoints.shutil.disk_usage = lambda path: real(path)._replace(free=1 << 40)


SAVE_PLACES = ("after the weights", "optimizer.pt", "scheduler.pt", "before the seal", "half the seal")


def child(argv: list[str], environment: dict[str, str], log: str, trace: str, injected: dict[str, Any]) -> None:
    """Body of one rank."""
    os.environ.update(environment)
    # A child of a fork server would start data workers by it, too: ten seconds each.
    multiprocessing.set_start_method("fork", force=True)
    if "HF_ENDPOINT" in environment:
        # Read once, when the server imported it.
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE, constants.ENDPOINT = False, environment["HF_ENDPOINT"]
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(ROOT)
    trace_steps(Path(trace))
    if injected["save_fault"]:
        die_in_save(*injected["save_fault"])
    if injected["poison"]:
        poison_rows(injected["poison"])
    if injected["hide_full_disk"]:
        hide_the_full_disk()
    main = runpy.run_path(str(SCRIPT))["main"]
    main(argv)
    sys.stdout.flush()


@dataclass
class Outcome:
    """How a launch ended: exit status of each rank (negative: a signal) and what they printed."""

    codes: list[int]
    log: str

    def __str__(self) -> str:
        return f"exit statuses {self.codes}\n{self.log[-4000:]}"


@dataclass
class Launcher:
    """Starts ranks, lets a fault happen to them, and waits."""

    folder: Path
    context: Any = field(init=False)
    launches: int = 0

    def __post_init__(self) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["trainers.training", "trainers.rows", "data_scripts.validate", "traced"])

    def run(
        self,
        argv: Sequence[str],
        trace: Path,
        *,
        ranks: int = 1,
        environment: Mapping[str, str] | None = None,
        save_fault: tuple[str, int] | None = None,
        poison: str | None = None,
        hide_full_disk: bool = False,
        fault: Callable[[list[Any], Path], None] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Outcome:
        """One launch.

        Args:
            trace: rank r writes its steps to `<trace>-r.jsonl`.
            save_fault: place and step of `die_in_save`, for rank 0.
            poison: see `poison_rows`.
            hide_full_disk: see `hide_the_full_disk`.
            fault: called with the processes and the trace file of rank 0 while they run.
        """
        self.launches += 1
        log = self.folder / f"launch-{self.launches}.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        processes = []
        for rank in range(ranks):
            own = dict(environment or {})
            if ranks > 1:
                own |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
                own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(ranks)}
                own["ACCELERATE_USE_CPU"] = "true"
            injected = {"save_fault": save_fault if rank == 0 else None, "poison": poison}
            injected["hide_full_disk"] = hide_full_disk
            arguments = (list(argv), own, str(log), f"{trace}-{rank}.jsonl", injected)
            processes.append(self.context.Process(target=child, args=arguments))
        for process in processes:
            process.start()
        if fault:
            fault(processes, Path(f"{trace}-0.jsonl"))
        self._wait(processes, timeout_s)
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return Outcome([process.exitcode for process in processes], text)

    def _wait(self, processes: list[Any], timeout_s: float) -> None:
        """As a launcher does: when one rank has failed, the others get a while to notice and are then ended."""
        deadline = time.monotonic() + timeout_s
        while any(process.is_alive() for process in processes):
            time.sleep(0.02)
            if any(process.exitcode not in (None, 0) for process in processes):
                deadline = min(deadline, time.monotonic() + 20)
            if time.monotonic() > deadline:
                for process in processes:
                    if process.is_alive():
                        process.kill()
        for process in processes:
            process.join()


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Entries of a trace; a line that the death of its process cut short is no step."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def wait_for_steps(trace: Path, steps: int, processes: list[Any], timeout_s: float = TIMEOUT_S) -> None:
    """Until rank 0 has finished so many steps, or has ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and processes[0].is_alive():
        if sum("weights" in entry for entry in read_trace(trace)) >= steps:
            return
        time.sleep(0.005)
