"""A certificate in an MLflow run.

In: `certificate.json` as data, an MLflow module or client with `log_params`, `log_metrics`, `set_tags`. Out: calls.
May not know: which server they go to. Nothing here is ever needed for a verdict.

Keys may hold letters, digits and `_/. -` alone; two keys that become one by that are an error, never one lost value.
Numbers must be finite, and parameters short: longer ones would be cut without a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from evalkit.errors import DataError

MOST_PARAM, MOST_TAG, MOST_KEY = 500, 5000, 250
"""Characters that every release of MLflow takes whole."""

MOST_PARAMS, MOST_METRICS = 100, 1000
"""Entries of one batch."""

Data = Mapping[str, Any]


class Tracker(Protocol):
    """What is needed of MLflow: the module itself, with a run open, or anything like it."""

    def log_params(self, params: dict[str, str]) -> Any:
        """Write parameters once."""

    def log_metrics(self, metrics: dict[str, float]) -> Any:
        """Write numbers."""

    def set_tags(self, tags: dict[str, str]) -> Any:
        """Write tags."""


def log_certificate(document: Data, tracker: Tracker) -> None:
    """Write verdicts, effect sizes and provenance of a certificate.

    Raises:
        DataError: two keys become one, or a value cannot be written whole.
    """
    params, metrics, tags = mlflow_entries(document)
    tracker.set_tags(tags)
    for part in _batches(params, MOST_PARAMS):
        tracker.log_params(dict(part))
    for numbers in _batches(metrics, MOST_METRICS):
        tracker.log_metrics(dict(numbers))


def mlflow_entries(document: Data) -> tuple[dict[str, str], dict[str, float], dict[str, str]]:
    """Return parameters, metrics and tags; errors as `log_certificate`."""
    params: dict[str, str] = {}
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    for key, value in _params(document):
        _put(params, key, _short(key, value, MOST_PARAM))
    for key, number in _metrics(document):
        if isinstance(number, bool) or not math.isfinite(number):
            raise DataError(f"metric '{key}' is {number!r}; only finite numbers are written")
        _put(metrics, key, float(number))
    for key, value in _tags(document):
        _put(tags, key, _short(key, value, MOST_TAG))
    return params, metrics, tags


def mlflow_key(name: str) -> str:
    """Return a name as MLflow takes it.

    >>> mlflow_key("acc,none"), mlflow_key("pass@1"), mlflow_key("../a//b/")
    ('acc/none', 'pass_at_1', 'a/b')
    """
    text = name.replace(",", "/").replace("@", "_at_")
    text = re.sub(r"[^/\w.\- ]", "_", text, flags=re.ASCII)
    parts = [part for part in text.split("/") if part.strip(". ")]
    return "/".join(parts)[:MOST_KEY].rstrip("/") or "unnamed"


def _put(found: dict[str, Any], name: str, value: Any) -> None:
    key = mlflow_key(name)
    if key in found:
        raise DataError(f"two names become the MLflow key '{key}', the second is '{name}'; next step: rename one")
    found[key] = value


def _short(name: str, value: str, most: int) -> str:
    if len(value) > most:
        raise DataError(f"'{name}' has {len(value)} characters; MLflow takes {most} and would cut it without a word")
    return value


def _params(document: Data) -> Iterator[tuple[str, str]]:
    decision = document["decision"]
    yield "policy", str(decision["policy"])
    yield "policy_sha256", str(document["policy"]["sha256"])
    yield "evalkit", str(document["evalkit"])
    for name, run in document["runs"].items():
        engine = run["engine"]
        for key in ("model", "recipe", "fidelity", "dtype", "device", "adapter"):
            yield f"{name}/{key}", str(engine[key])[:MOST_PARAM]
        yield f"{name}/identity_sha256", str(run["identity_sha256"])


def _metrics(document: Data) -> Iterator[tuple[str, float]]:
    for run, found in document.get("comparisons", {}).items():
        for endpoint, comparison in found.items():
            effects = (comparison["proportion"] or {}).get("effects")
            if effects:
                for key in ("baseline_accuracy", "candidate_accuracy", "difference", "n"):
                    yield f"{run}/{endpoint}/{key}", effects[key]
                yield f"{run}/{endpoint}/flip_rate", effects["flips"]["rate"]
                if effects["interval"] is not None:
                    yield f"{run}/{endpoint}/difference_lower", effects["interval"]["lower"]
                    yield f"{run}/{endpoint}/difference_upper", effects["interval"]["upper"]
            mean = (comparison["rating"] or {}).get("mean")
            if mean and mean["difference"] is not None:
                yield f"{run}/{endpoint}/rating_difference", mean["difference"]
    for verdict in document["decision"].get("verdicts", ()):
        yield f"{verdict['recipe']}/p", verdict["p"]
        yield f"{verdict['recipe']}/holm_p", verdict["holm_p"]


def _tags(document: Data) -> Iterator[tuple[str, str]]:
    decision = document["decision"]
    verdicts = [decision] if document.get("kind") == "unpaired" else decision["verdicts"]
    for verdict in verdicts:
        yield f"verdict/{verdict['recipe']}", str(verdict["outcome"])
    if document.get("title"):
        yield "title", str(document["title"])[:MOST_TAG]


def _batches(found: Mapping[str, Any], most: int) -> Iterator[list[tuple[str, Any]]]:
    entries = list(found.items())
    for at in range(0, len(entries), most):
        yield entries[at : at + most]
