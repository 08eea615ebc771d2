"""The contract goes red where numbers depend on neighbours: faults planted in a sound engine, the real small model."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from evalkit.adapters.causal import attention as flat
from evalkit.adapters.causal import plan

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

real_models = pytest.mark.parametrize("engine", ["hf", "modelopt"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def contract() -> ModuleType:
    return importlib.import_module("contract.test_engine_contract")


@real_models
def test_a_mask_that_leaks_one_position_is_seen(engine, rounding, contract, monkeypatch):
    """Each token sees the next place of its batch too: for the last of a short row, that is another row's token."""
    sound = flat._seen

    def leaking(branch):
        seen = sound(branch)
        rows, places = np.arange(seen.shape[1] - 1), np.arange(1, seen.shape[1])
        seen[:, rows, places] |= branch[:, places] == -1
        return seen

    monkeypatch.setattr(flat, "_seen", leaking)
    with pytest.raises(AssertionError):
        contract.test_scores_do_not_depend_on_order_or_company(engine, rounding)


@real_models
def test_a_mask_that_shows_one_token_of_another_continuation_is_seen(engine, rounding, contract, monkeypatch):
    sound = flat._seen

    def leaking(branch):
        seen = sound(branch)
        places = np.arange(1, seen.shape[1])
        seen[:, places, places - 1] |= branch[:, places] > 1
        return seen

    monkeypatch.setattr(flat, "_seen", leaking)
    with pytest.raises(AssertionError):
        contract.test_a_continuation_does_not_depend_on_the_others_of_its_request(engine, rounding)


@real_models
def test_a_wrong_position_is_seen(engine, rounding, contract, monkeypatch):
    """Positions of a continuation begin where the one before ended, instead of after the context."""
    sound = plan.make_row

    def counting_on(request, prefix_length):
        row = sound(request, prefix_length)
        object.__setattr__(row, "positions", (prefix_length + np.arange(len(row.tokens))).astype(np.int32))
        return row

    monkeypatch.setattr(plan, "make_row", counting_on)
    with pytest.raises(AssertionError):
        contract.test_a_continuation_does_not_depend_on_the_others_of_its_request(engine, rounding)


@real_models
def test_without_a_fault_nothing_is_seen(engine, rounding, contract):
    assert engine._scorer.path == "flat", "the faults are planted there"
    contract.test_scores_do_not_depend_on_order_or_company(engine, rounding)
    contract.test_a_continuation_does_not_depend_on_the_others_of_its_request(engine, rounding)
