"""Tasks in processes of this machine."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process

from data_scripts.engines.base import TASKS_PER_WORKER, Engine, Result, Task, died_twice


class LocalEngine(Engine):
    """A pool of processes, or this process where `num_workers` is 0.

    When the kernel kills a worker, the whole pool is lost with it. It is built anew, and the tasks that were in flight
    are tried once more, each alone: a neighbour's hunger for memory does not fail them twice. Every worker sees all
    GPUs of the machine; `num_gpus` places nothing here.
    """

    def __init__(self, num_workers: int = 0) -> None:
        self.num_workers = num_workers
        self._pool: ProcessPoolExecutor | None = None

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], *, num_gpus: float = 0.0
    ) -> Iterator[Result]:
        if not self.num_workers:
            yield from map(function, tasks)
            return
        tasks = iter(tasks)
        flying: deque[tuple[Task, Future[Result]]] = deque()
        try:
            while True:
                # After a death nothing new starts until the tasks that were in flight have been tried alone.
                if not any(future.done() and _broke(future) for _, future in flying):
                    room = TASKS_PER_WORKER * self.num_workers - len(flying)
                    flying.extend((task, self._submit(function, task)) for task in islice(tasks, room))
                if not flying:
                    return
                task, future = flying.popleft()
                if _broke(future):
                    self.close()
                    future = self._submit(function, task)
                    if _broke(future):
                        self.close()
                        raise died_twice(task)
                yield future.result()
        finally:
            for _, future in flying:
                future.cancel()

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def _submit(self, function: Callable[[Task], Result], task: Task) -> "Future[Result]":
        if self._pool is None:
            # Not forked: the parent may hold threads of Arrow or of a training loop.
            self._pool = ProcessPoolExecutor(self.num_workers, get_context("spawn"), initializer=_die_with_parent)
        try:
            return self._pool.submit(function, task)
        except BrokenProcessPool as error:
            lost: Future[Result] = Future()
            lost.set_exception(error)
            return lost


def _broke(future: Future) -> bool:
    """Wait for a future; whether its worker died."""
    return isinstance(future.exception(), BrokenProcessPool)


def _die_with_parent() -> None:
    """Workers of a process that was killed would wait for tasks for ever."""

    def watch() -> None:
        parent = parent_process()
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
