"""The report as one HTML file that needs nothing else.

In: a certificate as data, evidence, throughput tables. Out: HTML text.
Must not depend on: files to write; how a number was made.

Model output, names and the judge's words are hostile: every text is escaped by the template engine, data for the script
lies in a block that no browser runs, and the policy in the page's head allows the one script and the one style by their
digests and nothing else: no network, no inline handler, no form, no frame.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evalkit.report.certificate import (
    ASSAY,
    caption,
    certainty_sentence,
    certificate_sections,
    meaning_sentence,
    not_said,
    report_title,
    tested_sentence,
    unpaired_sections,
)
from evalkit.report.comparison import QUALIFICATION
from evalkit.report.document import Document, certificate_view, checked
from evalkit.report.evidence import Change, Changes, Evidence, Reply
from evalkit.report.extras import PowerCurve, extra_sections, power_curves
from evalkit.report.html import plots
from evalkit.report.sections import Answered, Conversations, Section, Table, printable
from evalkit.report.view import WORDS, EndpointRow, View
from evalkit.statistics.tango import PairedTable, tango_interval

# What the page's script shows: changed items and conversations, as compact JSON data.
#
# A report of 14,042 items and six candidates must stay small: only changed items are in it, the worked examples that
# the items of a subject share are a prefix written once, and very long texts are cut and say so.


MOST_CHANGES = 4000
"""Changed items of one run and endpoint, the largest change first; what is beyond is counted and left out."""

MOST_CHARACTERS = 6000
"""Longest text of one answer, judgment or part of a prompt."""

RULES = {
    "acc": "a side chooses the choice with the highest log-probability",
    "acc_norm": "a side chooses the choice with the highest log-probability for each character of it",
}
"""How a metric takes an answer out of log-probabilities."""

_SHARED_FROM = 200
"""Prefixes shorter than this are not worth a reference."""


def changes_data(changes: Sequence[Changes]) -> dict[str, Any]:
    """Return the data of the flip browser.

    `items` holds each item once: [endpoint, subject, digest, prefix, prompt, choices, target]; `rows` each change:
    [run, item, gained, baseline, candidate, shift], where a side is [log-probabilities, chosen, text, other prompt].
    """
    prefixes = _Prefixes(changes)
    runs, endpoints, subjects = _Names(), _Names(), _Names()
    items: dict[tuple[str, str, str, int], int] = {}
    told: list[list[Any]] = []
    rows: list[list[Any]] = []
    left_out: dict[str, int] = {}
    for found in changes:
        for change in found.items[:MOST_CHANGES]:
            place = (found.task, change.subject, change.item_sha256, change.occurrence)
            if place not in items:
                items[place] = len(told)
                prefix, rest = prefixes.split(found.task, change)
                told.append(
                    [
                        endpoints.index(_endpoint(found)),
                        subjects.index(change.subject),
                        change.item_sha256[:12],
                        prefix,
                        cut(rest),
                        [cut(choice) for choice in change.choices],
                        change.target,
                    ]
                )
            sides = [_side(change.baseline), _side(change.candidate)]
            rows.append([runs.index(found.run), items[place], int(change.gained), *sides, round(change.shift, 4)])
        if len(found.items) > MOST_CHANGES:
            left_out[f"{found.run}, {found.endpoint}"] = len(found.items) - MOST_CHANGES
    return {
        "runs": runs.names,
        "endpoints": [name.split(": ")[0] for name in endpoints.names],
        "rules": endpoints.names,
        "subjects": subjects.names,
        "prefixes": prefixes.texts,
        "items": told,
        "rows": rows,
        "left_out": left_out,
    }


def _endpoint(found: Changes) -> str:
    """Return the endpoint and, where it is known, how its metric takes an answer."""
    return f"{found.endpoint}: {RULES[found.metric]}" if found.metric in RULES else found.endpoint


def conversations_data(conversations: Mapping[str, Conversations]) -> list[dict[str, Any]]:
    """Return the data of the conversation browser, one entry for each judged task."""
    return [
        {
            "task": task,
            "runs": list(found.runs),
            "questions": [
                {
                    "category": question.category,
                    "id": question.item_sha256[:12],
                    "turns": [cut(turn) for turn in question.turns],
                    "answers": {name: _answered(answer) for name, answer in question.answers.items()},
                }
                for question in found.questions
            ],
        }
        for task, found in conversations.items()
    ]


def cut(text: str) -> str:
    """Return a text, or its beginning and a word about the rest."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}\n[cut here: {len(text) - MOST_CHARACTERS} more characters in the run folder]"


def _side(reply: Reply) -> list[Any]:
    logprobs = [round(value, 4) for value in reply.logprobs]
    side: list[Any] = [logprobs, reply.chosen, cut(reply.text), cut(reply.prompt) if reply.prompt is not None else None]
    while side and side[-1] in (None, ""):
        side.pop()
    return side


def _answered(answer: Answered) -> dict[str, Any]:
    return {
        "turns": [cut(turn) for turn in answer.turns],
        "invalid": answer.invalid,
        "generations": answer.generations,
        "said": [
            {
                "by": said.by,
                "turn": said.turn,
                "repeat": said.repeat,
                "status": said.status,
                "score": said.score,
                "text": cut(said.text),
                "details": {
                    name: value for name, value in said.details.items() if isinstance(value, (str, int, float))
                },
            }
            for said in answer.said
        ],
    }


class _Names:
    """Names in the order in which they were met."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def index(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))

    @property
    def names(self) -> list[str]:
        return list(self._places)


class _Prefixes:
    """The beginning that all prompts of one subject share, up to the last empty line in it."""

    def __init__(self, changes: Sequence[Changes]) -> None:
        prompts: dict[tuple[str, str], set[str]] = {}
        for found in changes:
            for change in found.items[:MOST_CHANGES]:
                prompts.setdefault((found.task, change.subject), set()).add(change.prompt)
        self.texts: list[str] = []
        self._lengths: dict[tuple[str, str], tuple[int, int]] = {}
        for place, texts in prompts.items():
            shared = _beginning(min(texts), max(texts))
            shared = shared[: shared.rfind("\n\n") + 2] if len(texts) > 1 else ""
            if len(shared) >= _SHARED_FROM:
                self._lengths[place] = (len(self.texts), len(shared))
                self.texts.append(cut(shared))

    def split(self, task: str, change: Change) -> tuple[int | None, str]:
        """Return the number of the shared prefix, None without one, and the rest of the prompt."""
        at, length = self._lengths.get((task, change.subject), (None, 0))
        return at, change.prompt[length:]


def _beginning(first: str, last: str) -> str:
    """Return the beginning of two texts; of the smallest and the largest, it is that of all between."""
    at = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:at]


# The plots of a certificate, ready for a page.


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


Pictures = Literal["drawn", "blank", "none"]

FOLDER = Path(__file__).resolve().parent / "assets"


def html_report(
    document: Data,
    *,
    evidence: Evidence | None = None,
    throughput: Data | None = None,
    curves: Sequence[PowerCurve] | None = None,
    pictures: Pictures | None = None,
) -> str:
    """Write a certificate, or a run against published numbers, as one HTML page.

    Args:
        document: what `certificate.json` holds.
        evidence: what the run folders add; None for a report from the certificate alone.
        throughput: tables as `throughput_sections` takes them.
        curves: power curves, if they are known already.
        pictures: "drawn", "none", or "blank" places for them; None draws where matplotlib is installed, and the page
            says so where it is not.
    """
    found = evidence or Evidence()
    how = pictures or ("drawn" if plots.available() else "none")
    data = checked(document)
    view = certificate_view(data)
    shown = _paired(data, view, found, throughput, curves, how) if view.paired else _unpaired(data)
    script, style = ((FOLDER / name).read_text(encoding="utf-8") for name in ("report.js", "report.css"))
    return (
        _environment()
        .get_template("report.html")
        .render(
            **shown,
            view=view,
            drawn_by=plots.drawn_by() if how == "drawn" and view.paired else "",
            policy_header=content_policy(script, style),
            script=Markup(script),  # noqa: S704 (our own file)
            style=Markup(style),  # noqa: S704 (our own file)
            marks={outcome.value: words.mark for outcome, words in WORDS.items()},
        )
    )


def content_policy(script: str, style: str) -> str:
    """Return the content security policy that allows one script and one style and nothing from anywhere."""
    return (
        f"default-src 'none'; script-src 'sha256-{_digest(script)}'; style-src 'sha256-{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def script_data(value: Any) -> Markup:
    r"""Write data for a script block that is not run: no character in it can end the block.

    >>> str(script_data({"a": "</script><!--"}))
    '{"a":"\\u003c/script\\u003e\\u003c!--"}'
    """
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), sort_keys=True, allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # noqa: S704 (escaped above)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["line"] = lambda text: " ".join(printable(str(text)).split())
    environment.tests["table"] = lambda part: isinstance(part, Table)
    environment.filters["groups"] = _groups
    return environment


def _groups(body: Sequence[str | Table]) -> list[tuple[str, Any]]:
    """Return the parts of a section as ("table", Table), ("list", items) and ("text", paragraph)."""
    found: list[tuple[str, Any]] = []
    for part in body:
        if isinstance(part, Table):
            found.append(("table", part))
        elif part.startswith("- "):
            if not found or found[-1][0] != "list":
                found.append(("list", []))
            found[-1][1].append(part[2:])
        else:
            found.append(("text", part))
    return found


def _paired(
    document: Document,
    view: View,
    evidence: Evidence,
    throughput: Data | None,
    known: Sequence[PowerCurve] | None,
    pictures: Pictures,
) -> dict[str, Any]:
    curves = power_curves(document) if known is None else known
    drawn, blank = pictures != "none", pictures == "blank"
    _first, *rest = certificate_sections(document, view)
    extras = [
        section
        for section in extra_sections(document, view, evidence, curves=curves, throughput=throughput)
        if not _is_change(section)
    ]
    return {
        "title": report_title(view),
        "tested": tested_sentence(view),
        "meaning": meaning_sentence(view),
        "certainty": certainty_sentence(view),
        "caption": caption(view),
        "fidelity": {run.name: run.fidelity for run in view.runs},
        "strips": endpoint_plots(view, blank=blank) if drawn else {},
        "not_said": [line.removeprefix("- ") for line in not_said(view)],
        "no_plots": None if drawn else plots.MISSING,
        "forests": subject_plots(view, document, blank=blank) if drawn else [],
        "powers": power_plots(curves, blank=blank) if drawn else {},
        "categories": category_plots(document, blank=blank) if drawn else [],
        "sections": _ordered([*rest, *extras]),
        "changes": script_data(changes_data(evidence.changes)),
        "changed": sum(len(found.items) for found in evidence.changes),
        "conversations": script_data(conversations_data(evidence.conversations)),
        "conversed": bool(evidence.conversations),
        "absent": evidence.absent,
    }


def _unpaired(document: Document) -> dict[str, Any]:
    first, *rest = unpaired_sections(document)
    return {"title": first.title, "sections": {"rest": [Section(title="Outcome", body=first.body), *rest]}}


def _is_change(section: Section) -> bool:
    """The page has a browser for changed items instead of their tables."""
    return section.title == "Items that changed" or any(
        isinstance(part, Table) and part.headers[:2] == ("subject", "change") for part in section.body
    )


def _ordered(sections: Sequence[Section]) -> dict[str, list[Section]]:
    """Return sections by the place in the page where they are shown; a smaller heading follows its larger one."""
    places = {
        "Why": "why",
        ASSAY: "assay",
        "Gates": "gates",
        "The judge": "judge",
        QUALIFICATION: "judge",
        "Power: what a true difference would have led to": "power",
        "Exclusions": "exclusions",
        "Throughput": "throughput",
        "Tests": "tests",
        "Provenance": "provenance",
        "To reproduce": "provenance",
    }
    found: dict[str, list[Section]] = {name: [] for name in (*places.values(), "rest")}
    place = "rest"
    for section in sections:
        if section.level <= 2:
            place = places.get(section.title, "rest")
        found[place].append(section)
    return found
