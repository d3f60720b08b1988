"""Outputs of frozen parts on disk, computed once: encoder states for S2P, S2P's phonemes and states for TSPC.

A cache folder is named by a digest of everything that decides its content: the weights and config of the frozen part
and the settings of its front end. Another model, or the same after one more step of training, gets another folder;
nothing is ever overwritten. Within it an entry is keyed by the digest of the encoded audio file, so runs, splits and
renamed files share entries.

Every process appends to a part of its own (`part-*.bin`, fp16, with `part-*.idx` beside it), so several ranks and
several runs may fill one cache at once, and a build that was stopped goes on where it was.
"""

import hashlib
import json
import logging
import os
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from trainers.sampler import BudgetBatchSampler

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
PART_BYTES = 1 << 30
# One record of an index: key of the audio, first byte in the part, rows of the payload, CRC-32 of the payload.
RECORD = np.dtype([("key", "V16"), ("offset", "<u8"), ("num_rows", "<u4"), ("crc", "<u4")])
FLOAT16_MAX = 65504.0


class CacheError(RuntimeError):
    """A cache that cannot be used; the message names the folder and what to do."""


class Entry(NamedTuple):
    """Where a payload lies."""

    part: int
    offset: int
    num_rows: int
    crc: int


def audio_key(audio: Any) -> bytes:
    """Digest of an encoded audio file, 16 bytes.

    Args:
        audio: a path, bytes, or the schema's `{"path", "bytes"}`.

    Raises:
        CacheError: the file cannot be read.
    """
    if isinstance(audio, dict):
        audio = audio["bytes"] if audio.get("bytes") is not None else audio["path"]
    if not isinstance(audio, bytes):
        try:
            audio = Path(audio).read_bytes()
        except OSError as error:
            raise CacheError(f"cannot read {audio} to look it up in the cache: {error}") from error
    return hashlib.blake2b(audio, digest_size=16).digest()


def model_digest(model: torch.nn.Module, *settings: Any) -> str:
    """Digest of weights (names, shapes, types, values) and JSON-able settings, 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    digest.update(json.dumps([FORMAT_VERSION, *settings], sort_keys=True, default=str).encode())
    return digest.hexdigest()


class StateStore:
    """Payloads of rows of fp16 states, each row with an optional int32 id, in append-only parts.

    Args:
        folder: of one digest; made if need be.
        width (`int`): states per row.
        with_ids (`bool`): whether rows carry an id.

    Raises:
        CacheError: the folder holds something else.
    """

    def __init__(self, folder: str | os.PathLike, width: int, with_ids: bool):
        self.folder = Path(folder)
        self.width = width
        self.with_ids = with_ids
        self.row_bytes = 2 * width + (4 if with_ids else 0)
        self.entries: dict[bytes, Entry] = {}
        self.parts: list[Path] = []
        self._maps: dict[int, np.memmap] = {}
        self._writer: tuple[Any, Any] | None = None
        self._check_meta()
        self.reload()

    def _check_meta(self) -> None:
        meta = {"version": FORMAT_VERSION, "width": self.width, "with_ids": self.with_ids}
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "meta.json"
        if not path.exists():
            # Written aside and renamed: another process may look at any moment, and would write the same.
            temporary = self.folder / f".meta-{uuid.uuid4().hex}"
            temporary.write_text(json.dumps(meta), encoding="utf-8")
            temporary.replace(path)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CacheError(f"{path} is damaged ({error}); delete the folder {self.folder}") from error
        if found != meta:
            raise CacheError(f"{self.folder} holds {found}, expected {meta}; delete it or choose another cache folder")

    def reload(self) -> None:
        """Reads the indexes of all parts, those of other processes included."""
        self.close()
        self.entries, self.parts, self._maps = {}, sorted(self.folder.glob("part-*.bin")), {}
        for number, part in enumerate(self.parts):
            size = part.stat().st_size
            raw = part.with_suffix(".idx").read_bytes() if part.with_suffix(".idx").exists() else b""
            # A process that was killed leaves half a record, or a record whose payload never reached the disk.
            records = np.frombuffer(raw[: len(raw) // RECORD.itemsize * RECORD.itemsize], dtype=RECORD)
            for key, offset, num_rows, crc in records.tolist():
                if offset + num_rows * self.row_bytes <= size:
                    self.entries[key] = Entry(number, offset, num_rows, crc)

    def write(self, key: bytes, states: np.ndarray, ids: np.ndarray | None = None) -> None:
        """Appends a payload; it is found after the next `reload`.

        Args:
            key (`bytes`): `audio_key`.
            states: (num_rows, width); finite and within fp16.
            ids: (num_rows,) if the store carries ids.

        Raises:
            CacheError: states that fp16 cannot hold.
        """
        if not np.isfinite(states).all() or np.abs(states).max(initial=0.0) > FLOAT16_MAX:
            raise CacheError("states are not finite or exceed the range of fp16: turn the cache off for this model")
        payload = np.ascontiguousarray(states, dtype="<f2").tobytes()
        if self.with_ids:
            payload += np.ascontiguousarray(ids, dtype="<i4").tobytes()
        if self._writer is None or self._writer[0].tell() > PART_BYTES:
            self.close()
            path = self.folder / f"part-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.bin"
            self._writer = open(path, "ab"), open(path.with_suffix(".idx"), "ab")  # noqa: SIM115
        data, index = self._writer
        record = np.array([(np.void(key), data.tell(), len(states), zlib.crc32(payload))], dtype=RECORD)
        data.write(payload)
        # The payload first: an index must never point at what is not there.
        data.flush()
        index.write(record.tobytes())
        index.flush()

    def close(self) -> None:
        """Closes the part being written."""
        for file in self._writer or ():
            file.close()
        self._writer = None

    def read(self, entry: Entry) -> tuple[np.ndarray, np.ndarray | None]:
        """States (num_rows, width) fp16 and ids (num_rows,) or None.

        Raises:
            CacheError: the payload is damaged.
        """
        if entry.part not in self._maps:
            self._maps[entry.part] = np.memmap(self.parts[entry.part], dtype=np.uint8, mode="r")
        payload = self._maps[entry.part][entry.offset : entry.offset + entry.num_rows * self.row_bytes]
        if zlib.crc32(payload.data) != entry.crc:
            raise CacheError(f"{self.parts[entry.part]} is damaged; delete the folder {self.folder} to build it again")
        split = 2 * self.width * entry.num_rows
        states = payload[:split].view("<f2").reshape(entry.num_rows, self.width)
        return states, payload[split:].view("<i4") if self.with_ids else None

    def __getstate__(self) -> dict[str, Any]:
        # Data loader workers open their own maps.
        return {**self.__dict__, "_maps": {}, "_writer": None}


class RowsWithOutputs(torch.utils.data.Dataset):
    """Rows of a data set, each with what `outputs` finds for it; columns can still be read (`rows["duration_s"]`)."""

    rows: Any

    @property
    def column_names(self) -> list[str]:
        return list(self.rows.column_names)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | str) -> Any:
        if isinstance(index, str):
            return self.rows[index]
        return {**self.rows[index], **self.outputs(index)}

    def outputs(self, index: int) -> dict[str, Any]:
        """Cached fields of a row."""
        raise TypeError(f"{type(self).__name__} must say what it has cached")


class CachedRows(RowsWithOutputs):
    """Rows with cached outputs of one kind in place of audio."""

    def __init__(self, rows: Any, store: StateStore, keys: Sequence[bytes], states_name: str):
        self.rows = rows.remove_columns("audio")
        self.store = store
        self.entries = [store.entries[key] for key in keys]
        self.states_name = states_name

    def outputs(self, index: int) -> dict[str, Any]:
        states, ids = self.store.read(self.entries[index])
        return {self.states_name: states} | ({} if ids is None else {"phoneme_ids": ids})


def fill(
    stores: Sequence[StateStore],
    rows: Any,
    keys: Sequence[bytes],
    model: Any,
    inputs: Any,
    compute: Callable[[list[int], dict[str, torch.Tensor]], None],
    *,
    batch_duration_s: float,
) -> None:
    """Computes what stores lack of some rows, and opens what all ranks have written.

    With several ranks each computes its share and waits for the others. The model is used on its device, in
    evaluation mode and in its own precision.

    Args:
        rows (`datasets.Dataset`): schema rows, with audio.
        keys: `audio_key` of each row.
        model: in evaluation mode while `compute` runs.
        inputs (`trainers.collators.SpeechInputs`): the front end, without augmentation.
        compute: gets the numbers of some rows and their inputs on the model's device, and writes to the stores.
        batch_duration_s (`float`): padded seconds of audio encoded at once.

    Raises:
        CacheError: the front end augments.
    """
    if inputs.augmentation is not None:
        raise CacheError("a cache holds the outputs of unchanged audio: turn augmentation off")
    start = time.monotonic()
    durations = list(rows["duration_s"])
    # The first row of each key: duplicates are encoded once.
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    rank, world_size = rank_and_world_size()
    # Dealt out by length over all utterances, not over the missing ones: ranks that look at the folder while
    # another already writes would disagree about those.
    share = sorted(first.values(), key=lambda index: (-durations[index], index))[rank::world_size]
    share = [index for index in share if any(keys[index] not in store.entries for store in stores)]
    folders = ", ".join(str(store.folder) for store in stores)
    logger.info("%s: %d of %d utterances to compute here", folders, len(share), len(rows))
    if share:
        lengths = [max(durations[index], 1e-3) for index in share]
        batches = BudgetBatchSampler(lengths, batch_duration_s, max_batch_size=64, shuffle=False)
        _build(stores, rows, [[share[i] for i in batch] for batch in batches], model, inputs, compute)
    if world_size > 1:
        torch.distributed.barrier()
    hours = sum(durations[index] for index in first.values()) / 3600
    for store in stores:
        store.reload()
        num_bytes = sum(store.entries[key].num_rows for key in first) * store.row_bytes
        logger.info(
            "%s: ready after %.1f s, %.1f MiB for %.2f h of audio: %.1f MiB per hour",
            store.folder,
            time.monotonic() - start,
            num_bytes / 2**20,
            hours,
            num_bytes / 2**20 / max(hours, 1e-9),
        )


@torch.no_grad()
def _build(stores: Sequence[StateStore], rows: Any, batches: Any, model: Any, inputs: Any, compute: Any) -> None:
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    try:
        for number, batch in enumerate(batches):
            features = {name: value.to(device) for name, value in inputs([rows[i] for i in batch]).items()}
            compute(batch, features)
            if number % 100 == 99:
                logger.info("%s: %d of %d batches", stores[0].folder, number + 1, len(batches))
    finally:
        for store in stores:
            store.close()
        model.train(was_training)


class _OutputCache:
    """What both caches share: `attach` computes what is missing and returns rows without audio."""

    prefix: str
    states_name: str
    with_ids: bool

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def digest(self, model: Any, inputs: Any) -> str:
        raise TypeError("use EncoderCache or S2POutputCache")

    def width(self, model: Any) -> int:
        raise TypeError("use EncoderCache or S2POutputCache")

    def outputs(self, model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, Any]:
        raise TypeError("use EncoderCache or S2POutputCache")

    def attach(self, rows: Any, model: Any, inputs: Any, *, batch_duration_s: float = 120.0) -> CachedRows:
        """The rows with cached outputs in place of audio, computing those that are missing (`fill`).

        Args:
            rows (`datasets.Dataset`): schema rows.
            model: the S2P (or TSPC) model.
            inputs (`trainers.collators.SpeechInputs`): the front end, without augmentation.
            batch_duration_s (`float`): padded seconds of audio encoded at once.

        Raises:
            CacheError: the front end augments; audio that cannot be read.
        """
        folder = self.folder / f"{self.prefix}-{self.digest(model, inputs)}"
        store = StateStore(folder, self.width(model), self.with_ids)
        keys = [audio_key(audio) for audio in rows["audio"]]

        def compute(batch: list[int], features: dict[str, torch.Tensor]) -> None:
            states, mask, ids = self.outputs(model, features)
            for position, index in enumerate(batch):
                valid = mask[position].bool()
                one = None if ids is None else ids[position][valid].cpu().numpy()
                store.write(keys[index], states[position][valid].float().cpu().numpy(), one)

        fill([store], rows, keys, model, inputs, compute, batch_duration_s=batch_duration_s)
        return CachedRows(rows, store, keys, self.states_name)


class EncoderCache(_OutputCache):
    """States of the true frames of a frozen speech encoder (`S2PForConditionalGeneration.encode`)."""

    prefix = "encoder"
    states_name = "encoder_states"
    with_ids = False

    def digest(self, model: Any, inputs: Any) -> str:
        """Folder key: encoder weights and config, window and front end."""
        config = model.config.encoder_config.to_dict()
        return model_digest(model.encoder, config, model.config.encoder_window, front_end(inputs))

    def width(self, model: Any) -> int:
        return model.config.encoder_hidden_size

    def outputs(self, model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, Any]:
        states, mask = model.encode(**batch)
        return states, mask, None


class S2POutputCache(_OutputCache):
    """Greedy phonemes and last decoder states of a frozen S2P (`phonemes_and_states`), for joint training."""

    prefix = "s2p"
    states_name = "s2p_states"
    with_ids = True

    def digest(self, model: Any, inputs: Any) -> str:
        """Folder key: S2P weights and config, and front end."""
        return model_digest(model.s2p, model.s2p.config.to_dict(), front_end(inputs))

    def width(self, model: Any) -> int:
        return model.config.s2p_config.d_model

    def outputs(self, model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, Any]:
        ids, mask, states = model.phonemes_and_states(**batch)
        return states, mask, ids


def front_end(inputs: Any) -> dict[str, Any]:
    """What decides the features beside the audio."""
    return inputs.feature_extractor.to_dict()


def rank_and_world_size() -> tuple[int, int]:
    """(0, 1) outside a multi-process launch."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
