from __future__ import annotations

import math

import pytest

from evalkit.errors import DataError
from evalkit.records import Judgment, judged_task, judging_name


def test_a_line_is_read_back_as_it_was(made):
    for judgment in (made.judgment(), made.judgment(status="unparsed", score=None), made.judgment(status="rule")):
        assert Judgment.from_json(judgment.to_json()) == judgment


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"status": "perhaps"}, "unknown status 'perhaps'"),
        ({"score": None}, "status 'ok' with score None"),
        ({"status": "refused"}, "status 'refused' with score 7.5"),
        ({"score": math.nan}, "non-finite score"),
    ],
)
def test_a_rating_is_there_exactly_when_the_judge_gave_one(made, changes, fault):
    with pytest.raises(DataError, match=fault):
        made.judgment(**changes)


def test_the_name_of_a_judging_gives_its_task_back():
    for task, by in (("mt-bench", None), ("mt-bench", "second")):
        assert judged_task(judging_name(task, by)) == task
