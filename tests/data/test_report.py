"""Pages: one file, nothing from outside, nothing obeyed that came from data, the same bytes every time."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from data_scripts.report import AudioClip, Number, Page, Text, Word, Words, bars, histogram, new_figure
from tests.data.conftest import encode, voice

HOSTILE = '<script>alert("1")</script>\'"><img src=x onerror=alert(1)>&amp;\x00\x1b[31m\u202e$x_{'
VOID = {"meta", "audio", "img", "br", "hr", "path", "use"}


class Reader(HTMLParser):
    """Tags with their attributes, and whether they pair."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.opened: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.opened.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(page: Page) -> Reader:
    reader = Reader()
    reader.feed(page.render())
    reader.close()
    assert reader.opened == []
    return reader


def full_page() -> Page:
    page = Page("Thử " + HOSTILE, HOSTILE)
    page.section(HOSTILE, HOSTILE)
    page.text(HOSTILE)
    page.facts({HOSTILE: HOSTILE, "rows": 12})
    page.notices([HOSTILE], title=HOSTILE)
    clip = AudioClip({"path": None, "bytes": encode(voice(), "flac")}, label=HOSTILE)
    words = Words([Word(HOSTILE), ("a", "wrong"), ("b", "missing"), ("c", "extra")])
    page.table([HOSTILE, "b", "c", "d"], [[HOSTILE, Text(HOSTILE), words, clip]], caption=HOSTILE)
    page.table(["a"], [[HOSTILE]], caption=HOSTILE, folded=True, row_headers=True)
    page.matrix([HOSTILE, "b"], [HOSTILE, "b"], [[3, 1], [0, 0]], caption=HOSTILE, corner=HOSTILE)
    page.section("Plots")
    page.plot(bars([HOSTILE, "b"], {HOSTILE: [1.0, 2.0]}, HOSTILE, horizontal=True), HOSTILE, HOSTILE)
    page.plot(histogram([0, 1, 2], {HOSTILE: [1, 2], "b": [2, 1]}, HOSTILE), HOSTILE)
    return page


def test_hostile_text_is_shown_and_never_obeyed():
    reader = read(full_page())
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "img", "iframe", "object", "link", "base", "form"}
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    shown = "".join(reader.texts)
    assert shown.count("<script>alert(") >= 15  # in every place it was put
    assert "\x00" not in shown and "\x1b" not in shown and "\u202e" not in shown


def test_nothing_comes_from_outside_of_the_file():
    html = full_page().render()
    assert "default-src 'none'" in html
    # Nothing names an address: not even a namespace, of which HTML needs none.
    without_audio = re.sub(r'src="data:[^"]*"', "", html)
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import", without_audio)
    for tag, attributes in read(full_page()).tags:
        for name in ("src", "href", "xlink:href", "action", "poster"):
            if value := attributes.get(name):
                assert value.startswith(("#", "data:audio/")), (tag, name, value[:40])


def test_every_plot_and_clip_has_a_name_and_ids_are_unique():
    reader = read(full_page())
    assert len(reader.named("svg")) == 2 and len(reader.named("audio")) == 1
    for attributes in (*reader.named("svg"), *reader.named("audio")):
        assert attributes["aria-label"]
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(a.get("href") or a.get("xlink:href") or "").removeprefix("#") for _, a in reader.tags} - {""}
    assert targets <= set(ids)
    assert reader.named("html") == [{"lang": "en"}]
    assert {"lang": "vi"} in reader.named("span")


def test_the_same_page_is_the_same_bytes(tmp_path):
    first = full_page().save(tmp_path / "a.html").read_bytes()
    assert first == full_page().save(tmp_path / "b.html").read_bytes()
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a.html", "b.html"]


def test_embedded_audio_is_the_recording():
    page = Page("Clips")
    samples = voice(1.0, rate_hz=48_000)
    page.table(["audio"], [[AudioClip(encode(samples, "wav", 48_000), "one second")]])
    source = read(page).named("audio")[0]["src"]
    assert source is not None and source.startswith("data:audio/mpeg;base64,")
    decoded, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))
    assert rate_hz == 16_000 and len(decoded) / rate_hz == pytest.approx(1.0, abs=0.15)  # MP3 pads its ends
    spectrum = np.abs(np.fft.rfft(decoded))
    assert np.argmax(spectrum) * rate_hz / len(decoded) == pytest.approx(220, abs=3)


def test_a_clip_that_cannot_be_played_says_why_and_long_ones_are_cut():
    page = Page("Clips")
    long = encode(np.tile(voice(1.0), 4), "flac")
    page.table(["audio"], [[AudioClip(b"no audio")], [AudioClip(None)], [AudioClip(long, max_duration_s=2.0)]])
    reader = read(page)
    shown = " ".join(reader.texts)
    assert "cannot be played" in shown and "the first 2 of 4 s" in shown
    assert len(reader.named("audio")) == 1


def test_audio_stops_at_the_size_limit_of_the_page():
    clip = AudioClip(encode(voice(2.0), "flac"))
    page = Page("Clips", max_audio_bytes=20_000)
    page.table(["audio"], [[clip]] * 30)
    reader = read(page)
    assert 1 <= len(reader.named("audio")) < 30
    assert " ".join(reader.texts).count("the page is full") == 30 - len(reader.named("audio"))
    assert len(page.render()) < 60_000


def test_numbers_stand_right_and_nothing_is_a_dash():
    page = Page("Numbers")
    page.table(["n", "text"], [[12345, "a"], [Number(0.25, ".1%"), None], [Number(float("nan")), True], [None, ""]])
    html = page.render()
    assert '<th scope="col" class="number">n</th><th scope="col">text</th>' in html
    assert '<td class="number">12,345</td>' in html and '<td class="number">25.0%</td>' in html
    assert '<td class="number">–</td><td>yes</td>' in html and "<td>–</td><td>–</td>" in html


def test_rows_must_fit_the_header():
    with pytest.raises(ValueError, match="row 1 of table 'worst' has 1 cells for 2 columns"):
        Page("x").table(["a", "b"], [["1", "2"], ["3"]], caption="worst")


def test_colours_of_plots_follow_the_scheme():
    figure, axes = new_figure()
    axes.plot([0, 1], [0, 1], color="black")
    page = Page("Plot")
    page.plot(figure, "a line")
    svg = page.render().split("<svg", 1)[1].split("</svg>")[0]
    assert "var(--ink)" in svg and "var(--muted)" in svg
    assert not re.search("#[0-9a-f]{6}", svg)


def test_a_page_without_sections_and_empty_tables():
    page = Page("Empty")
    page.table(["a", "b"], [], caption="none")
    page.notices([])
    reader = read(page)
    assert not reader.named("nav") and len(reader.named("table")) == 1 and "Worth a look" not in page.render()
