"""The history as a page: what every night showed, where something changed, and what changed then.

In: trends, and comparisons of certificates. Out: text, or plain data.
May not know: databases. Rounding happens here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from evalkit.history import CompareRow, NightRow
from evalkit.nightly.charts import MEASURES, Series, certificate_series, chart, legend, night_series
from evalkit.nightly.trends import Change, Trend
from evalkit.report.figures import count, percent, points
from evalkit.report.sections import Section, Table, as_markdown, as_text, printable
from evalkit.signed import signed

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
