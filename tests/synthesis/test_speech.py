"""Voices: audible, level, the same bytes whatever was said before; English in the English voice."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from data_scripts.spans import SpanError
from data_scripts.synthesis.espeak import Espeak, EspeakCrashError, EspeakError, Utterance
from data_scripts.synthesis.speech import (
    ENGLISH_VOICES,
    SAMPLING_RATE_HZ,
    TIMBRES,
    VIETNAMESE_VOICES,
    UnvoicedTextError,
    make_speakers,
    voice_sentence,
)

TEXT = "chiều nay team có meeting không"
SPANS = [{"start": 10, "end": 14, "lang": "en"}, {"start": 18, "end": 25, "lang": "en"}]


def test_speakers_cover_dialects_and_share_no_timbre_with_unseen_ones():
    seen, unseen = make_speakers(30, 9, seed=1)
    assert len({s.id for s in seen + unseen}) == 39
    assert {s.dialect for s in seen[:3]} == {s.dialect for s in unseen[:3]} == set(VIETNAMESE_VOICES)
    assert not {s.timbre for s in seen} & {s.timbre for s in unseen}
    assert all(s.unseen for s in unseen) and not any(s.unseen for s in seen)
    assert make_speakers(5, 9, seed=1)[0] == seen[:5]
    assert make_speakers(5, 9, seed=2)[0] != seen[:5]
    assert len({(s.rate_wpm, s.pitch, s.english_voice) for s in seen}) > 20
    with pytest.raises(ValueError, match="seen=-1"):
        make_speakers(-1)


def test_all_voices_and_timbres_exist(espeak):
    import espeakng_loader

    names = {path.name for path in (Path(espeakng_loader.get_data_path()) / "voices" / "!v").iterdir()}
    assert set(TIMBRES) <= names
    for voice in (*VIETNAMESE_VOICES.values(), *ENGLISH_VOICES):
        assert espeak.speak(Utterance("a", voice))[0].size
    with pytest.raises(EspeakError, match="no voice 'xx-none'"):
        espeak.speak(Utterance("a", "xx-none"))


@pytest.mark.parametrize("k", range(3))
def test_a_sentence_is_audible_level_and_within_range(espeak, k):
    speaker = make_speakers(3)[0][k]
    samples = voice_sentence(espeak, TEXT, SPANS, speaker)
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert 1.0 < samples.size / SAMPLING_RATE_HZ < 4.0
    assert np.abs(samples).max() < 0.98
    assert 0.05 < np.sqrt(np.mean(samples**2)) < 0.15
    edge = int(0.03 * SAMPLING_RATE_HZ)
    assert np.abs(samples[:edge]).max() < 1e-3 and np.abs(samples[-edge:]).max() < 1e-3


def test_rendering_does_not_depend_on_what_was_said_before(espeak):
    # espeak-ng itself drifts: phase, flutter and breath noise live on from one utterance to the next.
    first, second = make_speakers(2)[0]
    alone = voice_sentence(espeak, TEXT, SPANS, first, key="a")
    voice_sentence(espeak, "trời đẹp quá", [], second)
    assert np.array_equal(voice_sentence(espeak, TEXT, SPANS, first, key="a"), alone)
    assert not np.array_equal(voice_sentence(espeak, TEXT, SPANS, first, key="b"), alone)
    code = (
        "from data_scripts.synthesis.espeak import Espeak; from data_scripts.synthesis.speech import *;"
        "from hashlib import sha256; import sys; e = Espeak();"
        f"x = voice_sentence(e, {TEXT!r}, {SPANS!r}, make_speakers(2)[0][0], key='a');"
        "print(sha256(x.tobytes()).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert out.stdout.strip() == sha256(alone.tobytes()).hexdigest()


def test_spans_are_voiced_in_their_language(espeak, monkeypatch):
    said = []
    speak = Espeak.speak

    def listen(self, *utterances):
        said.extend((utterance.text, utterance.voice) for utterance in utterances)
        return speak(self, *utterances)

    monkeypatch.setattr(Espeak, "speak", listen)
    speaker = make_speakers(2)[0][1]
    voice_sentence(espeak, TEXT, SPANS, speaker)
    vi, en = (f"{voice}+{speaker.timbre}" for voice in (speaker.vietnamese_voice, speaker.english_voice))
    assert said == [("chiều nay", vi), ("team", en), ("có", vi), ("meeting", en), ("không", vi)]


def test_tones_are_heard(espeak):
    # Six tones on one syllable: if the engine or a timbre lost them, S2P could not learn them.
    speaker = make_speakers(1)[0][0]
    renderings = [voice_sentence(espeak, text, [], speaker) for text in ("ma", "mà", "mã", "mả", "má", "mạ")]
    assert len({samples.tobytes() for samples in renderings}) == 6


@pytest.mark.parametrize("text", ["", "   ", "…"])
def test_text_without_sound_is_an_error(espeak, text):
    with pytest.raises(UnvoicedTextError):
        voice_sentence(espeak, text, [], make_speakers(1)[0][0])


def test_bad_spans_are_an_error(espeak):
    with pytest.raises(SpanError):
        voice_sentence(espeak, "xin chào", [{"start": 4, "end": 99, "lang": "en"}], make_speakers(1)[0][0])


def test_one_engine_for_one_process(espeak):
    with pytest.raises(EspeakError, match="close the Espeak"):
        Espeak()
    espeak.close()
    with pytest.raises(EspeakError, match="closed"):
        espeak.speak(Utterance("a", "vi"))
    with Espeak() as again, pytest.raises(EspeakError, match="NUL"):
        again.speak(Utterance("a\0b", "vi"))


def test_missing_engine_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(EspeakError, match="pip install espeakng-loader"):
        Espeak()
    monkeypatch.undo()
    Espeak().close()


def test_a_crash_of_espeak_costs_one_sentence(monkeypatch):
    import os
    import signal

    row = {"text": "một", "spans": []}
    speaker = make_speakers(1, 0, 0)[0][0]
    with Espeak() as espeak:
        before = voice_sentence(espeak, row["text"], row["spans"], speaker)
        speak = espeak._speak
        monkeypatch.setattr(espeak, "_speak", lambda said: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(EspeakCrashError, match="một"):
            voice_sentence(espeak, row["text"], row["spans"], speaker)
        monkeypatch.setattr(espeak, "_speak", speak)
        np.testing.assert_array_equal(voice_sentence(espeak, row["text"], row["spans"], speaker), before)


def test_what_was_said_before_changes_nothing():
    speakers = make_speakers(3, 0, 0)[0]
    with Espeak() as espeak:
        first = voice_sentence(espeak, "hôm nay", [], speakers[0])
        for speaker in speakers * 3:
            voice_sentence(espeak, "ngày mai trời mưa", [], speaker)
        np.testing.assert_array_equal(voice_sentence(espeak, "hôm nay", [], speakers[0]), first)
