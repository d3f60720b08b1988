"""Subtitles, tables and text files out of a transcription record; they can be made again from it at any time.

`.srt`, `.vtt` and `.json` are written for each recording, `.csv` and `.txt` beside the record for all of them. A list
of what was written, with digests, is kept beside the record (`.files.json`): a file that was there before, or that
somebody has edited since, is never written over. The `.txt` alone belongs to the record and follows it.
"""

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMATS = ("json", "srt", "vtt", "csv", "txt")
PER_RECORDING = ("json", "srt", "vtt")
# What viewers read at once; longer pieces are split where there are times of words.
LONGEST_CUE_S = 10.0
# A pause after which a new cue begins.
PAUSE_S = 1.0


@dataclass(frozen=True)
class Cue:
    """One subtitle."""

    start_s: float
    end_s: float
    text: str
    emotion: str | None = None

    @property
    def line(self) -> str:
        return f"[{self.emotion}] {self.text}" if self.emotion else self.text


def cues_of(entry: Mapping[str, Any], longest_s: float = LONGEST_CUE_S) -> list[Cue]:
    """The subtitles of one recording: its pieces without the empty ones, split by the times of words where there are
    any. They follow each other without overlap."""
    words = [chunk for chunk in entry.get("chunks", ()) if None not in chunk["timestamp"]]
    found: list[Cue] = []
    for segment in segments_of(entry):
        start_s, end_s = segment["start_s"], segment["end_s"]
        inside = [word for word in words if start_s <= sum(word["timestamp"]) / 2 < end_s]
        emotion = segment.get("emotion")
        if end_s - start_s > longest_s and len(inside) > 1:
            found += [
                Cue(group[0]["timestamp"][0], group[-1]["timestamp"][1], _joined(group), emotion)
                for group in _groups(inside, longest_s)
            ]
        else:
            found.append(Cue(start_s, end_s, segment["text"], emotion))
    return list(_in_order(cue for cue in found if cue.text.strip()))


def segments_of(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pieces of a recording; a record made without them has the whole recording as one."""
    if "segments" in entry:
        return entry["segments"]
    whole = {key: entry[key] for key in ("text", "emotion", "scores") if key in entry}
    return [{"start_s": 0.0, "end_s": entry.get("duration_s", 0.0), **whole}]


def _groups(words: Sequence[Mapping[str, Any]], longest_s: float) -> Iterator[list[Mapping[str, Any]]]:
    group: list[Mapping[str, Any]] = []
    for word in words:
        start_s, end_s = word["timestamp"]
        if group and (end_s - group[0]["timestamp"][0] > longest_s or start_s - group[-1]["timestamp"][1] > PAUSE_S):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _joined(words: Sequence[Mapping[str, Any]]) -> str:
    # Whisper's words bring their spaces, the others have none.
    brings_spaces = any(str(word["text"]).startswith(" ") for word in words[1:])
    return ("" if brings_spaces else " ").join(str(word["text"]) for word in words).strip()


def _in_order(cues: Iterator[Cue]) -> Iterator[Cue]:
    """Whole milliseconds, each cue at least one of them long, none before the end of the one before it."""
    last_ms = 0
    for cue in cues:
        start_ms = max(last_ms, round(1000 * cue.start_s))
        last_ms = max(start_ms + 1, round(1000 * cue.end_s))
        yield Cue(start_ms / 1000, last_ms / 1000, " ".join(cue.text.split()), cue.emotion)


def to_srt(cues: Sequence[Cue]) -> str:
    """SubRip. It has no way to write an arrow that is not one of times, so that becomes another arrow."""
    return "".join(
        f"{number}\n{_time(cue.start_s, ',')} --> {_time(cue.end_s, ',')}\n{cue.line.replace('-->', '→')}\n\n"
        for number, cue in enumerate(cues, 1)
    )


def to_vtt(cues: Sequence[Cue]) -> str:
    """WebVTT."""
    blocks = ["WEBVTT\n"]
    for cue in cues:
        text = cue.line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_time(cue.start_s, '.')} --> {_time(cue.end_s, '.')}\n{text}\n")
    return "\n".join(blocks)


def _time(seconds: float, mark: str) -> str:
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}{mark}{milliseconds:03d}"


def to_csv(entries: Sequence[Mapping[str, Any]]) -> str:
    """One line a piece: file, start_s, end_s, text, and with emotions also emotion and p_<label> of every label."""
    rows = [(entry["file"], segment) for entry in entries for segment in segments_of(entry)]
    labels = list(dict.fromkeys(label for _, segment in rows for label in segment.get("scores", ())))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["file", "start_s", "end_s", "text", *(["emotion"] if labels else []), *(f"p_{x}" for x in labels)]
    )
    for file, segment in rows:
        line = [file, segment["start_s"], segment["end_s"], " ".join(segment["text"].split())]
        if labels:
            line += [segment.get("emotion", ""), *(segment.get("scores", {}).get(label, "") for label in labels)]
        writer.writerow(line)
    return stream.getvalue()


def to_txt(entries: Sequence[Mapping[str, Any]]) -> str:
    """`file<TAB>text`, with emotions `file<TAB>emotion<TAB>text`."""
    fields = ([entry["file"], *([entry["emotion"]] if "emotion" in entry else []), entry["text"]] for entry in entries)
    return "".join("\t".join(" ".join(str(field).split()) for field in line) + "\n" for line in fields)


def to_json(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, indent=2) + "\n"


def write_formats(
    entries: Sequence[Mapping[str, Any]],
    output: str | os.PathLike[str],
    formats: Sequence[str],
    folder: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write what a record holds in other formats.

    Args:
        entries: lines of the record; failed ones are left out.
        output: the record, a .jsonl file; `.csv` and `.txt` get its name.
        formats: of `FORMATS`.
        folder: where the files of single recordings go, in the folders in which the recordings lie; None puts each
            beside its recording.

    Returns:
        The files that were left alone because they are not as this program wrote them.

    Raises:
        ValueError: the list of what was written is damaged.
    """
    path = Path(output)
    good = [entry for entry in entries if "error" not in entry]
    wanted: dict[Path, str] = {}
    if "txt" in formats:
        replace_file(path.with_suffix(".txt"), to_txt(good).encode())
    for kind in formats:
        if kind in PER_RECORDING:
            for target, entry in zip(targets([entry["file"] for entry in good], kind, folder), good, strict=True):
                cues = cues_of(entry) if kind != "json" else []
                wanted[target] = to_json(entry) if kind == "json" else to_srt(cues) if kind == "srt" else to_vtt(cues)
        elif kind == "csv":
            wanted[path.with_suffix(".csv")] = to_csv(good)
    return _write(wanted, path.with_suffix(".files.json"))


def targets(files: Sequence[str], kind: str, folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """Where the file of each recording goes: `call.srt` for `call.wav`, `call.wav.srt` where `call.mp3` is there too.

    >>> targets(["in/a/x.wav", "in/b/x.wav"], "srt", "out")
    [Path("out/a/x.srt"), Path("out/b/x.srt")]
    """
    paths = [Path(file) for file in files]
    if folder is not None and paths:
        absolute = [path.absolute() for path in paths]
        common = Path(os.path.commonpath([path.parent for path in absolute]))
        paths = [Path(folder) / path.relative_to(common) for path in absolute]
    short = [path.with_suffix(f".{kind}") for path in paths]
    count = Counter(str(path) for path in short)
    return [
        plain if count[str(plain)] == 1 else path.with_name(f"{path.name}.{kind}")
        for plain, path in zip(short, paths, strict=True)
    ]


def _write(wanted: Mapping[Path, str], listing: Path) -> list[Path]:
    """Write files, but none that differs from what the list says was written last; what is left alone is returned."""
    known: dict[str, str] = {}
    if listing.is_file():
        try:
            known = dict(json.loads(listing.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{listing} is no list of written files ({error}); delete it") from None
    left = []
    for path, text in wanted.items():
        data, name = text.encode("utf-8"), str(path.absolute())
        there = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
        digest = hashlib.sha256(data).hexdigest()
        if there not in (None, digest, known.get(name)):
            left.append(path)
            continue
        known[name] = digest
        if there != digest:
            replace_file(path, data)
    if known:
        replace_file(listing, (json.dumps(known, ensure_ascii=False, indent=1) + "\n").encode())
    return left


def replace_file(path: Path, data: bytes) -> None:
    """All of a file, or what it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
