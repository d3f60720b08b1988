"""The page of an evaluation: the figures of the JSON file, alignments and groups that are right, nothing obeyed."""

import io

import numpy as np
import pytest
import soundfile

from data_scripts.text.g2p import G2P
from tests.data.test_report import HOSTILE, Reader
from trainers import report as pages
from trainers.metrics import score
from trainers.report import Output, system_letter, write_report

TEXTS = ["má mua cá", "bà ngã đau", "họp lúc ba giờ", "gửi email cho tôi", "trời xanh"]
HEARD = ["mà mua cá", "bà ngả đau", "họp ba giờ chiều", "gửi i meo cho tôi", "trời xanh"]


def clip(seconds: float) -> dict[str, object]:
    buffer = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal(int(16_000 * seconds))
    soundfile.write(buffer, noise, 16_000, format="FLAC")
    return {"path": None, "bytes": buffer.getvalue()}


@pytest.fixture
def rows():
    seconds = [1.0, 3.0, 1.5, 6.0, 1.0]
    dialects = ["north", "north", "south", "south", None]
    return [
        {
            "id": f"u{n}",
            "text": text,
            "audio": clip(s),
            "duration_s": s,
            "dialect": dialect,
            "corpus": "c",
            "spans": [],
        }
        for n, (text, s, dialect) in enumerate(zip(TEXTS, seconds, dialects, strict=True))
    ]


def phonemes(texts: list[str]) -> list[list[str]]:
    return [G2P().phonemise(text).phonemes for text in texts]


def result(rows, systems):
    """A report as `trainers.evaluation.evaluate` makes it, of (name, texts or None, whether there are phonemes)."""
    scored, outputs = [], []
    references = phonemes([row["text"] for row in rows])
    for name, texts, has_phonemes in systems:
        said = phonemes(texts or HEARD) if has_phonemes else None
        given = {"reference_phonemes": references, "hypothesis_phonemes": said} if said else {}
        figures = score([row["text"] for row in rows], texts, num_samples=50, **given)
        scored.append({"model": name, "kind": "tspc", "num_beams": 2, **figures, "rtf": 0.125})
        outputs.append(Output(texts, said, references if said else None))
    skipped = {"num_dropped": 2, "num_rows": 7, "counts": {"dropped": {"silent": 2}}}
    data = {"path": "corpus", "split": "test", "utterances": len(rows)}
    return {"rows": scored, "data": data, "skipped": skipped, "normalizer_version": "3", "command": HOSTILE}, outputs


def read(path) -> tuple[str, Reader]:
    html, reader = path.read_text(encoding="utf-8"), Reader()
    reader.feed(html)
    reader.close()
    assert reader.opened == []
    return html.replace("\N{NO-BREAK SPACE}", " "), reader


def test_the_page_has_the_figures_of_the_report(rows, tmp_path):
    report, outputs = result(rows, [("ours", HEARD, True), ("theirs", TEXTS, False)])
    html, reader = read(write_report(report, rows, outputs, tmp_path / "metrics.html"))
    wer = report["rows"][0]["metrics"]["wer"]
    row = html.split('<th scope="row">WER</th>')[1].split("</tr>")[0]
    assert f"{100 * wer['value']:.2f}" in row and f"{100 * wer['low']:.2f} to {100 * wer['high']:.2f}" in row
    assert "2 of 7 rows were not scored: silent 2" in html and "0.125" in html
    assert "2 words are wrong in their tone alone" in html  # má/mà, ngã/ngả
    assert "No utterance has a wrong word." in html  # the second system is right throughout
    assert len(reader.named("audio")) == 4  # the utterances with errors of the first
    assert "script" not in {tag for tag, _ in reader.tags}
    assert "<script>alert(" in "".join(reader.texts)


def test_tone_matrix_counts_said_against_written(rows, tmp_path):
    report, outputs = result(rows, [("ours", HEARD, False)])
    html, _ = read(write_report(report, rows, outputs, tmp_path / "metrics.html"))
    matrix = html.split('class="matrix"')[1].split("</table>")[0]
    tone_rows = {part.split("</th>")[0]: part for part in matrix.split('<th scope="row">')[1:]}
    cells = [cell.split(">")[1].split("<")[0] for cell in tone_rows["ngã"].split("<td")[1:]]
    assert cells == ["·", "·", "·", "1", "·", "·"]  # the one ngã was written hỏi


def test_worst_utterances_show_what_was_said_and_what_was_recognised(rows, tmp_path):
    report, outputs = result(rows, [("ours", HEARD, False)])
    html, _ = read(write_report(report, rows, outputs, tmp_path / "metrics.html"))
    worst = html.split("worst utterances")[-1]
    # "gửi email cho tôi" has two errors in four words and stands before those with one in three.
    assert worst.index(">u3<") < worst.index(">u0<")
    assert "<span>họp</span> <del>lúc</del> <span>ba</span> <span>giờ</span> <ins>chiều</ins>" in worst
    assert "<del>má</del> <mark>mà</mark> <span>mua</span>" in worst
    assert ">u4<" not in worst


def test_groups_hold_every_utterance_once(rows, tmp_path):
    report, outputs = result(rows, [("ours", HEARD, False)])
    html, _ = read(write_report(report, rows, outputs, tmp_path / "metrics.html"))
    dialect = html.split('aria-label="By dialect"')[1].split("</table>")[0]
    lines = {}
    for part in dialect.split('<th scope="row">')[1:]:
        name, rest = part.split("</th>", 1)
        lines[name] = [cell.split("<")[0] for cell in rest.split('class="number">')[1:]]
    # (utterances, words, rate): 2 errors in 6 words; "lúc", "chiều" and two for email in 8 words; none in 2.
    assert lines == {
        "(not known)": ["1", "2", "0.00"],
        "north": ["2", "6", "33.33"],
        "south": ["2", "8", "50.00"],
    }
    assert [name in html for name in ("0 to 2 s", "2 to 5 s", "5 to 10 s", "20 s and more")] == [
        True,
        True,
        True,
        False,
    ]
    assert "By corpus" not in html  # there is only one


def test_a_phoneme_recogniser_has_a_page_too(rows, tmp_path):
    report, outputs = result(rows, [("s2p", None, True)])
    html, _ = read(write_report(report, rows, outputs, tmp_path / "metrics.html"))
    assert "Sounds by their place in the syllable" in html and "most frequent sound errors" in html
    tones = html.split('<th scope="row">tone</th>')[1].split("</tr>")[0]
    said = sum(symbol.startswith("-") for line in phonemes(TEXTS) for symbol in line)
    assert f'"number">{said}</td>' in tones
    assert "Tones of aligned syllables" not in html  # there is no text to take them from


def test_every_sound_has_its_place():
    from data_scripts.text.phonemes import phoneme_symbols, syllable_to_phonemes
    from data_scripts.text.syllables import all_syllables

    for syllable in all_syllables():
        places = [pages._CLASSES.index(pages._sound_class(symbol)) for symbol in syllable_to_phonemes(syllable)]
        tone, coda = pages._CLASSES.index("tone"), pages._CLASSES.index("coda")
        # Tones are written before codas; everything else is in the order of the syllable.
        order = sorted(places, key=lambda place: (place in (tone, coda), place == coda, place))
        assert places == order and len(set(places)) == len(places)
    assert {pages._sound_class(symbol) for symbol in phoneme_symbols("full")} == set(pages._CLASSES)


def test_the_same_report_is_the_same_page(rows, tmp_path):
    made = [result(rows, [("ours", HEARD, True)]) for _ in range(2)]
    first, second = (
        write_report(report, rows, outputs, tmp_path / f"{n}.html").read_bytes()
        for n, (report, outputs) in enumerate(made)
    )
    assert first == second


def test_hostile_hypotheses_are_shown_not_obeyed(rows, tmp_path):
    report, outputs = result(rows, [(HOSTILE, [HOSTILE] * 5, False)])
    _, reader = read(write_report(report, rows, outputs, tmp_path / "metrics.html"))
    assert not {tag for tag, _ in reader.tags} & {"script", "img"}


def test_systems_are_lettered_and_each_needs_its_output(rows, tmp_path):
    assert [system_letter(n) for n in (0, 25, 26, 52)] == ["A", "Z", "A1", "A2"]
    report, _ = result(rows, [("ours", HEARD, True)])
    with pytest.raises(ValueError, match="1 systems, but 0 outputs"):
        write_report(report, rows, [], tmp_path / "metrics.html")
