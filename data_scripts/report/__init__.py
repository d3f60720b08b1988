"""Pages for people: one self-contained HTML file with tables, plots and audio, readable without network or script."""

from data_scripts.report.cells import AudioClip, Number, Text, Word, Words
from data_scripts.report.page import Page
from data_scripts.report.plots import bars, histogram, new_figure

__all__ = ["AudioClip", "Number", "Page", "Text", "Word", "Words", "bars", "histogram", "new_figure"]
