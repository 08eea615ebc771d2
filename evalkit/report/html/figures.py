"""The plots of a certificate, ready for a page.

In: a certificate as data. Out: SVG elements.
May not know: HTML around them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from evalkit.report.html import plots
from evalkit.report.html.recipes import Row, limits, main_endpoint, margin_points
from evalkit.report.power import PowerCurve
from evalkit.statistics.paired_table import PairedTable
from evalkit.statistics.tango import tango_interval

Data = Mapping[str, Any]

BLANK = "<svg/>"
"""What stands for a picture where only the words of a page are wanted."""


def recipe_plots(document: Data, rows: Sequence[Row], *, blank: bool) -> dict[str, Markup]:
    """Return a small picture of each run's difference by its name, and the axis under "axis"."""
    margin = margin_points(document)
    if margin is None:
        return {}
    reach = limits(document, list(rows))
    found = {"axis": _picture(blank, lambda: plots.scale("axis", margin, reach, "points"))}
    for at, row in enumerate(rows):
        if row.drawn is not None:
            bar = plots.Bar(name=row.name, difference=row.drawn[0], lower=row.drawn[1], upper=row.drawn[2])
            label = f"difference {row.difference} {row.difference_limits}; the margin is at {-margin:g} points"
            found[row.name] = _picture(blank, partial(plots.strip, f"row{at}", bar, margin, reach, label))
    return found


def subject_plots(document: Data, *, blank: bool) -> list[tuple[str, Markup]]:
    """Return a forest plot by subject for each candidate."""
    name, margin = main_endpoint(document), margin_points(document)
    if name is None or margin is None:
        return []
    found = []
    recipes = document["policy"]["document"]["release"]["recipes"]
    for at, run in enumerate(run for run in document["comparisons"] if run in recipes):
        proportion = (document["comparisons"][run].get(name) or {}).get("proportion") or {}
        subjects, effects = proportion.get("subjects") or (), proportion.get("effects")
        if len(subjects) < 2 or not effects or effects["interval"] is None:
            continue
        bars = [_overall(effects), *(_subject(row) for row in sorted(subjects, key=lambda row: row["difference"]))]
        label = f"{run}: difference by subject, {len(subjects)} subjects; the table of subjects has the same numbers"
        found.append((run, _picture(blank, partial(plots.forest, f"forest{at}", bars, margin, "points", label))))
    return found


def _overall(effects: Data) -> plots.Bar:
    interval = effects["interval"]
    return plots.Bar(
        name=f"all subjects (n = {effects['n']:,})",
        difference=100 * effects["difference"],
        lower=100 * interval["lower"],
        upper=100 * interval["upper"],
        marked=True,
    )


def _subject(row: Data) -> plots.Bar:
    both = round(row["baseline_accuracy"] * row["n"]) - row["losses"]
    neither = row["n"] - both - row["losses"] - row["gains"]
    table = PairedTable(n11=both, n10=row["losses"], n01=row["gains"], n00=neither)
    interval = tango_interval(table) if table.n >= 2 else None
    return plots.Bar(
        name=f"{row['subject']} ({row['n']:,})",
        difference=100 * row["difference"],
        lower=100 * interval.lower if interval else -100.0,
        upper=100 * interval.upper if interval else 100.0,
        size=row["n"],
    )


def power_plots(curves: Sequence[PowerCurve], *, blank: bool) -> dict[str, Markup]:
    """Return one plot for each endpoint."""
    names = list(dict.fromkeys(curve.endpoint for curve in curves))
    found = {}
    for at, name in enumerate(names):
        chosen = [curve for curve in curves if curve.endpoint == name]
        label = f"{name}: chance of passing by the true difference; the table below has numbers"
        found[name] = _picture(blank, partial(plots.power, f"power{at}", chosen, label))
    return found


def category_plots(document: Data, *, blank: bool) -> list[tuple[str, str, Markup]]:
    """Return a plot of mean ratings by category for each candidate and judged endpoint."""
    found: list[tuple[str, str, Markup]] = []
    recipes = document["policy"]["document"]["release"]["recipes"]
    for run, endpoints in document["comparisons"].items():
        for endpoint, comparison in endpoints.items():
            rating = comparison["rating"]
            if run not in recipes or not rating or not rating["categories"]:
                continue
            rows = [
                plots.Pair(name=f"{g['name']} ({g['n']})", baseline=g["baseline"], candidate=g["candidate"])
                for g in (*rating["turns"], *rating["categories"])
            ]
            label = f"{run}, {endpoint}: mean rating by turn and category; the table of parts has the same numbers"
            scale = tuple(rating["mean"]["scale"])
            draw = partial(plots.dots, f"dots{len(found)}", rows, scale, label)
            found.append((run, endpoint, _picture(blank, draw)))
    return found


def _picture(blank: bool, draw: Callable[[], str]) -> Markup:
    """Draw, or leave a blank place; the plotting library and the parser escape every name in a drawing of ours."""
    return Markup(BLANK if blank else draw())  # noqa: S704
