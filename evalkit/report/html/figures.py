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
from evalkit.report.power import PowerCurve
from evalkit.report.view import EndpointRow, View
from evalkit.statistics.paired_table import PairedTable
from evalkit.statistics.tango import tango_interval

Data = Mapping[str, Any]

BLANK = "<svg/>"
"""What stands for a picture where only the words of a page are wanted."""


def endpoint_plots(view: View, *, blank: bool) -> dict[tuple[str, str], Markup]:
    """Return a small picture of each row's difference by run and endpoint, and the axis under ("", "axis").

    Each row is drawn in units of its own margin, so that endpoints of any kind share one axis.
    """
    bars = {(row.run, row.endpoint): bar for row in view.rows if (bar := _bar(row)) is not None}
    if not bars:
        return {}
    own = [bar for (run, _), bar in bars.items() if run in view.policy.recipes]
    most = max([1.6, *(1.15 * abs(limit) for bar in own for limit in (bar.difference, bar.lower, bar.upper))])
    reach = (-most, most)
    found = {("", "axis"): _picture(blank, lambda: plots.scale("axis", reach))}
    for at, row in enumerate(view.rows):
        bar = bars.get((row.run, row.endpoint))
        if bar is not None:
            margin = row.margin_words(row.margins[0].margin)
            label = f"difference {row.difference_text} {row.interval_text}; the margin is {margin}"
            found[row.run, row.endpoint] = _picture(blank, partial(plots.strip, f"row{at}", bar, 1.0, reach, label))
    return found


def _bar(row: EndpointRow) -> plots.Bar | None:
    """Return the difference of a row in units of its margin, a loss to the left; None where there is none to draw."""
    if row.difference is None or row.interval is None or not row.margins or row.unit == "ratio":
        return None
    size = row.margins[0].margin
    found = row.interval
    return plots.Bar(name=row.run, difference=row.difference / size, lower=found.lower / size, upper=found.upper / size)


def subject_plots(view: View, document: Data, *, blank: bool) -> list[tuple[str, Markup]]:
    """Return a forest plot by subject for each candidate and each endpoint of right or wrong items."""
    found: list[tuple[str, Markup]] = []
    for verdict in view.verdicts:
        for row in verdict.endpoints:
            comparison = document["comparisons"].get(verdict.recipe, {}).get(row.endpoint)
            proportion = comparison["proportion"] if comparison is not None else None
            subjects, effects = (proportion["subjects"], proportion["effects"]) if proportion else ((), None)
            if len(subjects) < 2 or not effects or row.unit != "points":
                continue
            bars = [_overall(effects), *(_subject(one) for one in sorted(subjects, key=lambda one: one["difference"]))]
            margin, name = 100 * row.margins[0].margin, f"{verdict.recipe}, {row.endpoint}"
            label = (
                f"{name}: difference by subject, {len(subjects)} subjects; the table of subjects has the same numbers"
            )
            draw = partial(plots.forest, f"forest{len(found)}", bars, margin, "points", label)
            found.append((name, _picture(blank, draw)))
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
