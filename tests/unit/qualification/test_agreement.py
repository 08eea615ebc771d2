"""Agreement as the paper counts it, on the published votes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalkit.errors import DataError, UsageError
from evalkit.qualification import agreement, between_people, read_votes
from evalkit.qualification.agreement import chosen_pairs, judge_votes, make_vote, pair_name, replayed_agreement
from evalkit.records.record import Probe, ProbeRow

VOTES = Path(__file__).resolve().parents[4] / "shared" / "data" / "mt_bench_votes"
published = pytest.mark.skipif(not VOTES.is_dir(), reason="the published votes are not at hand")


def vote(question=1, turn=1, models=("a", "b"), winner="model_a", judge="expert_1"):
    return make_vote(question, turn, models, winner, judge, "here")


@published
@pytest.mark.parametrize(
    ("turn", "judge", "judge_sure", "people", "people_sure"),
    [
        (1, (886, 1343, 66.0), (727, 859, 84.6), (454, 721, 63.0), (388, 479, 81.0)),
        (2, (871, 1325, 65.7), (731, 864, 84.6), (471, 707, 66.6), (388, 474, 81.9)),
    ],
)
def test_the_published_agreement_is_reproduced(turn, judge, judge_sure, people, people_sure):
    humans = [one for one in read_votes(VOTES / "human.jsonl") if one.turn == turn]
    gpt4 = [one for one in read_votes(VOTES / "gpt4_pair.jsonl") if one.turn == turn]
    for found, with_ties, without in (
        (agreement(gpt4, humans), judge, judge_sure),
        (between_people(humans), people, people_sure),
    ):
        assert (found.agreed, found.n, round(100 * found.rate, 1)) == with_ties
        sure = (found.agreed_without_ties, found.n_without_ties, round(100 * found.rate_without_ties, 1))
        assert sure == without
        assert found.interval is not None
        assert found.interval.lower < found.rate < found.interval.upper
        assert found.interval_without_ties is not None


@published
def test_counting_authors_too_would_give_other_numbers():
    humans = [one for one in read_votes(VOTES / "human.jsonl") if one.turn == 1]
    assert {one.by_expert for one in humans} == {True, False}
    experts = agreement(read_votes(VOTES / "gpt4_pair.jsonl"), humans)
    assert experts.n == agreement(read_votes(VOTES / "gpt4_pair.jsonl"), [one for one in humans if one.by_expert]).n


def test_names_are_sorted_and_the_winner_is_turned_with_them():
    assert vote(models=("a", "b"), winner="model_a").winner == "a"
    turned = vote(models=("b", "a"), winner="model_a")
    assert (turned.first, turned.second, turned.winner) == ("a", "b", "b")
    assert vote(models=("b", "a"), winner="tie (inconsistent)").winner == "tie"
    with pytest.raises(DataError, match="neither model_a"):
        vote(winner="both")


def test_every_vote_is_compared_and_no_majority_is_formed():
    humans = [vote(judge="expert_1"), vote(judge="expert_2", winner="model_b"), vote(judge="author_1")]
    found = agreement([vote(judge="gpt")], humans)
    assert (found.agreed, found.n) == (1, 2)
    assert (between_people(humans).agreed, between_people(humans).n) == (0, 1)
    assert found.interval is None  # one question


def test_ties_are_left_out_on_either_side():
    found = agreement([vote(1, winner="tie"), vote(2)], [vote(1), vote(2), vote(2, winner="tie", judge="expert_2")])
    assert (found.agreed, found.n, found.agreed_without_ties, found.n_without_ties) == (1, 3, 1, 1)


def test_a_file_that_holds_no_votes_is_named(tmp_path):
    with pytest.raises(UsageError, match="no such file of votes"):
        read_votes(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text(json.dumps({"question_id": 1}) + "\n")
    with pytest.raises(DataError, match=r"bad\.jsonl:1: not a vote"):
        read_votes(tmp_path / "bad.jsonl")


def rows(key, first, second):
    probe = {"question": "q", "turn": key[1], "kind": "vote", "name": pair_name(key)}
    return [
        ProbeRow(
            probe=Probe(order=order, **probe), key="k", status="ok" if score is not None else "refused", score=score
        )
        for order, score in ((0, first), (1, second))
    ]


@pytest.mark.parametrize(
    ("pairwise", "first", "second", "winner"),
    [
        (True, 1, 1, "a"),
        (True, -1, -1, "b"),
        (True, 1, -1, "tie"),
        (True, 1, 0, "tie"),
        (True, 0, 0, "tie"),
        (False, 7, 5, "a"),
        (False, 5, 7, "b"),
        (False, 7, 6.95, "tie"),
    ],
)
def test_a_judges_vote(pairwise, first, second, winner):
    key = (81, 1, "a", "b")
    (found,) = judge_votes(rows(key, first, second), [key], pairwise=pairwise)
    assert (found.winner, found.key) == (winner, key)


def test_a_pair_without_both_verdicts_has_no_vote_and_is_counted():
    keys = [(81, 1, "a", "b"), (82, 1, "a", "b")]
    people = [vote(81), vote(82)]
    found = replayed_agreement([*rows(keys[0], 1, 1), *rows(keys[1], 1, None)], keys, people, [], pairwise=True)
    assert (found["pairs"], found["without_verdict"], found["gpt4"]) == (2, 1, None)
    assert (found["judge"]["agreed"], found["judge"]["n"]) == (1, 1)


def test_pairs_are_chosen_by_digest_among_those_with_answers():
    people = [vote(number) for number in range(20)] + [vote(99, models=("a", "c"))]
    chosen = chosen_pairs(people, ["a", "b"], 5, 0)
    assert len(chosen) == 5
    assert chosen == chosen_pairs(people[::-1], ["b", "a"], 5, 0) != chosen_pairs(people, ["a", "b"], 5, 1)
    assert all(key[3] == "b" for key in chosen)
