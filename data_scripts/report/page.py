"""A page made of sections of text, figures, notices, tables and plots, saved as one HTML file."""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from data_scripts.report.cells import (
    AudioClip,
    EncodedClip,
    Number,
    Text,
    Words,
    cell_html,
    encode_clip,
    is_number,
    printable,
)
from data_scripts.report.plots import figure_svg

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
MAX_AUDIO_BYTES = 24_000_000  # before base64: browsers open 32 MB pages without trouble


@dataclass
class _Section:
    title: str
    anchor: str
    text: str
    blocks: list[dict[str, Any]] = field(default_factory=list)


class Page:
    """One self-contained HTML file.

    Args:
        title, subtitle: of the page, plain text.
        lang: language of the page's own words; mark data with `Text(…, lang)`.
        max_audio_bytes: how much audio is embedded; later clips only say that they are not.

    >>> page = Page("What was dropped", "vivos, train")
    >>> page.section("Worst rows", "Text and audio disagree most here.")
    >>> page.table(["id", "WER", "audio"], [["a1", Number(0.5, ".0%"), AudioClip(b"")]], caption="Ten worst rows")

    Everything given is text: tags, quotes and control characters in it are shown, never obeyed. The content security
    policy of the page forbids scripts and every address outside of the file.
    """

    def __init__(
        self, title: str, subtitle: str = "", *, lang: str = "en", max_audio_bytes: int = MAX_AUDIO_BYTES
    ) -> None:
        self.title, self.subtitle, self.lang = title, subtitle, lang
        self._audio_bytes_left = max_audio_bytes
        self._sections: list[_Section] = []
        self._num_plots = 0

    def section(self, title: str, text: str = "") -> None:
        """Begin a section; it appears in the table of contents. A blank line in `text` begins a new paragraph."""
        anchor = unicodedata.normalize("NFD", title.lower().replace("đ", "d"))
        anchor = re.sub("[^a-z0-9]+", "-", anchor.encode("ascii", "ignore").decode()).strip("-") or "section"
        taken = {section.anchor for section in self._sections}
        unique, number = anchor, 2
        while unique in taken:
            unique, number = f"{anchor}-{number}", number + 1
        self._sections.append(_Section(title, unique, text))

    def text(self, text: str) -> None:
        """Paragraphs, separated by blank lines."""
        self._add(kind="text", paragraphs=_paragraphs(text))

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Key figures in large type: name → number or text."""
        self._add(kind="facts", facts=[(name, cell_html(value)) for name, value in facts.items()])

    def notices(self, notices: Iterable[str], title: str = "Worth a look") -> None:
        """Warnings, one a line; nothing if there are none."""
        if lines := list(notices):
            self._add(kind="notices", title=title, notices=lines)

    def table(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[Any]],
        caption: str = "",
        *,
        folded: bool = False,
        row_headers: bool = False,
    ) -> None:
        """A table that scrolls by itself, with a header that stays.

        Args:
            header: one name a column.
            rows: cells of text, numbers (right-aligned; `Number` for the format), `Text`, `Words`, `AudioClip` or
                None.
            folded: show only the caption until the reader opens it.
            row_headers: the first cell of each row names the row.

        Raises:
            ValueError: a row with another number of cells than the header has.
        """
        lines: list[list[dict[str, Any]]] = []
        numeric = [True] * len(header)
        for number, row in enumerate(rows):
            if len(row) != len(header):
                raise ValueError(
                    f"row {number} of table {caption!r} has {len(row)} cells for {len(header)} columns: {row!r:.200}"
                )
            lines.append([self._cell(cell) for cell in row])
            numeric = [before and (cell is None or is_number(cell)) for before, cell in zip(numeric, row, strict=True)]
        self._add(
            kind="table",
            header=[
                {"html": name, "number": bool(lines) and is_numeric}
                for name, is_numeric in zip(header, numeric, strict=True)
            ],
            rows=lines,
            caption=caption,
            folded=folded,
            row_headers=row_headers,
        )

    def matrix(
        self,
        rows: Sequence[str],
        columns: Sequence[str],
        counts: Sequence[Sequence[int]],
        caption: str,
        corner: str = "",
    ) -> None:
        """Counts in a shaded grid, as of confusions: the shade is the share within the row, the diagonal is framed."""
        lines = []
        for name, line in zip(rows, counts, strict=True):
            total = sum(line)
            cells = [
                {
                    "html": f"{count:,}" if count else "·",
                    "shade": round(100 * count / total) if total else 0,
                    "title": f"{Number(count / total, '.1%') if total else 0} of {name}",
                    "diagonal": column == name,
                }
                for column, count in zip(columns, line, strict=True)
            ]
            lines.append({"name": name, "cells": cells})
        self._add(
            kind="matrix",
            columns=columns,
            rows=lines,
            caption=caption,
            corner=corner,
            folded=False,
        )

    def plot(self, figure: "Figure", alt: str, caption: str = "") -> None:
        """A matplotlib figure as inline SVG (`new_figure`, `histogram`, `bars` give the page's style).

        Args:
            alt: what a reader who cannot see the plot needs to know. caption: shown below it.
        """
        self._num_plots += 1
        svg = figure_svg(figure, alt, f"plot{self._num_plots}")
        blocks = self._blocks()
        if not (blocks and blocks[-1]["kind"] == "plots"):
            blocks.append({"kind": "plots", "plots": []})
        blocks[-1]["plots"].append({"svg": svg, "caption": caption})

    def render(self) -> str:
        """The whole page."""
        sections = [
            {
                "title": section.title,
                "anchor": section.anchor,
                "paragraphs": _paragraphs(section.text),
                "blocks": section.blocks,
            }
            for section in self._sections
        ]
        return _template().render(title=self.title, subtitle=self.subtitle, lang=self.lang, sections=sections)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page, whole or not at all."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(self.render(), encoding="utf-8", newline="\n")
        os.replace(partial, path)
        return path

    def _blocks(self) -> list[dict[str, Any]]:
        if not self._sections:
            self._sections.append(_Section("", "top", ""))
        return self._sections[-1].blocks

    def _add(self, **block: Any) -> None:
        self._blocks().append(block)

    def _cell(self, cell: Any) -> dict[str, Any]:
        if isinstance(cell, AudioClip):
            return {"html": self._audio(cell), "kind": ""}
        kind = "number" if is_number(cell) else "prose" if isinstance(cell, Text | Words) else ""
        return {"html": cell_html(cell), "kind": kind}

    def _audio(self, clip: AudioClip) -> Markup:
        if self._audio_bytes_left <= 0:
            encoded = EncodedClip(note=_FULL)
        else:
            encoded = encode_clip(clip)
            if len(encoded.data) > self._audio_bytes_left:
                self._audio_bytes_left = 0
                encoded = EncodedClip(note=_FULL)
        note = Markup("<small>{}</small>").format(printable(encoded.note)) if encoded.note else Markup()
        if not encoded.data:
            return note
        self._audio_bytes_left -= len(encoded.data)
        return Markup('<audio controls preload="metadata" aria-label="{}" src="{}"></audio>{}').format(
            printable(clip.label), encoded.data_uri, note
        )


_FULL = "not embedded: the page is full"


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _clean(value: Any) -> Any:
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)


@cache
def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, finalize=_clean, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html.j2")
