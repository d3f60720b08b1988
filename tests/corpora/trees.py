"""Every corpus in small: its official tree as documented, and the parquet files of its Hub form."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile


def sound(index: int = 0, kind: str = "WAV", rate_hz: int = 16_000) -> bytes:
    """0.1 s of a tone, another for each index."""
    time = np.arange(rate_hz // 10) / rate_hz
    samples = (0.3 * np.sin(2 * np.pi * (200 + 40 * index) * time)).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind, subtype="MPEG_LAYER_III" if kind == "MP3" else "PCM_16")
    return buffer.getvalue()


def _fleurs(name: str, rows: Iterable[tuple[int, str]]) -> dict[str, Any]:
    lines = [f"{9}\t{stem}.wav\t{text}.\t{text.lower()}\tx\t1600\tFEMALE" for stem, text in rows]
    return {
        f"vi_vn/{name}.tsv": "\n".join(lines),
        **{f"vi_vn/audio/{name}/{stem}.wav": sound(stem) for stem, _ in rows},
    }


LSVSC_LIST = {"33": {"wav": "33.wav", "text": "mưa  rơi\n"}, "34": {"wav": "34.wav", "text": "nan"}}
CV_HEADER = "client_id\tpath\tsentence_id\tsentence\tup_votes\taccents"
SES = "Session1/{}/Ses01F_impro01"

# What a file holds: text, bytes, or an object written as JSON.
TREES: dict[str, dict[str, Any]] = {
    "vivos": {
        "train/prompts.txt": "VIVOSSPK01_R001 KHÁCH SẠN\nVIVOSSPK02_R003 NAN\nVIVOSSPK01_R009 KHÔNG CÓ TIẾNG\n",
        "train/waves/VIVOSSPK01/VIVOSSPK01_R001.wav": sound(1),
        "train/waves/VIVOSSPK02/VIVOSSPK02_R003.wav": sound(2),
        "train/waves/VIVOSSPK02/VIVOSSPK02_R004.wav": sound(3),  # in no list
        "train/genders.txt": "VIVOSSPK01 m\n",
        "test/prompts.txt": "VIVOSDEV01_R001 XIN CHÀO\n",
        "test/waves/VIVOSDEV01/VIVOSDEV01_R001.wav": sound(4),
    },
    "lsvsc": {
        "LSVSC_train.json": LSVSC_LIST,
        "LSVSC_valid.json": {"35": {"wav": "35.wav", "text": "trời nắng"}},
        "LSVSC_test.json": {"36": {"wav": "36.wav", "text": "\ufeffgió"}},
        "helck_finale.json": [
            {"wav": "33.wav", "text": "", "class": "(0M2JY)"},
            {"wav": "34.wav", "text": "", "class": "(0F3TO)"},
            {"wav": "35.wav", "text": "", "class": None},
        ],
        **{f"data/{number}.wav": sound(number) for number in (33, 34, 35, 36)},
    },
    "common_voice_vi": {
        "vi/train.tsv": f'{CV_HEADER}\nf00\tcommon_voice_vi_1.mp3\tx\t"Đi đâu đấy?\t2\t\n'
        "f01\tcommon_voice_vi_2.mp3\tx\tNA\t2\t\n",
        "vi/dev.tsv": f"{CV_HEADER}\nf02\tcommon_voice_vi_3.mp3\tx\tĂn cơm.\t2\t\n",
        "vi/test.tsv": f"{CV_HEADER}\nf03\tcommon_voice_vi_4.mp3\tx\tNgủ.\t2\t\n",
        **{f"vi/clips/common_voice_vi_{n}.mp3": sound(n, "MP3", 32_000) for n in (1, 2, 3, 4, 5)},
        "en/train.tsv": f"{CV_HEADER}\nf09\tcommon_voice_en_1.mp3\tx\tHello.\t2\t\n",
        "en/clips/common_voice_en_1.mp3": sound(9, "MP3", 32_000),
    },
    "fosd": {
        "transcriptAll.txt": "Set001_000001.mp3|cách để đi |0.0-1.23\n"
        "Set001_000002.mp3|nan -N|0.0-0.5 0.7-0.9\nkhông\n",
        "mp3/Set001_000001.mp3": sound(1, "MP3", 48_000),
        "mp3/Set001_000002.mp3": sound(2, "MP3", 48_000),
    },
    "vlsp2020": {
        "vlsp2020_train_set_02/speaker_1-0001.wav": sound(1),
        "vlsp2020_train_set_02/speaker_1-0001.txt": "xin <unk>  chào\n",
        "vlsp2020_train_set_02/database_2.wav": sound(2),
        "vlsp2020_train_set_02/database_2.txt": "nan",
        "vlsp2020_train_set_02/lost.txt": "không có tiếng",
    },
    "vlsp2023": {
        "train.csv": "file_name,text,emotion,speaker\nwav/1.wav,xin chào,Neutral,1\nwav/2.wav,nan,negative,\n",
        "dev.jsonl": '{"audio": "wav/3.wav", "text": "tạm biệt", "emotion": "negative", "speaker": 7}\n',
        **{f"wav/{number}.wav": sound(number) for number in (1, 2, 3)},
    },
    "vlsp2025": {
        "train/a/1.wav": sound(1),
        "train/a/1.txt": "xin chào\n",
        "train/b/1.wav": sound(2),
        "train/b/1.txt": "nan",
        "test/metadata.csv": "file_name,text,emotion\n9.wav,hết,negative\n",
        "test/9.wav": sound(9),
    },
    "fleurs_vi": {
        **_fleurs("train", [(11, "Xin chào"), (12, "NAN")]),
        **_fleurs("dev", [(13, "Ăn cơm")]),
        **_fleurs("test", [(14, "Ngủ")]),
    },
    "iemocap": {
        SES.format("dialog/EmoEvaluation") + ".txt": "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\n\n"
        "[10.0 - 11.4]\tSes01F_impro01_M000\txxx\t[2.5, 2.5, 2.5]\n"
        "[12.0 - 13.4]\tSes01F_impro01_M001\tfru\t[2.5, 2.5, 2.5]\n"
        "[14.0 - 15.4]\tSes01F_impro01_F001\texc\t[2.5, 2.5, 2.5]\n",
        "Session1/dialog/EmoEvaluation/Categorical/Ses01F_impro01_e2_cat.txt": "Ses01F_impro01_F000 :Anger; ()\n",
        SES.format("dialog/transcriptions") + ".txt": "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\n"
        "Ses01F_impro01_M000 [010.0-011.4]: Do you have your forms?\nM: no line of the form\n"
        "Ses01F_impro01_M001 [012.0-013.4]: Let me see.\nSes01F_impro01_F001 [014.0-015.4]: Yeah!\n",
        **{
            f"{SES.format('sentences/wav')}/Ses01F_impro01_{n}.wav": sound(i)
            for i, n in enumerate(["F000", "M000", "M001", "F001"])
        },
        SES.format("sentences/wav") + "/._Ses01F_impro01_F000.wav": b"\0\5\26\7",
        SES.format("dialog/wav") + ".wav": sound(8),
    },
    "emodb": {
        **{f"wav/{n}.wav": sound(i) for i, n in enumerate(["03a01Fa", "08b09Wb", "16a07La", "11a05Nc"])},
        "erkennung.txt": "Satz\n",
    },
    "ravdess": {
        "Actor_01/03-01-01-01-01-01-01.wav": sound(1, rate_hz=48_000),
        "Actor_12/03-01-06-02-02-01-12.wav": sound(2, rate_hz=48_000),
        "Actor_12/03-02-06-02-02-01-12.wav": sound(3, rate_hz=48_000),  # sung
    },
    "crema_d": {
        "AudioWAV/1001_DFA_ANG_XX.wav": sound(1),
        "AudioWAV/1091_IEO_FEA_HI.wav": sound(2),
        "AudioMP3/1001_DFA_ANG_XX.mp3": sound(1, "MP3"),
    },
    "emov_db": {
        "bea_Amused/amused_1-15_0001.wav": sound(1),
        "sam/Anger/anger_1-28_0002.wav": sound(2),
        "sam_Sleepy/sleepiness_1-28_0001.wav": sound(3),
        "cmuarctic.data": '( arctic_a0001 "Author of the danger trail, Philip Steels, etc." )\n'
        '( arctic_a0002 "Not at this particular case, Tom, apologized Whittemore." )\n',
    },
}
# The Hub's files: split name there → columns.
HUB: dict[str, dict[str, dict[str, list[Any]]]] = {
    "bud500": {s: {"transcription": ["xin chào", "nan"]} for s in ("train", "validation", "test")},
    "vivoice": {"train": {"channel": ["@a", "@b"], "text": ["Xin chào.", "NaN"]}},
    "phoaudiobook": {
        s: {"text": ["Xin chào.", "nan"], "speaker": ["Ánh", "7"]} for s in ("train", "validation", "test")
    },
    "lsvsc": {
        s: {
            "transcription": ["xin chào", "nan"],
            "dialect": ["highland central dialect", None],
            "emotion": ["joyful", "tired"],
            "gender": ["male", "female"],
        }
        for s in ("train", "validation", "test")
    },
    "vietspeech": {"train": {"transcription": ["xin chào", "nan"]}},
    "fosd": {"train": {"transcription": ["xin chào", "nan"]}},
    "vlsp2020": {"train": {"transcription": ["xin chào", "nan"]}},
    "vimd": {
        s: {
            "region": ["North", "South"],
            "province_code": [1, 2],
            "filename": [f"{s}_01.wav", f"{s}_02.wav"],
            "text": ["xin chào", "nan"],
            "speakerID": ["spk_1", "spk_2"],
        }
        for s in ("train", "valid", "test")
    },
    "vigbigdata28k": {s: {"sentence": ["xin chào", "nan"]} for s in ("train_1", "train_2", "train_5", "test")},
    "visec": {
        "train": {
            "speaker_id": [3, 4],
            "accent": ["mid", "north"],
            "emotion": ["angry", "happy"],
            "emotion_id": [3, 0],
        }
    },
    "iemocap": {
        "train": {
            "file": ["Ses01F_impro01_F000.wav", "Ses05M_script01_1_F012.wav"],
            "transcription": ["Excuse me.", "NaN"],
            "major_emotion": ["neutral", "frustrated"],
        }
    },
    "emodb": {"train": {"age": [31, 34], "emotion": ["happiness", "anger"]}},
    "ravdess": {
        "train": {
            "file": ["03-01-01-01-01-01-01.wav", "03-01-06-02-02-01-12.wav"],
            "transcription": ["Kids are talking by the door", "Dogs are sitting by the door"],
            "emotion": ["neutral", "fearful"],
        }
    },
    "crema_d": {"train": {"file": ["1001_DFA_ANG_XX.wav", "1091_IEO_FEA_HI.wav"], "major_emotion": ["sad", "fear"]}},
}
HUB_STEMS = {"emodb": ["03a01Fa", "08b09Wb"]}


def write_tree(name: str, folder: Path) -> Path:
    for path, content in TREES[name].items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, str | bytes):
            content = json.dumps(content, ensure_ascii=False)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def write_hub_form(name: str, folder: Path, **columns: list[Any]) -> Path:
    """Two shards of the first split, one of the others, a row each or two; `columns` replace those of the Hub."""
    (folder / "data").mkdir(parents=True)
    audio = {"visec": "path"}.get(name, "audio")
    for split, values in HUB[name].items():
        values = {**values, **columns}
        values = {key: value for key, value in values.items() if value is not None}
        rate_hz = 24_000 if name == "vivoice" else 16_000
        stems = HUB_STEMS.get(name, ["a", "b"])
        recordings = [{"bytes": sound(i, rate_hz=rate_hz), "path": f"{stem}.wav"} for i, stem in enumerate(stems)]
        table = pa.table({audio: recordings, **values} if audio not in columns else values)
        pq.write_table(table.slice(0, 1), folder / "data" / f"{split}-00000-of-00002-0a1b.parquet")
        pq.write_table(table.slice(1), folder / "data" / f"{split}-00001-of-00002-0a1b.parquet")
    return folder
