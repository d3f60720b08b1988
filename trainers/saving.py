"""Checkpoints that are whole or not there, and cost a run no more than the stock ones.

The files of a checkpoint are written as always, while all ranks wait. Flushing them to the disk, reading them back for
their digests, sealing, and deleting older checkpoints happen in a thread while training goes on, and are done before
the next save begins, before a run leaves early, and before it ends.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType, gather_object
from safetensors import SafetensorError
from transformers import Trainer

from trainers import checkpoints
from trainers.guards import Stop

logger = logging.getLogger(__name__)

ARGUMENTS_PICKLE = "training_args.bin"
# A weight and two moments in float32, while there is no earlier checkpoint to compare with.
BYTES_PER_TRAINED_PARAMETER = 12
SPARE_BYTES = 1 << 20
# torch reports a full disk as RuntimeError, safetensors as an error of its own.
SAVE_ERRORS = (OSError, RuntimeError, ValueError, SafetensorError)

# The mixin calls what it stands in front of.
_Base = Trainer if TYPE_CHECKING else object


class CheckpointPart:
    """Mixin of callbacks that keep files of their own in every checkpoint."""

    def save_part(self, folder: Path | None) -> None:
        """Called on every rank; the one that writes is given the folder. What is raised costs this checkpoint."""
        raise AssertionError(f"{type(self).__name__} must say what it saves")


class SealedSaves(_Base):
    """Mixin in front of `transformers.Trainer`: what it saves is sealed, and a save that fails costs that save alone.

    Args:
        seal_facts (`Mapping[str, Any]`, *optional*): JSON values sealed into every checkpoint beside `step` and
            `world_size`; `trainers.contract` compares them before a resume.
        on_sealed (`Callable[[Path, int], None]`, *optional*): called on the writing rank with each sealed checkpoint
            and its step, before older ones are deleted.
    """

    # The base class types it as optional.
    model: Any

    def __init__(
        self,
        *args: Any,
        seal_facts: Mapping[str, Any] | None = None,
        on_sealed: Callable[[Path, int], None] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.seal_facts = dict(seal_facts or {})
        self.on_sealed = on_sealed
        self.failed_saves: list[str] = []
        self._save_problems: list[str] | None = None
        self._saved_step = -1
        self._unsealed: Path | None = None
        self._sealing: Future[None] | None = None
        self._sealer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="seal")

    # Checkpoints

    def _save_checkpoint(self, model, trial) -> None:
        """Save, then seal and rotate in the background; or say why not, and go on without."""
        step = self.state.global_step
        if step == self._saved_step:
            return  # asked for at the end of a step and of its epoch, or by a signal
        self.finish_sealing()
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{step}"
        problem = self._first_problem(self._refusal(folder))
        if problem is None:
            problem = self._first_problem(self._try_to_save(model, trial))
        if problem is not None:
            self._give_up(folder, problem)
            return
        self._saved_step, self._unsealed = step, folder
        if self.args.should_save:
            facts = {**self.seal_facts, "step": step, "world_size": self.args.world_size}
            self._sealing = self._sealer.submit(self._seal, folder, facts, self.state.best_model_checkpoint)

    def _refusal(self, folder: Path) -> str | None:
        """Why a checkpoint should not even be begun; asked on the rank that writes."""
        if not self.args.should_save:
            return None
        if folder.exists():
            # Left by a process that died while saving this very step, or met again after going further back.
            checkpoints.set_aside({folder: "the step is saved again"})
        if self.accelerator.distributed_type != DistributedType.DEEPSPEED and not _all_finite(self.model):
            return "a weight is not finite"
        folder.parent.mkdir(parents=True, exist_ok=True)
        earlier = [size for path in checkpoints.checkpoints(folder.parent) if (size := checkpoints.size_of(path))]
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in self.model.parameters() if not p.requires_grad)
        estimate = BYTES_PER_TRAINED_PARAMETER * trained + 4 * frozen
        return checkpoints.missing_space(folder.parent, (earlier[0] if earlier else estimate) + SPARE_BYTES)

    def _try_to_save(self, model, trial) -> str | None:
        self._save_problems = problems = []
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # unsealed ones would be counted
        try:
            with self._noting_problems():
                super()._save_checkpoint(model, trial)
                self._save_parts(Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}")
            return problems[0] if problems else None
        finally:
            self.args.save_total_limit, self._save_problems = limit, None

    def _save_parts(self, folder: Path) -> None:
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, CheckpointPart):
                callback.save_part(folder if self.args.should_save else None)

    def _seal(self, folder: Path, facts: dict[str, Any], best: str | None) -> None:
        checkpoints.seal(folder, facts)
        try:
            if self.on_sealed is not None:
                self.on_sealed(folder, facts["step"])
            checkpoints.rotate(folder.parent, self.args.save_total_limit, best)
        except SAVE_ERRORS as error:  # no reason to lose the checkpoint that has just been sealed
            logger.error("%s is sealed, but what follows a save failed: %s", folder.name, error)

    def finish_sealing(self) -> None:
        """Wait until the last checkpoint is sealed; every rank must."""
        if self._unsealed is None:
            return
        problem = None
        if self._sealing is not None:
            try:
                self._sealing.result()
            except SAVE_ERRORS as error:
                problem = f"{type(error).__name__}: {error}"
        folder, self._unsealed, self._sealing = self._unsealed, None, None
        problem = self._first_problem(problem)
        if problem is not None:
            self._give_up(folder, problem)

    def _give_up(self, folder: Path, problem: str) -> None:
        """Half a checkpoint is of no use to anyone, and its room is what the next one needs."""
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)
            logger.error("%s could not be saved: %s. Training goes on", folder.name, problem)
        self._saved_step = -1
        self.failed_saves.append(f"{folder.name}: {problem}")
        self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def sealing_to_the_end(self) -> Iterator[None]:
        """Nothing leaves before the last checkpoint is sealed: neither a run that is stopped nor one that crashes."""
        try:
            yield
        except Stop:
            self.finish_sealing()  # all ranks stop together
            raise
        finally:
            if self._sealing is not None:
                with contextlib.suppress(Exception):  # what brought the run down matters more
                    self._sealing.result()

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        self.finish_sealing()
        return super()._finalize_training(*args, **kwargs)

    # What is written

    @contextlib.contextmanager
    def _noting_problems(self) -> Iterator[None]:
        """While a checkpoint is written, errors are noted instead of raised: the ranks still meet in barriers."""
        try:
            yield
        except SAVE_ERRORS as error:
            if self._save_problems is None:
                raise
            self._save_problems.append(f"{type(error).__name__}: {error}")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """`Trainer.save_model`."""
        with self._noting_problems():
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            # A pickle nobody reads, with every argument in clear.
            Path(output_dir or self.args.output_dir or ".", ARGUMENTS_PICKLE).unlink(missing_ok=True)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        with self._noting_problems():
            super()._save_optimizer_and_scheduler(output_dir)

    def _save_rng_state(self, output_dir: str) -> None:
        with self._noting_problems():
            super()._save_rng_state(output_dir)

    def write_model(self, folder: str | os.PathLike[str]) -> str | None:
        """`save_model` with the problem of any rank, if there is one, returned on all of them."""
        self._save_problems = problems = []
        try:
            self.save_model(os.fspath(folder))
        finally:
            self._save_problems = None
        return self._first_problem(problems[0] if problems else None)

    def _first_problem(self, problem: str | None) -> str | None:
        """The problem of the first rank that has one; every rank must ask."""
        if self.args.world_size == 1:
            return problem
        return next((found for found in gather_object([problem]) if found is not None), None)


def _all_finite(model: torch.nn.Module) -> bool:
    # A sum is one pass without a copy; it may overflow where no value does, so only then all are looked at.
    weights = (p.detach() for p in model.parameters() if p.is_floating_point())
    return all(bool(torch.isfinite(p.sum())) or bool(torch.isfinite(p).all()) for p in weights)
