"""Runs a program on one or several ranks without starting an interpreter for each: a fork server has all imports done.

As torchrun starts them, as far as torch, accelerate and DeepSpeed look at it; how real launchers start programs is
tested where scripts are (tests/test_train_*.py).
"""

import multiprocessing
import os
import runpy
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT_S = 280.0
# Imported by the server, once; what is set here reaches it and so all ranks.
PRELOADED = ["trainers.training", "trainers.seq2seq", "trainers.transducer", "trainers.ser_assembly", "rank_server"]


def run_ranks(program: Path, argv: Sequence[object], log: Path, *, processes: int = 1) -> None:
    """Run `program` as `__main__` on so many ranks, and wait.

    Raises:
        AssertionError: a rank failed, or took too long; with the end of what all printed to `log`.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    log.unlink(missing_ok=True)
    port = free_port()
    ranks = [
        server.Process(
            target=run, args=(str(program), [str(value) for value in argv], str(log), rank, processes, port)
        )
        for rank in range(processes)
    ]
    for rank in ranks:
        rank.start()
    deadline = time.monotonic() + TIMEOUT_S
    while any(rank.is_alive() for rank in ranks):
        time.sleep(0.02)
        if any(rank.exitcode not in (None, 0) for rank in ranks):
            # As a launcher does: the others get a while to notice.
            deadline = min(deadline, time.monotonic() + 20)
        if time.monotonic() > deadline:
            for rank in ranks:
                if rank.is_alive():
                    rank.kill()
    for rank in ranks:
        rank.join()
    codes = [rank.exitcode for rank in ranks]
    assert not any(codes), f"exit statuses {codes}\n" + log.read_text(encoding="utf-8", errors="replace")[-8000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(program: str, argv: list[str], log: str, rank: int, world_size: int, port: int) -> None:
    """Body of one rank."""
    # A child of a fork server would start data workers by it, too: ten seconds each.
    multiprocessing.set_start_method("fork", force=True)
    if world_size > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [program, *argv]
    sys.path.insert(0, str(HERE))
    runpy.run_path(program, run_name="__main__")
    sys.stdout.flush()
