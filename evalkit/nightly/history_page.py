"""The history as a page: what every night showed, where something changed, and what changed then.

In: trends, and comparisons of certificates. Out: text, or plain data.
Must not depend on: databases. Rounding happens here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.errors import MissingExtraError
from evalkit.history import CompareRow, NightRow
from evalkit.nightly.trends import Change, Trend
from evalkit.report.sections import Section, Table, as_markdown, as_text, count, percent, points, printable
from evalkit.signed import signed

# Series as plots: characters for a terminal, SVG for a page.


ROWS = 7

_MARKS = {"OK": "*", "ALARM": "A", "UNDECIDED": "?", "INVALID": "x"}
_COLOURS = {"OK": "#2b6cb0", "ALARM": "#c53030", "UNDECIDED": "#b7791f", "INVALID": "#a0aec0"}


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a plot.

    Attributes:
        title, unit: what it is.
        labels: of each place.
        values: in the unit; None where there is none.
        limits: interval of each value, or None.
        outcomes: of each place; choose mark and colour.
        changed: labels at which a change was found.
        zero: whether 0 means "as the baseline".
    """

    title: str
    unit: str
    labels: Sequence[str]
    values: Sequence[float | None]
    limits: Sequence[tuple[float, float] | None]
    outcomes: Sequence[str]
    changed: frozenset[str] = frozenset()
    zero: bool = False

    @property
    def known(self) -> bool:
        """Whether there is anything to plot."""
        return any(value is not None for value in self.values)


MEASURES = {
    "difference": ("difference from the baseline", "points", 100.0),
    "flips": ("items that flip", "%", 100.0),
    "accuracy": ("accuracy on the items compared", "%", 100.0),
    "log_probability": ("change of log p(right choice)", "nats", 1.0),
    "unreadable": ("answers that cannot be read", "%", 100.0),
    "rate": ("speed", "items/s", 1.0),
}
"""Measure to title, unit and factor."""


def night_series(trend: Trend) -> list[Series]:
    """Return one series for each measure of a trend that has values."""
    found = []
    for measure, (title, unit, factor) in MEASURES.items():
        limits: list[tuple[float, float] | None] = [None] * len(trend.nights)
        if measure == "difference":
            limits = [_limits(night.best, factor) for night in trend.nights]
        values = [None if value is None else factor * value for value in trend.series[measure]]
        found.append(
            Series(
                title=f"{trend.recipe}, {trend.endpoint}: {title}",
                unit=unit,
                labels=[night.night for night in trend.nights],
                values=values,
                limits=[pair if value is not None else None for pair, value in zip(limits, values, strict=True)],
                outcomes=[night.outcome for night in trend.nights],
                changed=frozenset(change.night for change in trend.changes if change.measure == measure),
                zero=measure == "difference",
            )
        )
    return [series for series in found if series.known]


def certificate_series(rows: Sequence[CompareRow]) -> list[Series]:
    """Return the differences of each run and endpoint that has at least two certificates: MT-Bench above all."""
    groups: dict[tuple[str, str, str, str], list[CompareRow]] = {}
    for row in rows:
        if row.difference is not None:
            groups.setdefault((row.suite, row.name, row.endpoint, row.unit), []).append(row)
    found = []
    for (_, name, endpoint, unit), group in sorted(groups.items()):
        factor = 100.0 if unit == "proportion" else 1.0
        if len(group) < 2:
            continue
        found.append(
            Series(
                title=f"{name}, {endpoint}: difference from the baseline in certificates",
                unit="points" if unit == "proportion" else "rating",
                labels=[(row.at or "")[:10] for row in group],
                values=[factor * row.difference if row.difference is not None else None for row in group],
                limits=[_limits(row, factor) for row in group],
                outcomes=["ALARM" if row.outcome == "REJECTED" else "OK" for row in group],
                zero=True,
            )
        )
    return found


def _limits(row: CompareRow | None, factor: float) -> tuple[float, float] | None:
    if row is None or row.lower is None or row.upper is None:
        return None
    return factor * row.lower, factor * row.upper


def chart(series: Series) -> Iterator[str]:
    """Yield a plot of a series with values: one column a place, its mark says the outcome."""
    known = [value for value in series.values if value is not None]
    low = min([*known, *(pair[0] for pair in series.limits if pair)])
    high = max([*known, *(pair[1] for pair in series.limits if pair)])
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    yield f"{series.title}, {series.unit}"
    for row in range(ROWS):
        label = f"{high - (high - low) * row / (ROWS - 1):9.3g} |" if row % 2 == 0 else " " * 10 + "|"
        yield (label + "".join(_cell(series, at, row, low, high) for at in range(len(series.values)))).rstrip()
    places = zip(series.outcomes, series.values, strict=True)
    yield " " * 10 + "+" + "".join(_MARKS.get(word, "?") if value is None else "-" for word, value in places)
    if series.changed:
        yield (" " * 11 + "".join("^" if label in series.changed else " " for label in series.labels)).rstrip()


def _cell(series: Series, at: int, row: int, low: float, high: float) -> str:
    value, limits = series.values[at], series.limits[at]
    if value is None:
        return " "

    def place(number: float) -> int:
        return round((high - number) / (high - low) * (ROWS - 1))

    if row == place(value):
        return _MARKS.get(series.outcomes[at], "?")
    return "|" if limits is not None and place(limits[1]) <= row <= place(limits[0]) else " "


def legend() -> str:
    """Return what the marks mean."""
    return "One column a night: * OK, A alarm, ? undecided, x INVALID (no value), | interval, ^ a change was found."


def svg(drawn: Sequence[Series]) -> str:
    """Draw series as one SVG; the same series give the same bytes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("plots of the history", "matplotlib", "plots") from error
    with mpl.rc_context({"svg.hashsalt": "evalkit", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9.0, 2.3 * max(1, len(drawn))), layout="constrained")
        for place, series in enumerate(drawn, start=1):
            _draw(figure.add_subplot(len(drawn), 1, place), series)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "evalkit"})
    return text.getvalue()


def _draw(axes: Any, series: Series) -> None:
    for at, value in enumerate(series.values):
        colour = _COLOURS.get(series.outcomes[at], "#000000")
        if value is None:
            axes.axvline(at, color=colour, linestyle=":", linewidth=1)
            continue
        limits = series.limits[at]
        if limits is not None:
            axes.plot([at, at], limits, color=colour, linewidth=1)
        axes.plot([at], [value], marker="o", markersize=4, color=colour, linestyle="none")
    for at, label in enumerate(series.labels):
        if label in series.changed:
            axes.axvline(at - 0.5, color="#1a202c", linewidth=1)
            axes.text(at - 0.45, 0.98, label, transform=axes.get_xaxis_transform(), fontsize=7, rotation=90, va="top")
    if series.zero:
        axes.axhline(0.0, color="#718096", linewidth=0.6)
    step = max(1, len(series.labels) // 12)
    axes.set_xlim(-0.7, len(series.labels) - 0.3)
    axes.set_xticks(range(0, len(series.labels), step), series.labels[::step], rotation=45, ha="right", fontsize=7)
    axes.set_title(series.title, fontsize=9, loc="left")
    axes.set_ylabel(series.unit, fontsize=8)
    axes.tick_params(axis="y", labelsize=7)


Part = str | Table


def page_text(trends: Sequence[Trend], compared: Sequence[CompareRow], *, markdown: bool = False) -> str:
    """Return the history page as text for a terminal, or as Markdown."""
    write = as_markdown if markdown else as_text
    body: list[Part] = [_summary(trends), legend()] if trends else ["No nights yet."]
    parts = [write([Section(title="History", level=1, body=body)])]
    for trend in trends:
        title = f"{trend.recipe}, {trend.endpoint} ({trend.suite})"
        parts.append(write([Section(title=title, body=[_nights(trend), *_story(trend)])]))
        parts += [_plot(series, markdown=markdown) for series in night_series(trend)]
    if compared:
        rows = [_compared(row) for row in compared]
        headers = ("run", "at", "endpoint", "n", "value", "difference", "limits", "flips", "unreadable", "verdict")
        table = Table(headers=headers, rows=rows, caption="Ratings are on the judge's scale, accuracies in points.")
        parts.append(write([Section(title="Certificates", body=[table])]))
        parts += [_plot(series, markdown=markdown) for series in certificate_series(compared)]
    return "\n".join(parts)


def _plot(series: Series, *, markdown: bool) -> str:
    plot = "\n".join(printable(line) for line in chart(series))
    return f"```\n{plot}\n```\n" if markdown else f"{plot}\n"


def _summary(trends: Sequence[Trend]) -> Table:
    rows = []
    for trend in trends:
        outcomes = [night.outcome for night in trend.nights]
        last = trend.nights[-1]
        rows.append(
            (
                trend.suite if trend.site == "default" else f"{trend.suite} at {trend.site}",
                trend.recipe,
                trend.endpoint,
                count(len(outcomes)),
                *(str(outcomes.count(word)) for word in ("OK", "ALARM", "UNDECIDED", "INVALID")),
                f"{last.night}: {last.outcome}",
            )
        )
    headers = ("suite", "recipe", "endpoint", "nights", "OK", "ALARM", "undecided", "INVALID", "last")
    return Table(headers=headers, rows=rows)


def _nights(trend: Trend) -> Table:
    rows = [_night(night) for night in trend.nights]
    headers = ("night", "outcome", "recipe", "items", "difference", "limits", "flips", "why")
    caption = (
        "Items: used by the watch, or all where a full comparison was made. Limits of a watch hold at any stop and "
        "agree with OK; those on all items are Tango's at 95 %. Nights reuse the items of one list and are not pooled."
    )
    return Table(headers=headers, rows=rows, caption=caption)


def _night(night: NightRow) -> tuple[str, ...]:
    best = night.best if night.outcome != "INVALID" else None
    recipe = str((night.identity or {}).get("recipe", ""))
    why = str(night.reasons[0]["code"]) if night.reasons else ""
    if best is None or best.difference is None:
        return (night.night, night.outcome, recipe, count(night.used), "", "", "", why)
    limits = (
        f"[{signed(100 * best.lower)}, {signed(100 * best.upper)}]"
        if best.lower is not None and best.upper is not None
        else ""
    )
    items = count(best.n) + (" (all)" if best.scope == "full" else "")
    flips = percent(best.flips, 2) if best.flips is not None else ""
    return (night.night, night.outcome, recipe, items, points(best.difference), limits, flips, why)


def _story(trend: Trend) -> Iterator[str]:
    """Yield what happened, in sentences: changes of measures, other environments, alarms."""
    for change in trend.changes:
        yield f"- {_changed(change)}"
    for event in trend.events:
        yield f"- night {event.night} ran in another environment than the one before: {'; '.join(event.what)}"
    for night in trend.nights:
        if night.outcome in ("ALARM", "INVALID"):
            why = str(night.reasons[0]["message"]) if night.reasons else "no reason was kept"
            yield f"- night {night.night}, {night.outcome}: {why}"
    if not trend.changes and len(trend.nights) > 2:
        yield "- no measure changed by more than chance explains"


def _changed(change: Change) -> str:
    _, unit, factor = MEASURES[change.measure]
    told = (
        f"{change.measure} changed on night {change.night}: from {signed(factor * change.before)} to "
        f"{signed(factor * change.after)} {unit}"
        if change.measure == "difference"
        else f"{change.measure} changed on night {change.night}: from {factor * change.before:.2f} to "
        f"{factor * change.after:.2f} {unit}"
    )
    cause = "; ".join(change.causes) or "nothing that is recorded (look at the data, the driver, the machine)"
    return f"{told}; what changed since night {change.last_before}: {cause}"


def _compared(row: CompareRow) -> tuple[str, ...]:
    rating = row.unit != "proportion"
    factor = 1.0 if rating else 100.0
    limits = (
        f"[{signed(factor * row.lower)}, {signed(factor * row.upper)}]"
        if row.lower is not None and row.upper is not None
        else ""
    )
    value = row.candidate_value
    return (
        f"{row.suite}/{row.name}",
        (row.at or "")[:19],
        row.endpoint,
        count(row.n),
        "" if value is None else f"{value:.2f}" if rating else percent(value),
        "" if row.difference is None else signed(row.difference) if rating else points(row.difference),
        limits,
        percent(row.flips, 2) if row.flips is not None else "",
        percent(row.invalid_share) if row.invalid_share is not None else "",
        row.outcome or "",
    )


def page_data(trends: Sequence[Trend], compared: Sequence[CompareRow]) -> dict[str, Any]:
    """Return the page as plain data, unrounded."""
    return {
        "trends": [
            {
                "suite": trend.suite,
                "site": trend.site,
                "recipe": trend.recipe,
                "endpoint": trend.endpoint,
                "nights": [
                    {
                        "night": night.night,
                        "outcome": night.outcome,
                        "state": night.state,
                        "reasons": list(night.reasons),
                        "used": night.used,
                        "asked": night.asked,
                        **{measure: trend.series[measure][at] for measure in trend.series},
                    }
                    for at, night in enumerate(trend.nights)
                ],
                "changes": [
                    {
                        "measure": change.measure,
                        "night": change.night,
                        "last_before": change.last_before,
                        "before": change.before,
                        "after": change.after,
                        "causes": list(change.causes),
                    }
                    for change in trend.changes
                ],
                "events": [{"night": event.night, "what": list(event.what)} for event in trend.events],
            }
            for trend in trends
        ],
        "certificates": [
            {
                name: getattr(row, name)
                for name in ("suite", "name", "at", "endpoint", "unit", "n", "candidate_value", "difference", "lower")
            }
            | {name: getattr(row, name) for name in ("upper", "flips", "invalid_share", "rate", "outcome")}
            for row in compared
        ],
    }
