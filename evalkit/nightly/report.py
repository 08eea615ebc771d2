"""A night for people and machines: report, one line for chat, JUnit, job summary, payload of a webhook.

In: results. Out: text, or plain data.
Must not depend on: how anything was found. Rounding happens here.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from evalkit import __version__
from evalkit.errors import StoreError, UsageError
from evalkit.interop.junit import Case, cut, escaped, suites_xml
from evalkit.nightly.result import Result
from evalkit.nightly.watch import NightOutcome, night_exit_code, plain_e, worst
from evalkit.records import canonical_json
from evalkit.report.sections import Section, Table, count, points
from evalkit.signed import signed

# Tell a server about a night: JSON, signed, and again if it did not get through.
#
# The body is signed as a whole: `X-Evalkit-Signature-256: sha256=<HMAC-SHA256 of "<timestamp>.<body>" in hex>` with the
# timestamp of `X-Evalkit-Timestamp`, so that a receiver can refuse what is forged or old. `X-Evalkit-Delivery` is the
# same for every attempt at one night: a receiver that has seen it may ignore the rest.


ATTEMPTS = 5
TIMEOUT_S = 15.0
FIRST_WAIT_S = 1.0
"""Wait after the first failure; it doubles each time."""

_RETRIED = (408, 425, 429, 500, 502, 503, 504)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, or carry a signature to somebody else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def checked_url(url: str) -> str:
    """Return a URL that may be told about a night.

    Raises:
        UsageError: it is not http or https, or names no host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--webhook: {shown(url)!r} is no http or https URL")
    return url


def shown(url: str) -> str:
    """Return a URL without what may be secret in it: user, password, path beyond its host, query.

    >>> shown("https://u:p@chat.example/hooks/T0K3N?x=1")
    'https://chat.example/...'
    """
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}/..."


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of the signature's header.

    >>> signature("secret", "1700000000", b"{}")[:20]
    'sha256=b8569b78799ff'
    """
    made = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={made.hexdigest()}"


def deliver(
    url: str,
    data: Mapping[str, Any],
    *,
    delivery: str,
    secret: str | None = None,
    attempts: int = ATTEMPTS,
    wait: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.time,
) -> int:
    """Post data and return the number of attempts it took.

    Args:
        url: http or https.
        data: JSON data.
        delivery: what is the same for every attempt, of this call and of later ones.
        secret: of the signature; None for no signature.
        attempts: at most so many.
        wait: sleeps for a number of seconds.
        now: seconds since 1970.

    Raises:
        UsageError: the URL is none.
        StoreError: the server refused, or could not be reached in all attempts; names what was seen, no secret.
    """
    checked_url(url)
    body = canonical_json(data).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"evalkit/{__version__}",
        "X-Evalkit-Delivery": delivery,
    }
    opener = urllib.request.build_opener(_NoRedirects)
    for attempt in range(1, attempts + 1):
        timestamp = str(int(now()))
        signed = {"X-Evalkit-Timestamp": timestamp}
        if secret is not None:
            signed["X-Evalkit-Signature-256"] = signature(secret, timestamp, body)
        request = urllib.request.Request(url, data=body, headers={**headers, **signed}, method="POST")  # noqa: S310
        try:
            with opener.open(request, timeout=TIMEOUT_S):
                return attempt
        except urllib.error.HTTPError as error:
            seen, again = f"HTTP {error.code}", error.code in _RETRIED
            error.close()
        except (urllib.error.URLError, OSError) as error:
            seen, again = str(getattr(error, "reason", error)), True
        if not again:
            break
        if attempt < attempts:
            wait(FIRST_WAIT_S * 2.0 ** (attempt - 1))
    raise StoreError(f"webhook {shown(url)}: not delivered after {attempt} attempt(s): {seen}")


SUMMARY_BYTES = 64 * 1024

LINE_CHARACTERS = 600
"""Longest line for chat."""

_MEANING = {
    "OK": "a loss beyond the margin is refuted",
    "ALARM": "a loss beyond the margin is shown",
    "UNDECIDED": "the evidence does not decide",
    "INVALID": "the night may not be judged; this is no regression",
}

_CAPTION = (
    "e: evidence that less than the margin is lost; e': that more is. The limits of a watch hold at any stop and speak "
    "for the items of the task alone; those of a full comparison are Tango's. An early stop biases a difference upward."
)

_FAULTS: Mapping[str, Any] = {"ALARM": "failure", "UNDECIDED": "failure", "INVALID": "error"}


def outcomes(results: Sequence[Result]) -> list[NightOutcome]:
    """Return the outcome of each recipe."""
    return [NightOutcome(result["outcome"]) for result in results]


def one_line(results: Sequence[Result]) -> str:
    """Return a night in one line, the worst recipe first."""
    first = results[0]
    order = ("ALARM", "INVALID", "UNDECIDED", "OK")
    told = [_short(result) for word in order for result in results if result["outcome"] == word]
    where = "" if first["site"] == "default" else f" at {first['site']}"
    margin = f"margin {first['margin_points']:g} points"
    line = f"{first['suite']}, night {first['night']}{where}, {margin}: {'; '.join(told)}"
    line = " ".join(line.split())
    return line if len(line) <= LINE_CHARACTERS else f"{line[: LINE_CHARACTERS - 3]}..."


def _short(result: Result) -> str:
    told = [_numbers(name, found) for name, found in result["endpoints"].items() if found["watch"]]
    if result["outcome"] == "INVALID":
        told = [reason["message"] for reason in result["reasons"][:1]]
    return f"{result['outcome']} {result['recipe']}" + (f" ({'; '.join(told)})" if told else "")


def _numbers(name: str, found: Mapping[str, Any]) -> str:
    full, watch = found["full"], found["watch"]
    if full and full["difference"] is not None:
        return f"{name} {_difference(full)} on all {count(full['n'])} items, {full['state']}"
    known = sum(watch[cell] for cell in ("n11", "n10", "n01", "n00"))
    if not known:
        return f"{name}: nothing compared"
    difference = points((watch["n01"] - watch["n10"]) / known)
    return f"{name} {difference} after {count(watch['used'])} items, e = {plain_e(watch['log_e'])}"


def _difference(found: Mapping[str, Any]) -> str:
    interval = found["interval"]
    limits = f" [{signed(100 * interval['lower'])}, {signed(100 * interval['upper'])}]" if interval else ""
    return f"{points(found['difference'])}{limits}"


def payload(results: Sequence[Result]) -> dict[str, Any]:
    """Return what a webhook is told: plain data, unrounded."""
    first = results[0]
    return {
        "kind": "evalkit.night",
        "version": 1,
        **{name: first[name] for name in ("suite", "site", "night")},
        "outcome": worst(outcomes(results)).value,
        "exit_code": int(night_exit_code(outcomes(results))),
        "line": one_line(results),
        "recipes": [
            {
                "recipe": result["recipe"],
                "outcome": result["outcome"],
                "reasons": result["reasons"],
                "identity_sha256": result["identity_sha256"],
                "endpoints": {
                    name: {
                        key: found[key] for key in ("task", "metric", "outcome", "asked", "watch", "confirm", "full")
                    }
                    for name, found in result["endpoints"].items()
                },
            }
            for result in results
        ],
    }


def junit_xml(results: Sequence[Result]) -> str:
    """Write a night as JUnit XML: a case for each recipe and endpoint, with its reason as the message."""
    cases = [_case(result, name) for result in results for name in result["watched"]]
    return suites_xml(f"nightly {results[0]['suite']}", {results[0]["suite"]: cases})


def _case(result: Result, name: str) -> Case:
    found = result["endpoints"].get(name)
    general = [reason for reason in result["reasons"] if reason["endpoint"] is None]
    outcome = "INVALID" if general or not found else found["outcome"]
    reasons = [reason for reason in result["reasons"] if reason["endpoint"] in (name, None)]
    text = "\n".join(f"{reason['code']}: {reason['message']}" for reason in reasons)
    message = f"{outcome}: {_MEANING[outcome]}" + (f"; {reasons[0]['message']}" if reasons else "")
    return Case(
        name=f"{result['recipe']}: {name}",
        classname=f"nightly.{result['suite']}",
        fault=_FAULTS.get(outcome),
        type=outcome.lower() if outcome in _FAULTS else "",
        message=message,
        text=text or message,
    )


def job_summary(results: Sequence[Result], *, limit_bytes: int = SUMMARY_BYTES) -> str:
    """Write a night as the Markdown summary of a CI job."""
    first = results[0]
    lines = [
        f"## {worst(outcomes(results)).value}: {escaped(first['suite'])}, night {escaped(first['night'])}",
        "",
        "| recipe | outcome | endpoint | seen |",
        "|---|---|---|---|",
    ]
    for result in results:
        for name in result["watched"]:
            found = result["endpoints"].get(name)
            seen = _numbers(name, found) if found and found["watch"] else "not watched"
            lines.append(
                f"| {escaped(result['recipe'])} | **{result['outcome']}** | {escaped(name)} | {escaped(seen)} |"
            )
    for result in results:
        if result["reasons"]:
            lines += ["", f"**{escaped(result['recipe'])}**", ""]
            lines += [f"- {reason['code']}: {escaped(reason['message'])}" for reason in result["reasons"]]
    return cut("\n".join(lines) + "\n", limit_bytes)


def night_sections(results: Sequence[Result]) -> list[Section]:
    """Return the sections of a night's report."""
    first = results[0]
    title = f"Night {first['night']} of {first['suite']}: {worst(outcomes(results)).value}"
    sections = [Section(title=title, level=1, body=[*_sentences(results), _table(results)])]
    for result in results:
        if result["reasons"]:
            body = [f"- {reason['code']}: {reason['message']}" for reason in result["reasons"]]
            sections.append(Section(title=f"Why: {result['recipe']}", body=body))
        for name, found in result["endpoints"].items():
            if found["triage"] and result["outcome"] != "OK":
                sections.append(_triage(result, name, found["triage"]))
    return sections


def _sentences(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        yield f"- {result['recipe']}: {result['outcome']}: {_MEANING[result['outcome']]}."
    first = results[0]
    policy, margin = first["policy"]["name"], first["margin_points"]
    yield f"A watch under policy '{policy}' for a loss of {margin:g} points or more. It certifies nothing."
    yield "Items come in an order drawn for this night; the night stops as soon as the evidence decides."


def _table(results: Sequence[Result]) -> Table:
    rows = [row for result in results for row in _rows(result)]
    return Table(
        headers=("recipe", "endpoint", "outcome", "items used", "flips", "difference", "limits", "e", "e'"),
        rows=rows,
        caption=_CAPTION,
    )


def _rows(result: Result) -> Iterator[tuple[str, ...]]:
    for name in result["watched"]:
        found = result["endpoints"].get(name)
        if not found or not found["watch"]:
            yield (result["recipe"], name, result["outcome"], "", "", "", "", "", "")
            continue
        watch = found["watch"]
        for label, part in (("", watch), (", confirming", found["confirm"])):
            if part:
                yield _watch_row(result["recipe"], name + label, part)
        if found["full"] and found["full"]["n"]:
            full = found["full"]
            cells = (count(full["n"]), f"-{full['n10']} +{full['n01']}", points(full["difference"]))
            yield (result["recipe"], f"{name}, all items", full["state"], *cells, _limits(full["interval"]), "", "")


def _watch_row(recipe: str, name: str, part: Mapping[str, Any]) -> tuple[str, ...]:
    n = sum(part[cell] for cell in ("n11", "n10", "n01", "n00"))
    return (
        recipe,
        name,
        part["state"],
        count(part["used"]),
        f"-{part['n10']} +{part['n01']}",
        points((part["n01"] - part["n10"]) / n) if n else "",
        _limits(part["interval"]),
        plain_e(part["log_e"]),
        plain_e(part["log_e_loss"]),
    )


def _limits(interval: Mapping[str, Any] | None) -> str:
    if not interval:
        return ""
    low, high, level = (100.0 * interval[name] for name in ("lower", "upper", "level"))
    return f"[{signed(low)}, {signed(high)}] ({level:.0f} %)"


def _triage(result: Result, name: str, triage: Mapping[str, Any]) -> Section:
    body: list[str | Table] = []
    if triage["largest"]:
        rows = [
            (
                row["subject"],
                row["question"],
                f"{math.exp(row['baseline']):.3f}",
                f"{math.exp(row['candidate']):.3f}",
                signed(row["change"]),
                "lost" if row["flipped"] else "",
            )
            for row in triage["largest"]
        ]
        columns = ("subject", "item", "p(right), baseline", "candidate", "change of log p", "mark")
        body.append(Table(headers=columns, rows=rows, caption="The largest losses of log-probability first."))
    if triage["subjects"]:
        flips = [
            (
                row["subject"],
                count(row["items"]),
                str(row["losses"]),
                str(row["gains"]),
                f"{row['gains'] - row['losses']:+d}",
            )
            for row in triage["subjects"]
        ]
        headers = ("subject", "items asked", "lost", "gained", "net")
        body.append(Table(headers=headers, rows=flips, caption="Flips by subject, the largest net loss first."))
    return Section(title=f"What to look at first: {result['recipe']}, {name}", body=body or ["Nothing flipped."])
