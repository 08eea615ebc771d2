from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import false_discovery_control
from statsmodels.stats.multitest import multipletests

from evalkit.errors import EstimateError
from evalkit.statistics.multiplicity import benjamini_hochberg, bonferroni, holm


@pytest.mark.parametrize(
    ("ours", "theirs"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh"), (bonferroni, "bonferroni")]
)
def test_corrections_agree_with_statsmodels(ours, theirs):
    p = np.random.default_rng(2).random(40) ** 3
    reject, adjusted, _, _ = multipletests(p, alpha=0.05, method=theirs)
    result = ours(p, 0.05)
    assert result.reject == tuple(reject)
    assert result.adjusted == pytest.approx(adjusted, abs=1e-12)


def test_benjamini_hochberg_agrees_with_scipy():
    p = np.random.default_rng(3).random(57)
    assert benjamini_hochberg(p).adjusted == pytest.approx(false_discovery_control(p), abs=1e-12)


def test_equality_does_not_reject_under_holm():
    assert holm([0.05]).reject == (False,)
    assert holm([0.0125, 0.5, 0.5, 0.5]).reject == (False, False, False, False)
    assert holm([np.nextafter(0.05, 0.0)]).reject == (True,)


def test_one_hypothesis_is_not_corrected():
    for method in (holm, benjamini_hochberg, bonferroni):
        assert method([0.03], 0.05).adjusted == (0.03,)


def test_an_abandoned_recipe_stays_in_the_family():
    assert holm([0.03, 1.0], 0.05).reject == (False, False)


@pytest.mark.parametrize("p", [[], [1.1], [-0.1], [float("nan"), 0.1], [[0.1]]])
@pytest.mark.parametrize("method", [holm, benjamini_hochberg, bonferroni])
def test_what_is_no_p_value_is_refused(method, p):
    with pytest.raises(EstimateError, match="p"):
        method(p)
