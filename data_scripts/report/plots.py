"""Plots that follow the page: matplotlib draws with the colours named here, the page turns them into CSS variables.

Text stays text (in the reader's own fonts), identifiers are hashed from fixed salt and no date is written, so that
the same data give the same bytes.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from data_scripts.report.cells import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Drawn in these, shown in the page's own: no other drawing is likely to use them.
INK, MUTED, LINE = "#010203", "#6a6b6c", "#dadbdc"
SERIES = ("#1f5fae", "#b3541e", "#2e7d4f", "#7a4fb0", "#8a6d00", "#5d6570")
_VARIABLES = {
    INK: "--ink",
    "#000000": "--ink",
    MUTED: "--muted",
    LINE: "--line",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES)},
}
DASHES = ("-", "--", "-.", ":")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "amvi",
    "text.parse_math": False,  # a speaker named "$x_" is no formula
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def new_figure(width_in: float = 6.0, height_in: float = 2.6) -> "tuple[Figure, Axes]":
    """A figure in the style of the pages, without pyplot's global state, and its only axes."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        return figure, figure.add_subplot()


def histogram(
    edges: Sequence[float],
    counts_by_name: Mapping[str, Sequence[float]],
    x_label: str,
    y_label: str = "share of rows",
) -> "Figure":
    """Outlines of one or more histograms over the same bins.

    Args:
        edges: `n + 1` bin borders.
        counts_by_name: series name → `n` heights; several series get a legend and differ by dashes as well.
    """
    import matplotlib

    figure, axes = new_figure()
    with matplotlib.rc_context(_STYLE):
        for (name, counts), colour, dashes in zip(counts_by_name.items(), cycle(SERIES), cycle(DASHES), strict=False):
            only = len(counts_by_name) == 1
            axes.stairs(counts, edges, fill=only, color=colour, linestyle=dashes, linewidth=1.4, label=printable(name))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_xlim(edges[0], edges[-1])
        if len(counts_by_name) > 1:
            figure.legend(loc="outside upper right", ncols=len(counts_by_name))
    return figure


def bars(
    names: Sequence[str],
    values_by_series: Mapping[str, Sequence[float]],
    label: str,
    *,
    horizontal: bool = False,
    format: str = "{:.1f}",
    width_in: float = 6.0,
) -> "Figure":
    """Bars side by side, one group for each of `names`, one colour a series.

    Args:
        format: of the values that a lone series shows; "" for none.
    """
    import matplotlib

    height = max(1.2, 0.5 + 0.19 * len(names) * max(1, 0.6 * len(values_by_series))) if horizontal else 2.6
    figure, axes = new_figure(width_in, height)
    thickness = 0.8 / max(1, len(values_by_series))
    with matplotlib.rc_context(_STYLE):
        for index, ((name, values), colour) in enumerate(zip(values_by_series.items(), cycle(SERIES), strict=False)):
            places = [place - 0.4 + thickness * (index + 0.5) for place in range(len(names))]
            draw = axes.barh if horizontal else axes.bar
            drawn = draw(places, values, thickness * 0.92, color=colour, label=printable(name))
            if format and len(values_by_series) == 1 and len(names) <= 50:
                axes.bar_label(drawn, [format.format(value) for value in values], padding=2, fontsize=7.5, color=MUTED)
        shown = [_short(printable(name)) for name in names]
        if horizontal:
            axes.set_yticks(range(len(names)), shown)
            axes.invert_yaxis()
            axes.set_xlabel(label)
            axes.grid(visible=False, axis="y")
            axes.grid(visible=True, axis="x")
            axes.margins(x=0.08)
        else:
            axes.set_xticks(range(len(names)), shown)
            axes.set_ylabel(label)
            axes.margins(y=0.12)
        if len(values_by_series) > 1:
            figure.legend(loc="outside upper right", ncols=len(values_by_series))
    return figure


def _short(name: str, longest: int = 28) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def figure_svg(figure: "Figure", alt: str, prefix: str) -> Markup:
    """An inline `<svg role="img">` of a figure.

    Args:
        alt: what the plot shows, in words. prefix: put before every identifier, which the plots of a page share.
    """
    import matplotlib

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts will have it
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = printable(buffer.getvalue())
    svg = svg[svg.index("<svg") :]  # without the XML and DOCTYPE lines
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    view_box = re.search(r'viewBox="([^"]*)"', head)
    width = re.search(r'width="([\d.]+)pt"', head)
    assert view_box and width  # matplotlib writes both
    body = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--font)", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    opening = Markup('<svg role="img" aria-label="{}" viewBox="{}" style="width:{}px">').format(
        printable(alt), view_box[1], round(float(width[1]) * 4 / 3)
    )
    return opening + Markup(body.strip())
