"""What DFAT's streams read: transcripts and tokens of the rows, and the pooled features of the acoustic encoder.

Recordings are heard once: features and transcripts are kept in the run directory, and a resumed run reads them there.

Shape legend: N rows, F features.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_scripts.audio import read_audio
from models.dfat import DFATForAudioClassification
from trainers.collators import RowError

logger = logging.getLogger(__name__)

# Seconds of audio that go through the encoder at once, padding included.
BATCH_S = 120.0
# Transcripts that are written down at once.
TRANSCRIBED_AT_ONCE = 64


def acoustic_features(model: DFATForAudioClassification, rows: Any, path: Path, key: str) -> np.ndarray:
    """(N, F) float32 features of rows with encoded `audio` and `duration_s`, in their order.

    Args:
        model: on the device that computes.
        path: a .npy file that keeps them; one that was made for the same rows and `key` is read instead.
        key: what the features follow from beside the rows: the encoder and its weights.

    Raises:
        RowError: a recording that cannot be read (validated rows can).
    """
    mark = hashlib.sha256(repr([key, list(rows["id"]), list(rows["duration_s"])]).encode()).hexdigest()
    mark_file = path.with_suffix(".sha256")
    if path.is_file() and mark_file.is_file() and mark_file.read_text("utf-8").strip() == mark:
        return np.load(path, allow_pickle=False)
    features_NF = np.zeros((len(rows), model.num_features["acoustic"]), dtype=np.float32)
    for numbers in batches(rows["duration_s"]):
        clips = [_read(rows[number]) for number in numbers]
        longest = max(map(len, clips))
        waveforms, mask = torch.zeros(len(clips), longest), torch.zeros(len(clips), longest, dtype=torch.long)
        for place, clip in enumerate(clips):
            waveforms[place, : len(clip)], mask[place, : len(clip)] = torch.from_numpy(clip), 1
        features = model.acoustic_features(waveforms.to(model.device), mask.to(model.device))
        features_NF[numbers] = features.cpu().numpy()
    mark_file.unlink(missing_ok=True)
    np.save(path, features_NF, allow_pickle=False)
    mark_file.write_text(mark + "\n", "utf-8")
    return features_NF


def batches(durations_s: Sequence[float | None]) -> Iterator[list[int]]:
    """Row numbers, longest first, in batches of at most `BATCH_S` seconds with padding, but at least one row."""
    order = sorted(range(len(durations_s)), key=lambda row: (-(durations_s[row] or 0.0), row))
    batch: list[int] = []
    for row in order:
        longest_s = (durations_s[batch[0]] or 0.0) if batch else 0.0
        if batch and (len(batch) + 1) * longest_s > BATCH_S:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _read(row: dict[str, Any]) -> np.ndarray:
    try:
        return np.ascontiguousarray(read_audio(row["audio"]), dtype=np.float32)
    except (ValueError, OSError) as error:  # AudioError is a ValueError
        raise RowError(f"row {row['id']!r}: {error}; validate the data to drop such rows") from error


def transcripts(rows: Any, recogniser: str | None, path: Path, device: str) -> list[str]:
    """The transcript of every row: its `text`, or what a recogniser hears, which is written to the JSONL file `path`
    as it comes and not recognised again.

    Raises:
        RecogniserError: the recogniser cannot be loaded, or writes phonemes only.
    """
    if recogniser is None:
        return [text or "" for text in rows["text"]]
    from trainers.recognisers import RecogniserError, load_recogniser, recognise

    known = read_transcripts(path, recogniser)
    ids = list(rows["id"])
    missing = [number for number, row_id in enumerate(ids) if row_id not in known]
    if missing:
        loaded = load_recogniser(recogniser, device=device)
        if loaded.kind == "s2p":
            raise RecogniserError(f"{recogniser} writes phonemes; model.dfat.text.recogniser must write text")
        logger.info("%d of %d recordings go to %s for their transcripts", len(missing), len(ids), recogniser)
        with open(path, "a", encoding="utf-8") as file:
            for start in range(0, len(missing), TRANSCRIBED_AT_ONCE):
                numbers = missing[start : start + TRANSCRIBED_AT_ONCE]
                heard = recognise(loaded, [rows[number] for number in numbers]).texts or []
                for number, text in zip(numbers, heard, strict=True):
                    known[ids[number]] = text
                    line = {"id": ids[number], "recogniser": recogniser, "text": text}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
    return [known[row_id] for row_id in ids]


def read_transcripts(path: Path, recogniser: str) -> dict[str, str]:
    """Transcripts by the id of their row, of one recogniser; a line that was cut short is mended away."""
    if not path.is_file():
        return {}
    whole, known = [], {}
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            row_id, by, text = entry["id"], entry["recogniser"], entry["text"]
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: a line is damaged; its recording is recognised again", path)
            continue
        whole.append(line)
        if by == recogniser:
            known[row_id] = text
    path.write_text("".join(f"{line}\n" for line in whole), "utf-8")
    return known
