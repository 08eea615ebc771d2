from __future__ import annotations

import math

import pytest

from evalkit.errors import DataError
from evalkit.records import ChoiceReply


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_no_reply(bad):
    with pytest.raises(DataError, match="record a failure, never a score"):
        ChoiceReply(logprobs=(-1.0, bad), greedy=(True, False), target=0, lengths=(1, 1))
