"""Where the tasks of a long job run: in processes of this machine, or on a Ray cluster.

    with make_engine("local", num_workers=8) as engine:
        for result in engine.map(check_shard, shards):
            ...

There is no scheduler here: an engine hands tasks out, keeps a bounded number of them in flight and gives the results
back in order. A task should leave what it made on disk, whole or not at all, so that a job that stopped continues
where it was; an engine remembers nothing from one run to the next.
"""

from data_scripts.engines.base import ENGINES, Engine, EngineError, task_name
from data_scripts.engines.local import LocalEngine

__all__ = ["ENGINES", "Engine", "EngineError", "LocalEngine", "make_engine", "task_name"]


def make_engine(name: str, num_workers: int = 0, address: str | None = None) -> Engine:
    """An engine, to be used as a context manager.

    Args:
        name: "local" or "ray" (the optional package `ray`).
        num_workers: processes; 0 is this process alone for "local", all CPUs of the cluster for "ray".
        address: of a Ray cluster, as `ray.init` takes it; None or "auto" is the cluster of this machine if one runs,
            else one started for the job.

    Raises:
        ValueError: unknown name, a negative number of workers, an address for the local engine.
        EngineError: no cluster at the address, or ray is not installed.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; allowed are {', '.join(ENGINES)}")
    if num_workers < 0:
        raise ValueError(f"num_workers must be at least 0, got {num_workers}")
    if name == "local":
        if address is not None:
            raise ValueError(f"address {address!r} is for engine ray; leave it out, or choose --engine ray")
        return LocalEngine(num_workers)
    from data_scripts.engines.ray_engine import RayEngine

    return RayEngine(num_workers, address)
