"""The pictures of a report, compared with the same pictures drawn again.

In: two HTML pages of one certificate. Out: what is wrong with a picture, and what could not be compared.
Must not depend on: certificates, how anything is drawn.

A picture is part of the page that people read, so a page whose words are right can still lie in a picture. Drawn again
by the same version of the plotting library it must be the same. Another version places lines and letters otherwise;
then it must at least be made of the few elements and attributes that the plots use, which draw nothing outside its box
and no colour of their own, and hold the same words and numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from evalkit.report.html.plots import PAINT

CLOSE = 0.5
"""Points by which a line may lie elsewhere: other builds of one library round otherwise, and no reader sees it."""

_PICTURE = re.compile(r"<svg/>|<svg.*?</svg>", re.DOTALL)
_DRAWN_BY = re.compile(r'<meta name="pictures" content="([A-Za-z0-9 .+-]{1,60})">\n')
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")
_NUMBERS = r"[-+0-9.e, ]+"
_CLASSES = "|".join(f"(?:fill|stroke)-{word}" for word in PAINT.values())
_ELEMENTS = frozenset({"svg", "g", "path", "use", "defs", "clipPath", "rect", "text"})
_ATTRIBUTES = {
    **dict.fromkeys(
        ("x", "y", "width", "height", "opacity", "fill-opacity", "stroke-opacity", "stroke-width", "stroke-dashoffset"),
        _NUMBERS,
    ),
    "d": r"[-+0-9.eMLCQSTHVAZmlcqsthvaz, \n]*",
    "stroke-dasharray": _NUMBERS,
    "transform": rf"(?:(?:rotate|translate|scale|matrix)\({_NUMBERS}\) ?)+",
    "fill": "none",
    "class": rf"(?:{_CLASSES})(?: (?:{_CLASSES}))*",
    "id": "[A-Za-z0-9_-]+",
    "href": "#[A-Za-z0-9_-]+",
    "clip-path": r"url\(#[A-Za-z0-9_-]+\)",
    "stroke-linecap": "butt|round|square|projecting",
    "stroke-linejoin": "miter|round|bevel",
    "font-size": r"(?:[1-9]|1[0-2])(?:\.\d+)?px",
    "font-weight": "normal|bold|[1-9]00",
    "text-anchor": "start|middle|end",
}
_ROOT = {"viewBox": rf"0 0 {_NUMBERS}", "role": "img", "aria-label": "(?s:.*)", "class": "plot"}


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page taken apart.

    Attributes:
        words: everything but the pictures, which are blank in it.
        pictures: SVG texts in their order.
        drawn_by: the plotting library and its version, as the page names it; "" without.
    """

    words: str
    pictures: tuple[str, ...]
    drawn_by: str


def page_of(text: str, blank: str) -> Page:
    """Take a page apart; `blank` stands in the words for each picture, the name of the library is left out of them."""
    named = _DRAWN_BY.search(text)
    words = _DRAWN_BY.sub("", text, count=1)
    return Page(
        words=_PICTURE.sub(blank, words),
        pictures=tuple(_PICTURE.findall(words)),
        drawn_by=named[1] if named else "",
    )


def compare_pictures(found: Page, made: Page | None) -> tuple[list[str], list[str]]:
    """Compare pictures with the same ones drawn again.

    Args:
        found: the page that lies beside a certificate.
        made: the same written anew; None where nothing can be drawn here.

    Returns:
        What is wrong, and what was not compared, one sentence each.
    """
    if made is not None and len(found.pictures) != len(made.pictures):
        return [f"it has {len(found.pictures)} pictures, the certificate gives {len(made.pictures)}"], []
    wrong, other = [], []
    drawn: Sequence[str | None] = made.pictures if made is not None else [None] * len(found.pictures)
    for at, (text, again) in enumerate(zip(found.pictures, drawn, strict=True), 1):
        if text == again:
            continue
        fault = _foreign(text) or (_otherwise(text, again, made, found) if again is not None else None)
        if fault:
            wrong.append(f"picture {at}: {fault}")
        elif again is None or not _alike(text, again):
            other.append(str(at))
    if not other:
        return wrong, []
    why = f"drawn by {found.drawn_by or 'an unknown library'}, " + (
        f"drawn again by {made.drawn_by}" if made is not None else "and nothing can be drawn here"
    )
    return wrong, [f"the lines of {len(other)} picture(s) of report.html were not compared: {why}"]


def _otherwise(text: str, again: str, made: Page | None, found: Page) -> str | None:
    """Say what differs from the picture drawn again, where it may not."""
    left, right = ElementTree.fromstring(text), ElementTree.fromstring(again)  # noqa: S314 (checked, or ours)
    more, fewer = Counter(_texts(left)) - Counter(_texts(right)), Counter(_texts(right)) - Counter(_texts(left))
    if more or fewer:
        return f"it reads {sorted(more)[:3]} where the certificate gives {sorted(fewer)[:3]}"
    if left.get("aria-label") != right.get("aria-label"):
        return f"it is said to show {left.get('aria-label')!r:.80}"
    if made is not None and found.drawn_by == made.drawn_by and not _alike(text, again):
        return f"{made.drawn_by} draws it otherwise from this certificate"
    return None


def _texts(root: ElementTree.Element) -> list[str]:
    return [node.text or "" for node in root.iter("text")]


def _foreign(text: str) -> str | None:
    """Say what a picture holds that no plot of evalkit does; None if nothing."""
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 (a DOCTYPE is refused by the comparison below)
    except ElementTree.ParseError as error:
        return f"it is no well-formed SVG: {error}"
    if ElementTree.tostring(root, encoding="unicode") != text:
        return "it is not written as evalkit writes pictures"
    if root.attrib.keys() != _ROOT.keys():
        return f"its attributes are {sorted(root.attrib)}, those of a plot {sorted(_ROOT)}"
    return next((fault for node in root.iter() for fault in _faults(node, root)), None)


def _faults(node: ElementTree.Element, root: ElementTree.Element) -> Iterator[str]:
    allowed = _ROOT if node is root else _ATTRIBUTES
    if node.tag not in _ELEMENTS or (node is not root and node.tag == "svg"):
        yield f"no plot holds an element {node.tag!r:.40}"
    for name, value in node.attrib.items():
        if name not in allowed or not re.fullmatch(allowed[name], value):
            yield f"no plot holds {name}={value!r:.60}"
    outside = [] if node.tag == "text" else [node.text or ""]
    for words in (*outside, node.tail or ""):
        if words.strip():
            yield f"words stand outside of a text: {words!r:.60}"
    if node.tag == "text" and len(node):
        yield "a text holds further elements"


def _alike(text: str, again: str) -> bool:
    """Say whether two pictures are the same but for numbers that no reader can tell apart."""
    left, right = list(_leaves(text)), list(_leaves(again))
    return len(left) == len(right) and all(
        words == others
        and len(numbers) == len(more)
        and all(abs(a - b) <= CLOSE for a, b in zip(numbers, more, strict=True))
        for (words, numbers), (others, more) in zip(left, right, strict=True)
    )


def _leaves(text: str) -> Iterator[tuple[str, list[float]]]:
    """Yield each element as words and numbers; the names of elements, which are digests of lines, by their place."""
    names: dict[str, str] = {}
    for node in ElementTree.fromstring(text).iter():  # noqa: S314 (checked before)
        words, numbers = [node.tag, node.text or "", node.tail or ""], []
        for key in sorted(node.attrib):
            value = node.attrib[key]
            if key in ("id", "href", "clip-path"):
                words.append(f"{key}={names.setdefault(_plain_name(value), f'name{len(names)}')}")
            elif key in ("aria-label", "class"):
                words.append(f"{key}={value}")
            else:
                words.append(f"{key}={_NUMBER.sub('0', value)}")
                numbers += [float(number) for number in _NUMBER.findall(value)]
        yield "\n".join(words), numbers


def _plain_name(value: str) -> str:
    return value.removeprefix("url(").removesuffix(")").removeprefix("#")
