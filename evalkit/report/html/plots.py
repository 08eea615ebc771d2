"""Plots of a report, drawn by matplotlib as SVG.

In: numbers and names. Out: SVG text for the inside of a page; None where matplotlib is not installed.
Must not depend on: certificates, colours on the screen (those are CSS).

Shape and place carry the meaning, colour only helps: lost and gained, baseline and candidate differ in marker and side.
Equal numbers give equal text: no date, ids from a fixed salt.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from evalkit.report.sections import printable

if TYPE_CHECKING:
    from evalkit.report.extras import PowerCurve


# A plotting library's SVG made fit for the inside of a strict HTML page.
#
# The page's content security policy allows no inline style, and its light, dark and print colours come from CSS. So
# every style becomes a presentation attribute, and each of the few colours a plot may use becomes a class.


PAINT: Mapping[str, str] = {
    "#010101": "ink",
    "#020202": "muted",
    "#030303": "grid",
    "#040404": "first",
    "#050505": "second",
    "#060606": "margin",
    "#070707": "third",
}
"""Colours that plots draw with, and the words that CSS knows them by."""

COLOUR: Mapping[str, str] = {word: code for code, word in PAINT.items()}

_KEPT = (
    "fill",
    "fill-opacity",
    "stroke",
    "stroke-dasharray",
    "stroke-dashoffset",
    "stroke-linecap",
    "stroke-linejoin",
    "stroke-opacity",
    "stroke-width",
    "opacity",
    "font-size",
    "font-weight",
    "text-anchor",
    "clip-path",
)
_HREF = "{http://www.w3.org/1999/xlink}href"


def inline_svg(text: str, name: str, label: str) -> str:
    """Return an SVG element for the inside of a page.

    Args:
        text: an SVG document of our own.
        name: unique in the page; becomes part of every id.
        label: what the plot shows, for those who cannot see it.
    """
    root = ElementTree.fromstring(text)  # noqa: S314 (written by the plotting library a moment ago)
    used = _used_ids(root)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for node in root.iter():
        node.tag = _local(node.tag)
        _restyle(node, name, used)
    box = root.get("viewBox", "0 0 1 1")
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": label, "class": "plot"})
    return ElementTree.tostring(root, encoding="unicode")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _used_ids(root: ElementTree.Element) -> set[str]:
    used = set()
    for node in root.iter():
        for key, value in node.attrib.items():
            if key in (_HREF, "href"):
                used.add(value.removeprefix("#"))
            if "url(#" in value:
                used.add(value.partition("url(#")[2].partition(")")[0])
    return used


def _restyle(node: ElementTree.Element, name: str, used: set[str]) -> None:
    styles = dict(node.attrib)
    for part in styles.pop("style", "").split(";"):
        key, colon, value = part.partition(":")
        if colon and key.strip() in _KEPT:
            styles[key.strip()] = value.strip()
    classes = []
    for side in ("fill", "stroke"):
        word = PAINT.get(styles.get(side, "").lower())
        if word is not None:
            del styles[side]
            classes.append(f"{side}-{word}")
    node.attrib.clear()
    for key, value in styles.items():
        if key == "id":
            if value in used:
                node.set("id", f"{name}-{value}")
        elif key in (_HREF, "href"):
            node.set("href", f"#{name}-{value.removeprefix('#')}")
        elif not key.startswith("{"):
            node.set(key, value.replace("url(#", f"url(#{name}-"))
    if classes:
        node.set("class", " ".join(classes))


MISSING = "Plots need matplotlib, which is not installed here: pip install 'evalkit-quant[plots]'."

_NAME_CHARACTERS = 44


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One row of a forest plot: a difference with its interval, all in one unit.

    Attributes:
        name: of the row.
        difference, lower, upper: in the unit of the axis.
        size: items behind it; sets the size of the marker.
        marked: stands out.
    """

    name: str
    difference: float
    lower: float
    upper: float
    size: int = 0
    marked: bool = False


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One row of a dot plot: the same thing of baseline and candidate."""

    name: str
    baseline: float
    candidate: float


def available() -> bool:
    """Whether plots can be drawn at all."""
    try:
        return find_spec("matplotlib") is not None
    except ImportError:  # an environment that hides it
        return False


def drawn_by() -> str:
    """Name the plotting library and its version: another one places lines and letters otherwise."""
    return f"matplotlib {version('matplotlib')}" if available() else ""


def strip(name: str, bar: Bar, margin: float, limits: tuple[float, float], label: str) -> str:
    """Draw one difference with its interval against the margin, small enough for the cell of a table."""
    with _figure(2.6, 0.32) as (figure, axes):
        _scale(axes, margin, limits)
        axes.set_ylim(-1, 1)
        axes.set_yticks([])
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        _draw(axes, bar, 0.0, 6.0)
        for outside, at, arrow in ((bar.upper < limits[0], limits[0], "<"), (bar.lower > limits[1], limits[1], ">")):
            if outside:  # far beyond the axis: an arrow says where
                axes.plot(at * 0.96, 0, arrow, color=COLOUR["first"], markersize=6)
        axes.set_position((0, 0, 1, 1))
        return _written(figure, name, label)


def scale(name: str, limits: tuple[float, float]) -> str:
    """Draw the axis that the strips share: the margin of each row, and no difference."""
    with _figure(2.6, 0.3) as (figure, axes):
        _scale(axes, 1.0, limits)
        axes.set_ylim(-1, 1)
        axes.set_yticks([])
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        told = ((-1.0, "its margin ", "right"), (0.0, " no difference", "left"))
        for at, words, side in told:
            axes.text(at, 0.0, words, ha=side, va="center", fontsize=8)
        axes.set_position((0, 0, 1, 1))
        return _written(figure, name, "Axis of the column: the margin of each row, and no difference")


def forest(name: str, bars: Sequence[Bar], margin: float, unit: str, label: str) -> str:
    """Draw differences with their intervals, one row each, the first on top."""
    reach = max([margin, *(abs(limit) for bar in bars for limit in (bar.lower, bar.upper))]) * 1.08
    with _figure(7.4, 0.5 + 0.19 * len(bars)) as (figure, axes):
        _scale(axes, margin, (-reach, reach))
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_yticks(range(len(bars)), [_name(bar.name) for bar in bars])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=COLOUR["grid"], linewidth=0.5)
        largest = max((bar.size for bar in bars), default=1) or 1
        for row, bar in enumerate(bars):
            _draw(axes, bar, row, 6.0 if bar.marked else 2.5 + 4.5 * (bar.size / largest) ** 0.5)
        axes.set_xlabel(f"difference, candidate minus baseline, {unit}; dashed: the margin")
        return _written(figure, name, label)


def power(name: str, curves: Sequence[PowerCurve], label: str) -> str:
    """Draw the chance of passing over the true difference, one line for each assumption of one endpoint."""
    with _figure(7.4, 2.5) as (figure, axes):
        for at, curve in enumerate(curves):
            x = [step.true_difference for step in curve.steps]
            style = ("-", (0, (5, 2)))[at % 2]
            colour = COLOUR[("first", "second")[at % 2]]
            told = _text(curve.assumption)
            axes.plot(
                x, [step.passes for step in curve.steps], color=colour, linestyle=style, linewidth=1.6, label=told
            )
        axes.legend(loc="upper left", frameon=False, handlelength=3.2, borderaxespad=0.2)
        margin = curves[0].margin
        axes.axvline(-margin, color=COLOUR["margin"], linewidth=1.2, linestyle=(0, (4, 2)))
        axes.axvline(0, color=COLOUR["ink"], linewidth=0.8)
        axes.set_ylim(0, 1.02)
        axes.grid(color=COLOUR["grid"], linewidth=0.5)
        unit = "points" if curves[0].points else "on the judge's scale"
        axes.set_xlabel(f"true difference, {unit}; dashed: the margin")
        axes.set_ylabel("chance of passing")
        return _written(figure, name, label)


def dots(name: str, rows: Sequence[Pair], limits: tuple[float, float], label: str) -> str:
    """Draw two values a row, joined by a line: a circle for the baseline, a diamond for the candidate."""
    with _figure(7.4, 0.7 + 0.26 * len(rows)) as (figure, axes):
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(limits[0] - 0.2, limits[1] + 0.2)
        axes.set_yticks(range(len(rows)), [_name(row.name) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=COLOUR["grid"], linewidth=0.5)
        for at, row in enumerate(rows):
            axes.plot((row.baseline, row.candidate), (at, at), color=COLOUR["muted"], linewidth=1.0)
            axes.plot(row.baseline, at, "o", color=COLOUR["first"], markersize=6)
            axes.plot(row.candidate, at, "D", color=COLOUR["second"], markersize=5)
        axes.set_xlabel("mean rating; circle: baseline, diamond: candidate")
        return _written(figure, name, label)


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Any, Any]]:
    """Open a figure of one pair of axes, in inches, and close it."""
    from matplotlib import rc_context  # noqa: PLC0415 (an extra)
    from matplotlib.figure import Figure  # noqa: PLC0415

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "evalkit",
        "text.parse_math": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "font.size": 8,
        "text.color": COLOUR["ink"],
        "axes.labelcolor": COLOUR["ink"],
        "axes.edgecolor": COLOUR["muted"],
        "xtick.color": COLOUR["muted"],
        "ytick.color": COLOUR["ink"],
        "xtick.labelcolor": COLOUR["ink"],
        "figure.facecolor": "none",
        "axes.facecolor": "none",
    }
    with rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a font without some letter of a subject's name; the browser has another
        figure = Figure(figsize=(width, height), layout=None)
        yield figure, figure.add_subplot()


def _scale(axes: Any, margin: float, limits: tuple[float, float]) -> None:
    axes.set_xlim(*limits)
    axes.axvspan(limits[0], -margin, color=COLOUR["margin"], alpha=0.10, linewidth=0)
    axes.axvline(-margin, color=COLOUR["margin"], linewidth=1.2, linestyle=(0, (4, 2)))
    axes.axvline(0, color=COLOUR["ink"], linewidth=0.8)


def _draw(axes: Any, bar: Bar, row: float, size: float) -> None:
    colour = COLOUR["second" if bar.marked else "first"]
    axes.plot((bar.lower, bar.upper), (row, row), color=colour, linewidth=1.4, solid_capstyle="butt")
    axes.plot(bar.difference, row, "D" if bar.marked else "o", color=colour, markersize=size)


def _name(name: str) -> str:
    text = _text(name)
    return text if len(text) <= _NAME_CHARACTERS else f"{text[: _NAME_CHARACTERS - 1]}…"


def _text(text: str) -> str:
    return " ".join(printable(text).split())


def _written(figure: Any, name: str, label: str) -> str:
    stream = io.StringIO()
    figure.savefig(
        stream,
        format="svg",
        bbox_inches=None if figure.axes[0].get_position().width == 1 else "tight",
        transparent=True,
        metadata={"Date": None, "Creator": None},
    )
    return inline_svg(stream.getvalue(), name, label)
