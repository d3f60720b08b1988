"""Uploads while training goes on, that never fail silently and never hold a run up.

    <run>/push_status.json     every try: what, when, how it ended; `published` is what the Hub holds

A checkpoint is uploaded from hard links of its publishable files, so rotation may delete it meanwhile. While one
upload runs only the newest further checkpoint waits. A request that hangs is given up; the run goes on.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_scripts.files import write_json

from .publishing import IncompleteFolder, PublishError, check_rights, files_to_publish, publish

logger = logging.getLogger(__name__)

STATUS_FILE = "push_status.json"
STAGING = ".uploading"
# What a try may take beyond its own deadline before its thread is left to itself.
GRACE_S = 30.0
CHECK_S = 60.0


@dataclass
class _Job:
    name: str
    folder: Path
    message: str


class PushQueue:
    """Sends the checkpoints and the finished model of one run to one repository.

    Args:
        run: the run directory, where `push_status.json` is kept.
        repo_id, private: as of `publish`.
        deadline_s: for each upload, retries included.
        send: what uploads a folder; `publish` but for tests.
    """

    def __init__(
        self,
        run: Path,
        repo_id: str,
        *,
        private: bool,
        deadline_s: float = 600.0,
        send: Callable[..., str] = publish,
    ) -> None:
        self.run, self.repo_id, self.private, self.deadline_s, self.send = run, repo_id, private, deadline_s, send
        self.tries: list[dict[str, Any]] = []
        self.published: str | None = None
        self._changed = threading.Condition()
        self._running: _Job | None = None
        self._waiting: _Job | None = None

    def check(self) -> None:
        """Find out before hours of training whether token, rights and visibility will do.

        Raises:
            PublishError: they will not; says what to do.
        """
        limit_s = min(CHECK_S, self.deadline_s)
        answers: list[str | Exception] = []

        def ask() -> None:
            try:
                answers.append(check_rights(self.repo_id, private=self.private, deadline_s=limit_s))
            except Exception as error:
                answers.append(error)

        thread = threading.Thread(target=ask, daemon=True, name="push-check")
        thread.start()
        thread.join(limit_s + self._grace_s)
        if not answers:
            raise PublishError("the Hub does not answer; try again later, or train without publish.push")
        if isinstance(answers[0], Exception):
            raise answers[0]
        self.repo_id = answers[0]
        self._write()

    def offer(self, folder: Path, step: int) -> None:
        """Upload a sealed checkpoint when its turn comes; returns at once."""
        staged = self.run / STAGING / folder.name
        try:
            _link(folder, staged)
        except OSError as error:
            self._note(folder.name, "failed", f"could not be staged: {error}", 0.0)
            return
        with self._changed:
            self._drop_waiting(folder.name)
            job = _Job(folder.name, staged, f"Checkpoint of step {step}")
            if self._running is None:
                self._start(job)
            else:
                self._waiting = job

    def finish(self, folder: Path) -> bool:
        """Upload the finished model after what is running, instead of what is waiting; whether it arrived."""
        patience_s = self.deadline_s + self._grace_s
        with self._changed:
            self._drop_waiting("the finished model")
            self._changed.wait_for(lambda: self._running is None, timeout=patience_s)
            self._start(_Job("model", folder, "Upload model"))
            if not self._changed.wait_for(lambda: self._running is None, timeout=patience_s):
                self._running = None
                advice = "no answer from the Hub; send it with scripts/publish.py when it is back"
                self._note("model", "failed", advice, patience_s)
        shutil.rmtree(self.run / STAGING, ignore_errors=True)
        return self.published == "model"

    @property
    def _grace_s(self) -> float:
        return min(GRACE_S, self.deadline_s)

    def _drop_waiting(self, successor: str) -> None:
        if self._waiting is not None:
            self._note(self._waiting.name, "replaced", f"by {successor}", 0.0)
            shutil.rmtree(self._waiting.folder, ignore_errors=True)
            self._waiting = None

    def _start(self, job: _Job) -> None:
        self._running = job
        threading.Thread(target=self._work, args=(job,), daemon=True, name="push").start()

    def _work(self, job: _Job) -> None:
        started = time.monotonic()
        state, detail = self._upload(job)
        with self._changed:
            if self._running is not job:  # given up while it hung
                return
            if state == "published":
                self.published = job.name
            self._note(job.name, state, detail, time.monotonic() - started)
            if job.folder.parent.name == STAGING:
                shutil.rmtree(job.folder, ignore_errors=True)
            self._running = None
            if self._waiting is not None:
                following, self._waiting = self._waiting, None
                self._start(following)
            else:
                self._changed.notify_all()

    def _upload(self, job: _Job) -> tuple[str, str]:
        options = {"private": self.private, "commit_message": job.message, "deadline_s": self.deadline_s}
        try:
            return "published", self.send(job.folder, self.repo_id, **options)
        except (PublishError, IncompleteFolder) as error:
            return "failed", str(error)
        except Exception as error:  # whatever the client raises, training must hear of it and go on
            return "failed", f"{type(error).__name__}: {error}"

    def _note(self, name: str, state: str, detail: str, seconds: float) -> None:
        self.tries.append({"what": name, "state": state, "detail": detail, "seconds": round(seconds, 1)})
        if state == "failed":
            logger.error("%s was not uploaded: %s", name, detail)
        self._write()

    def _write(self) -> None:
        status = {"repo_id": self.repo_id, "private": self.private, "published": self.published, "tries": self.tries}
        try:
            write_json(self.run / STATUS_FILE, status)
        except OSError as error:
            logger.warning("%s could not be written: %s", STATUS_FILE, error)


def _link(folder: Path, staged: Path) -> None:
    """The publishable files of a folder, as hard links: free, and alive when the folder is deleted."""
    shutil.rmtree(staged, ignore_errors=True)
    for name in files_to_publish(folder):
        target = staged / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # The card is rewritten with the repository's name, which must not reach into the sealed checkpoint.
        if name in ("README.md", "card.json"):
            shutil.copyfile(folder / name, target)
        else:
            _link_or_copy(folder / name, target)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
