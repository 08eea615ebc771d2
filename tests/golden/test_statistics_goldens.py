"""Published and doubly computed values for every formula; each case of the file names its source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalkit.statistics.clusters import bootstrap_mean_interval
from evalkit.statistics.multiplicity import benjamini_hochberg, bonferroni, holm
from evalkit.statistics.paired_proportions import (
    PairedTable,
    mcnemar,
    newcombe_interval,
    tango_interval,
    tango_noninferiority,
    wald_interval,
)

CASES = json.loads(Path(__file__).with_name("statistics_goldens.json").read_text(encoding="utf-8"))["cases"]


def table(inputs):
    return PairedTable(**{cell: inputs[cell] for cell in ("n11", "n10", "n01", "n00")})


def limits(interval):
    return {"lower": interval.lower, "upper": interval.upper}


def noninferiority(inputs):
    result = tango_noninferiority(table(inputs), inputs["margin"])
    return {"z": result.z, "p_one_sided": result.p_certify}


def wald(inputs):
    interval = wald_interval(table(inputs), inputs["level"])
    se = (interval.upper - interval.lower) / (2 * 1.959963984540054)
    return {"difference": table(inputs).difference, "se": se, **limits(interval)}


def holm_case(inputs):
    result = holm(inputs["p"], inputs["alpha"])
    return {"reject": list(result.reject), "adjusted": list(result.adjusted)}


def benjamini_hochberg_case(inputs):
    p, q = inputs["p"], inputs["q"]
    result = benjamini_hochberg(p, q)
    return {
        "n_rejected": sum(result.reject),
        "n_rejected_bonferroni": sum(bonferroni(p, q).reject),
        "n_rejected_holm": sum(holm(p, q).reject),
        "adjusted": list(result.adjusted),
    }


def bootstrap_case(inputs):
    result = {}
    for method in ("basic", "percentile", "bca"):
        interval = bootstrap_mean_interval(
            inputs["x"],
            np.random.default_rng(20240711),
            level=inputs["level"],
            method=method,
            resamples=inputs["n_resamples_min"],
        )
        result[method] = [interval.lower, interval.upper]
    return result


METHODS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "tango_ci": lambda i: limits(tango_interval(table(i), i["level"])),
    "tango_noninferiority": noninferiority,
    "newcombe_method8_ci": lambda i: limits(newcombe_interval(table(i), i["level"], method=8)),
    "newcombe_method10_ci": lambda i: limits(newcombe_interval(table(i), i["level"], method=10)),
    "mcnemar": lambda i: vars(mcnemar(i["n10"], i["n01"])),
    "paired_difference_wald": wald,
    "holm": holm_case,
    "benjamini_hochberg": benjamini_hochberg_case,
    "bootstrap_mean_ci": bootstrap_case,
}


def test_every_case_names_its_source_and_every_method_has_a_case():
    assert len(CASES) >= 21
    assert all(case["source"].startswith(("published: ", "computed: ")) for case in CASES)
    assert {case["method"] for case in CASES} == METHODS.keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_golden_case(case):
    got = METHODS[case["method"]](case["inputs"])
    assert set(case["expected"]) == set(case["tolerance"])
    for key, expected in case["expected"].items():
        tolerance = case["tolerance"][key]
        if tolerance.get("exact"):
            assert got[key] == expected, key
        else:
            ((kind, size),) = tolerance.items()
            allowed = {"abs": size, "rel": 0.0} if kind == "abs" else {"rel": size, "abs": 0.0}
            assert got[key] == pytest.approx(expected, **allowed), key
