"""Published and doubly computed values for every formula; each case of the file names its source."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalkit.statistics.agreement import rogan_gladen
from evalkit.statistics.clusters import bootstrap_mean_interval
from evalkit.statistics.multiplicity import benjamini_hochberg, bonferroni, holm
from evalkit.statistics.normal_mixture import best_rho, log_mixture, mixture_bound
from evalkit.statistics.paired_means import tost_paired
from evalkit.statistics.paired_proportions import (
    PairedTable,
    mcnemar,
    newcombe_interval,
    tango_interval,
    tango_noninferiority,
    wald_interval,
)
from evalkit.statistics.sample_size import (
    miller_minimum_detectable_effect,
    miller_sample_size,
    miller_variance,
    unpaired_drop_rule,
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


def paired_tost(inputs):
    differences = np.subtract(inputs["candidate"], inputs["baseline"])
    result = tost_paired(differences, inputs["margin"], inputs["alpha"])
    return {"mean_difference": result.mean_difference, "se": result.se, "p": result.p, **limits(result.interval)}


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


def variance(inputs):
    return miller_variance(*(inputs[name] for name in ("omega2", "sigma2_a", "sigma2_b", "k_a", "k_b")))


def sample_size(inputs):
    rates = {"alpha_two_sided": inputs["alpha_two_sided"], "power": inputs["power"]}
    exact = miller_sample_size(inputs["delta"], variance(inputs), **rates)
    return {"n_exact": exact, "n": math.ceil(exact)}


def detectable_effect(inputs):
    rates = {"alpha_two_sided": inputs["alpha_two_sided"], "power": inputs["power"]}
    return {"mde": miller_minimum_detectable_effect(inputs["n"], variance(inputs), **rates)}


def drop_rule(inputs):
    rule = unpaired_drop_rule(**inputs)
    return {"theta": rule.theta, "threshold_offset": rule.threshold_offset}


def corrected_prevalence(inputs):
    arguments = {name: inputs[name] for name in ("positives", "n", "sensitivity", "specificity")}
    return rogan_gladen(**arguments, level=inputs.get("level", 0.95))


METHODS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "tango_ci": lambda i: limits(tango_interval(table(i), i["level"])),
    "tango_noninferiority": noninferiority,
    "newcombe_method8_ci": lambda i: limits(newcombe_interval(table(i), i["level"], method=8)),
    "newcombe_method10_ci": lambda i: limits(newcombe_interval(table(i), i["level"], method=10)),
    "mcnemar": lambda i: vars(mcnemar(i["n10"], i["n01"])),
    "paired_difference_wald": wald,
    "paired_tost": paired_tost,
    "holm": holm_case,
    "benjamini_hochberg": benjamini_hochberg_case,
    "bootstrap_mean_ci": bootstrap_case,
    "miller_sample_size": sample_size,
    "miller_mde": detectable_effect,
    "trtllm_accuracy_hypothesis": drop_rule,
    "normal_mixture_best_rho": lambda i: {"rho": best_rho(i["v_opt"], i["alpha_opt"])},
    "normal_mixture_log_supermartingale": lambda i: {"log_value": log_mixture(i["s"], i["v"], i["rho"])},
    "normal_mixture_bound": lambda i: {"bound": mixture_bound(i["v"], i["rho"], i["alpha"])},
    "rogan_gladen": lambda i: {"estimate": corrected_prevalence(i).estimate},
    "rogan_gladen_ci_wilson": lambda i: limits(corrected_prevalence(i).wilson),
    "rogan_gladen_ci_normal": lambda i: limits(corrected_prevalence(i).normal),
}


def test_every_case_names_its_source_and_every_method_has_a_case():
    assert len(CASES) >= 34
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
