"""Bad recordings and bad texts that stand among good rows of one manifest, and what must become of each."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from bad_inputs import RATE_HZ, encode, voice, write_manifest

TEXT = "xin chào các bạn"


class BadRow(NamedTuple):
    """A row; `code` is that of the report, `kept` the text it is kept with, or None for a row that is skipped."""

    file: str
    content: bytes | None
    code: str
    text: str = TEXT
    duration: str = ""
    kept: str | None = None


def with_samples(position: int, value: float) -> np.ndarray:
    samples = voice(seed=1)
    samples[position] = value
    return samples


def long_flac(hours: float) -> bytes:
    """A FLAC of one second whose header says that it lasts for hours: who decodes it first finds it cut off."""
    content = bytearray(encode(voice(1.0), kind="FLAC"))
    samples = int(hours * 3600 * RATE_HZ)
    # STREAMINFO: the number of samples is the 36 bits before the last 16 bytes.
    content[21] = content[21] & 0xF0 | samples >> 32
    content[22:26] = (samples & 0xFFFF_FFFF).to_bytes(4, "big")
    return bytes(content)


def patched(content: bytes, *changes: tuple[int, bytes]) -> bytes:
    data = bytearray(content)
    for place, value in changes:
        data[place : place + len(value)] = value
    return bytes(data)


def bad_rows() -> dict[str, BadRow]:
    """By row id, which begins with the code of the input."""
    wav, mp3 = encode(voice(2.0, seed=2)), encode(voice(2.0, seed=3), kind="MP3")
    flac = encode(voice(2.0, seed=4), kind="FLAC")
    stereo = np.stack([voice(seed=5), voice(seed=6)], 1)
    eight = np.stack([voice(seed=10 + channel) for channel in range(8)], 1)
    floats = {"subtype": "FLOAT"}
    clipped = np.clip(8 * voice(seed=7), -1, 1)
    keep = {"kept": TEXT}
    rows = {
        "A1": BadRow("empty.wav", b"", "empty_file"),
        "A2": BadRow("header.wav", encode(np.zeros(0, np.float32)), "no_samples"),
        "A3": BadRow("one.wav", encode(np.full(1, 0.3, np.float32)), "too_short"),
        "A3-20ms": BadRow("short.wav", encode(voice(0.02)), "too_short"),
        "A4-nan": BadRow("nan.wav", encode(with_samples(50, np.nan), **floats), "non_finite"),
        "A4-inf": BadRow("inf.wav", encode(with_samples(70, np.inf), **floats), "non_finite"),
        "A5": BadRow("clipped.wav", encode(clipped, **floats), "clipped", **keep),
        "A6": BadRow("loud.wav", encode(1000 * voice(seed=8), **floats), "rescaled", **keep),
        "A6-beyond": BadRow("beyond.wav", encode(1e6 * voice(seed=9), **floats), "wrong_scale"),
        "A7": BadRow("int16.wav", encode((voice(seed=20) * 32768).round(), **floats), "rescaled", **keep),
        "A8": BadRow("stereo.wav", encode(stereo), "downmixed", **keep),
        "A9": BadRow("opposite.wav", encode(np.stack([voice(seed=21), -voice(seed=21)], 1)), "cancelled_stereo"),
        "A10": BadRow("eight.wav", encode(eight), "downmixed", **keep),
        "A11": BadRow("8khz.wav", encode(voice(0.7, 8_000), 8_000), "resampled", **keep),
        "A12": BadRow("192khz.flac", encode(voice(0.7, 192_000), 192_000, "FLAC"), "resampled", **keep),
        "A14": BadRow("cut.flac", flac[: len(flac) // 2], "truncated"),
        "A15-wav": BadRow("cut.wav", wav[: len(wav) // 3], "truncated"),
        "A15-mp3": BadRow("cut.mp3", mp3[: len(mp3) // 2], "truncated", duration="2.0"),
        "A15-mended": BadRow("mended.wav", encode(voice(0.7, seed=22)), "truncated", duration="2.0"),
        "A16": BadRow("lies.wav", patched(wav, (4, b"\xff" * 4), (40, b"\xff" * 4)), "", **keep),
        "A16-short": BadRow("lies_less.wav", patched(wav, (40, (1 << 30).to_bytes(4, "little"))), "truncated"),
        "A17": BadRow("really_flac.wav", encode(voice(0.8), kind="FLAC"), "wrong_extension", **keep),
        "A18": BadRow("page.wav", b"<!DOCTYPE html><html><body>404</body></html>" * 99, "not_audio"),
        "A19": BadRow("rate0.wav", patched(encode(voice(0.9)), (24, bytes(8))), "not_audio"),
        "A20": BadRow("song.m4a", b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(400), "unsupported_format"),
        "A21": BadRow("ten_hours.flac", long_flac(10), "too_long"),
        "A22": BadRow("31s.flac", encode(voice(31.0), kind="FLAC"), "too_long"),
        "A23-silence": BadRow("silent.wav", encode(np.zeros(8000, np.float32)), "silent"),
        "A23-no-text": BadRow("speech.wav", encode(voice(1.0, seed=23)), "no_text", text=""),
        "A24": BadRow("offset.wav", encode(voice(1.1) + np.float32(0.6)), "dc_offset", **keep),
        "A25": BadRow("folder.wav", None, "is_directory"),
        "M1": BadRow("gone.wav", None, "missing"),
        "M6": BadRow("m6.wav", encode(voice(seed=30)), "no_text", text=""),
        "M6-blank": BadRow("m6b.wav", encode(voice(seed=31)), "no_text", text="  \t\u00a0"),
        "M9": BadRow("m9.wav", encode(voice(seed=36)), "text_nfd", text="cha\u0300o ba\u0323n", kept="chào bạn"),
        "M10": BadRow("m10.wav", encode(voice(seed=37)), "text_normalised", text="hòa thuỷ", kept="hoà thuỷ"),
        "M10-other": BadRow("m10b.wav", encode(voice(seed=38)), "", text="hoà thuỷ", kept="hoà thuỷ"),
        "M11-zero": BadRow("m11.wav", encode(voice(seed=39)), "text_zero_width", text="ba\u200b má", kept="ba má"),
        "M11-nbsp": BadRow("m11b.wav", encode(voice(seed=40)), "text_space", text="xin\u00a0chào", kept="xin chào"),
        "M11-control": BadRow("m11c.wav", encode(voice(seed=41)), "text_control", text="ba\x07 má", kept="ba má"),
        "M12-digits": BadRow("m12.wav", encode(voice(seed=42)), "text_digits", text="có 25 người"),
        "M12-emoji": BadRow("m12b.wav", encode(voice(seed=43)), "text_emoji", text="vui quá 😀"),
        "M12-address": BadRow("m12c.wav", encode(voice(seed=44)), "text_symbols", text="vào http://a.vn/?q=x&y nhé"),
        "M13-cyrillic": BadRow("m13.wav", encode(voice(seed=45)), "text_other_script", text="xin сhào"),
        "M13-han": BadRow("m13b.wav", encode(voice(seed=46)), "text_other_script", text="你好 nhé"),
        "M21-longer": BadRow("m21.wav", encode(voice(1.9, seed=47)), "duration_mismatch", duration="0.6"),
        "M21-null": BadRow("m21b.wav", encode(voice(1.2, seed=48)), "", **keep),
    }  # fmt: skip
    # Words of the language that readers of tables take for missing values.
    for number, word in enumerate(("nan", "null", "NA", "None")):
        content = encode(voice(seed=32 + number))
        rows[f"M7-{word}"] = BadRow(f"m7{number}.wav", content, "", text=word, kept=word.lower())
    return rows


GOOD = 40


def write_bad_corpus(folder: Path) -> dict[str, BadRow]:
    """Bad rows between good ones `good-0` ...; the last row repeats an id (M5)."""
    rows = bad_rows()
    folder.mkdir(parents=True)
    lines, good = [], encode(voice(0.5))
    for number, (name, row) in enumerate(rows.items()):
        if row.content is not None:
            (folder / row.file).write_bytes(row.content)
        lines.append({"id": name, "file_name": row.file, "text": row.text, "duration": row.duration})
        if number < GOOD:
            (folder / f"good-{number}.wav").write_bytes(good[:-4] + number.to_bytes(4, "little"))
            lines.append({"id": f"good-{number}", "file_name": f"good-{number}.wav", "text": TEXT, "duration": "0.5"})
    (folder / "folder.wav").mkdir()
    lines.append({**lines[1], "text": "một hai"})
    write_manifest(folder, lines)
    return rows
