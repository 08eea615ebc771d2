"""A plotting library's SVG made fit for the inside of a strict HTML page.

In: SVG text of our own plots. Out: an `<svg>` element without style attributes, whose colours are classes.
May not know: what a plot shows.

The page's content security policy allows no inline style, and its light, dark and print colours come from CSS. So every
style becomes a presentation attribute, and each of the few colours a plot may use becomes a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree

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
