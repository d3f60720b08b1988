"""What every engine promises."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

ENGINES = ("local", "ray")
TASKS_PER_WORKER = 2  # in flight: one that runs and one that waits, so that no worker idles

Task = TypeVar("Task")
Result = TypeVar("Result")


class EngineError(RuntimeError):
    """A job that cannot go on: the message names the task and says what to do."""


class Engine(ABC):
    """Runs a function over tasks. A context manager: leaving it ends the workers."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], *, num_gpus: float = 0.0
    ) -> Iterator[Result]:
        """Results in the order of the tasks, which are drawn only as fast as they are worked on.

        Args:
            function: at the top level of a module (workers import it), or a `functools.partial` of such a one.
            tasks: picklable and small; one with an attribute `name` is called by it in messages.
            num_gpus: GPUs that one task needs, for engines that place tasks; a fraction shares one.

        Raises:
            EngineError: a task ended its worker twice. Results before it have been given out by then.
            Exception: whatever the function raised, at the place of its task.
        """

    @abstractmethod
    def close(self) -> None:
        """End the workers; tasks that have not begun are given up."""


def task_name(task: Any) -> str:
    """How messages call a task: its `name`, or the start of its repr."""
    name = getattr(task, "name", None)
    if isinstance(name, str):
        return name
    text = repr(task)
    return text if len(text) <= 80 else f"{text[:77]}..."


def died_twice(task: Any, why: str = "") -> EngineError:
    """The error for a task that ended its worker, and did so again when it was alone."""
    reason = why or "the kernel killed it for want of memory, or a library crashed on the data"
    return EngineError(
        f"a worker process died on {task_name(task)}, and again when that was tried alone: {reason}. What was "
        "finished is kept and the same command continues; give it more memory or fewer workers, or run it with "
        "num_workers=0 to see where it dies"
    )
