"""Tasks on a Ray cluster: the processes of one machine or of many, placed by the CPUs and GPUs they need.

Every node must see the same paths (a shared file system) and have this package installed. Ray restarts what a lost
node was doing; a task that ends its worker twice ends the job.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, cast

from data_scripts.engines.base import TASKS_PER_WORKER, Engine, EngineError, Result, Task, died_twice

logger = logging.getLogger(__name__)

INSTALL = "engine ray needs the package ray: pip install 'amvi[ray]'"


class RayEngine(Engine):
    """A cluster that runs already is used and left running; one that was started here ends with the engine.

    Args:
        num_workers: tasks at work at once; 0 takes every CPU of the cluster.
        address: see `data_scripts.engines.make_engine`.
    """

    def __init__(self, num_workers: int = 0, address: str | None = None) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports] - an option
        except ImportError as error:
            raise EngineError(INSTALL) from error
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            self._connect(num_workers, address)
        cpus = int(ray.cluster_resources().get("CPU", 1))
        self.num_workers = num_workers or max(1, cpus)

    def _connect(self, num_workers: int, address: str | None) -> None:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            self._ray.init(address=address or "auto", **quiet)
        except ConnectionError as error:
            if address not in (None, "auto"):
                raise EngineError(f"no Ray cluster at {address!r}: {error}") from error
            logger.info("no Ray cluster runs here: starting one for this job")
            self._ray.init(address="local", num_cpus=num_workers or None, include_dashboard=False, **quiet)

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], *, num_gpus: float = 0.0
    ) -> Iterator[Result]:
        # `max_retries` counts deaths of the worker and its node; what the function raises is not tried again.
        options = {"num_cpus": 1, "num_gpus": num_gpus, "max_retries": 1, "retry_exceptions": False}
        remote = self._ray.remote(**options)(_call)
        tasks = iter(tasks)
        flying: deque[tuple[Task, Any]] = deque()
        try:
            while True:
                room = TASKS_PER_WORKER * self.num_workers - len(flying)
                flying.extend((task, remote.remote(function, task)) for task in islice(tasks, room))
                if not flying:
                    return
                task, reference = flying.popleft()
                yield self._result(task, reference)
        finally:
            for _, reference in flying:
                self._ray.cancel(reference)

    def _result(self, task: Task, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            # What the function raised; Ray's own wrapper would put a traceback into one-line messages.
            raise cast(Exception, error.cause) from error
        except errors.OutOfMemoryError as error:
            raise died_twice(task, "Ray killed it because its node had no memory left") from error
        except errors.RayError as error:
            raise died_twice(task, str(error).strip().splitlines()[0].rstrip(".")) from error

    def close(self) -> None:
        if self._ours and self._ray.is_initialized():
            self._ray.shutdown()


def _call(function: Callable[[Any], Any], task: Any) -> Any:
    return function(task)
