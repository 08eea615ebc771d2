"""The dispatcher: every request answered exactly once, whatever replicas do; who did what is counted and named."""

from __future__ import annotations

import contextlib
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.adapters.base import Failure, ScoreReply, width_of
from evalkit.cluster.fleet import RateLimit
from evalkit.cluster.transport import Lost, Trouble
from evalkit.errors import EngineError, InterruptedRunError, UsageError


def ask(fleet, kit, count):
    requests = [kit.request(number) for number in range(count)]
    return requests, list(fleet.score(requests))


def once(requests, replies, kit, given_up=()):
    assert sorted(index for index, _ in replies) == list(range(len(requests)))
    for index, reply in replies:
        if index in given_up:
            assert isinstance(reply, Failure)
        else:
            assert reply == kit.right(requests[index])


def accident(message="it broke"):
    return Trouble(kind="RuntimeError", message=message, on_purpose=False)


def test_replies_of_all_replicas_are_those_of_one_engine(kit):
    transport = kit.transport()
    fleet = kit.fleet(transport, replicas=3, shard=8)
    requests, replies = ask(fleet, kit, 100)
    once(requests, replies, kit)
    assert fleet.identity == kit.identity()
    assert fleet.warnings == ()
    assert {replica for replica, _, _ in transport.sent} == {0, 1, 2}
    assert transport.most_in_flight == 2
    fleet.close()
    assert transport.closed


def test_a_replica_has_at_most_two_shards_and_only_while_there_is_work_for_all(kit):
    transport = kit.transport()
    fleet = kit.fleet(transport, replicas=4, shard=32)
    ask(fleet, kit, 16)
    sizes = Counter(replica for replica, _, _ in transport.sent)
    assert set(sizes) == {0, 1, 2, 3}
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_work_begins_with_the_first_replica_and_goes_on_with_late_ones(kit):
    class Late(kit.transport):
        def start(self, replica):
            self.load_s = 10.0 if replica == 0 else 40.0
            super().start(replica)

    transport = Late(item_s=1.0)
    fleet = kit.fleet(transport, replicas=2, shard=4)
    assert transport.time == 10.0
    requests, replies = ask(fleet, kit, 100)
    once(requests, replies, kit)
    late = [sent for sent in transport.sent if sent[0] == 1]
    assert 0 < len(late) < len(transport.sent) / 2


@pytest.mark.parametrize("cause", ["crash", "out-of-memory", "node", "hang"])
def test_a_shard_of_a_lost_replica_is_done_by_another(kit, cause):
    def answer(replica, start, requests):
        return kit.fault(cause, after=2) if (replica, start) == (0, 1) else [kit.right(one) for one in requests]

    said = []
    transport = kit.transport(answer)
    fleet = kit.fleet(transport, shard=8, timeout_s=60.0, say=said.append)
    requests, replies = ask(fleet, kit, 200)
    once(requests, replies, kit)
    assert fleet.warnings == (f"replica 0 on node 0 was lost and its work was done again: {cause} 1 time(s)",)
    assert transport.starts == {0: 2, 1: 1}
    assert any(cause in line and "started anew, 1 of 8" in line for line in said)


@pytest.mark.parametrize("poison", [{13}, {0, 1, 55}])
def test_an_item_that_kills_replicas_stands_alone_in_the_end_and_is_a_failure(kit, poison):
    def answer(replica, start, requests):
        deadly = any(int(one.context) in poison for one in requests)
        return kit.fault("crash") if deadly else [kit.right(one) for one in requests]

    transport = kit.transport(answer)
    fleet = kit.fleet(transport, replicas=3, shard=32, restarts=12)
    requests, replies = ask(fleet, kit, 96)
    once(requests, replies, kit, poison)
    failures = [reply for index, reply in replies if index in poison]
    assert {failure.kind for failure in failures} == {"engine"}
    assert {failure.message for failure in failures} == {
        "2 replicas were lost while this item alone was at work: crash, crash"
    }
    assert f"{len(poison)} request(s) were given up, each of which alone had cost 2 replicas" in fleet.warnings
    assert sum(transport.starts.values()) - 3 <= 12


def test_losing_nodes_is_no_item_s_fault(kit):
    def answer(replica, start, requests):
        return kit.fault("node", after=1) if start <= 2 else [kit.right(one) for one in requests]

    requests, replies = ask(kit.fleet(kit.transport(answer), replicas=2, shard=1), kit, 12)
    once(requests, replies, kit)


def test_a_replica_that_dies_at_every_tenth_request_loses_its_restarts_and_the_others_finish(kit):
    seen = Counter()

    def answer(replica, start, requests):
        seen[replica, start] += len(requests)
        return kit.fault("crash") if replica == 1 and seen[1, start] >= 10 else [kit.right(one) for one in requests]

    transport = kit.transport(answer)
    fleet = kit.fleet(transport, replicas=3, shard=4, restarts=3)
    requests, replies = ask(fleet, kit, 400)
    once(requests, replies, kit)
    assert transport.starts == {0: 1, 1: 4, 2: 1}
    assert "replica 1 on node 1 was lost and its work was done again: crash 4 time(s)" in fleet.warnings
    assert "2/3 replicas" in fleet.status
    assert "1 gone" in fleet.status


def test_when_no_replica_is_left_the_error_says_why_and_what_was_answered_was_passed_on(kit):
    def answer(replica, start, requests):
        return kit.fault("crash") if int(requests[0].context) >= 8 else [kit.right(one) for one in requests]

    fleet = kit.fleet(kit.transport(answer), replicas=2, shard=4, restarts=1)
    found = []
    with pytest.raises(EngineError, match=r"no replica is left after 1 of 1 restarts") as caught:
        found.extend(index for index, _ in fleet.score([kit.request(number) for number in range(40)]))
    assert "replica 0 on node 0: crash: it is gone; all 1 restarts are used up" in str(caught.value)
    assert "the same command, which resumes" in str(caught.value)


def test_a_number_that_is_not_finite_is_asked_of_another_replica(kit):
    def answer(replica, start, requests):
        replies = [kit.right(one) for one in requests]
        return [nan(reply) if replica == 1 else reply for reply in replies]

    def nan(reply):
        return ScoreReply(logprobs=(math.nan, -1.0), greedy=reply.greedy, tokens=reply.tokens)

    said = []
    transport = kit.transport(answer)
    fleet = kit.fleet(transport, replicas=3, shard=4, say=said.append)
    requests, replies = ask(fleet, kit, 80)
    once(requests, replies, kit)
    assert any("replica 1 on node 1 gave" in line and "not finite" in line for line in fleet.warnings)
    assert any("replica 1 on node 1 removed from rotation" in line for line in said)
    before = len(transport.sent)
    once(*ask(fleet, kit, 40), kit)
    assert {replica for replica, _, _ in transport.sent[before:]} == {0, 2}


def test_a_number_that_is_not_finite_anywhere_is_the_model_s_own(kit):
    bad = Failure(kind="non-finite", message="NaN")

    def answer(replica, start, requests):
        return [bad if one.context == "5" else kit.right(one) for one in requests]

    fleet = kit.fleet(kit.transport(answer), replicas=2, shard=4)
    assert dict(ask(fleet, kit, 20)[1])[5] == bad
    assert fleet.warnings == ()
    alone = kit.fleet(kit.transport(answer), replicas=1)
    assert dict(ask(alone, kit, 20)[1])[5] == bad


def test_replicas_that_are_another_engine_get_no_work_and_the_field_is_named(kit):
    def load(replica, start):
        return kit.identity(device="H100") if replica == 1 else kit.identity()

    said = []
    transport = kit.transport(load=load)
    fleet = kit.fleet(transport, replicas=3, shard=4, say=said.append)
    once(*ask(fleet, kit, 60), kit)
    assert {replica for replica, _, _ in transport.sent} == {0, 2}
    (warning,) = fleet.warnings
    assert warning.startswith("replica 1 on node 1 was refused")
    assert "device: 'none' and 'H100'" in warning
    assert any("device: 'none' and 'H100'" in line for line in said)


def test_an_identity_that_was_a_tuple_elsewhere_is_the_same(kit):
    def load(replica, start):
        return kit.identity(options={"stop": ("a", "b") if replica else ["a", "b"]})

    transport = kit.transport(load=load)
    once(*ask(kit.fleet(transport, shard=4), kit, 40), kit)
    assert {replica for replica, _, _ in transport.sent} == {0, 1}


def test_an_engine_that_raises_by_accident_is_started_anew_and_keeps_what_it_answered(kit):
    def answer(replica, start, requests):
        broken = replica == 0 and start == 1
        return kit.fault("raise", after=3, trouble=accident()) if broken else [kit.right(one) for one in requests]

    transport = kit.transport(answer)
    fleet = kit.fleet(transport, shard=8)
    once(*ask(fleet, kit, 64), kit)
    assert transport.starts[0] == 2
    contexts = [context for _, _, sent in transport.sent for context in sent]
    repeated = {context for context, times in Counter(contexts).items() if times > 1}
    assert not repeated & set(next(sent for replica, start, sent in transport.sent if replica == 0)[:3])


def test_what_an_ended_replica_said_at_the_same_moment_is_no_news(kit):
    class Chatty(kit.transport):
        """Tells of a death twice."""

        def wait(self, timeout_s):
            found = super().wait(timeout_s)
            return [news for one in found for news in ([one, one] if isinstance(one, Lost) else [one])]

    def answer(replica, start, requests):
        return kit.fault("crash") if (replica, start) == (0, 1) else [kit.right(one) for one in requests]

    transport = Chatty(answer)
    fleet = kit.fleet(transport, shard=4)
    once(*ask(fleet, kit, 40), kit)
    assert transport.starts == {0: 2, 1: 1}
    assert "crash 1 time(s)" in fleet.warnings[0]


def test_an_engine_that_stops_on_purpose_stays_stopped(kit):
    trouble = Trouble(kind="EngineError", message="the budget is spent", on_purpose=True)

    def answer(replica, start, requests):
        return kit.fault("raise", after=1, trouble=trouble) if replica == 0 else [kit.right(one) for one in requests]

    transport = kit.transport(answer)
    once(*ask(kit.fleet(transport, shard=4), kit, 40), kit)
    assert transport.starts == {0: 1, 1: 1}
    alone = kit.fleet(kit.transport(answer), replicas=1, shard=4)
    with pytest.raises(EngineError, match="the budget is spent"):
        ask(alone, kit, 40)


def test_a_wrong_request_is_an_error_at_once(kit):
    trouble = Trouble(kind="ConfigError", message="unknown option 'x'", on_purpose=True)
    with pytest.raises(UsageError, match="replica 0 on node 0: unknown option 'x'"):
        kit.fleet(kit.transport(load=lambda replica, start: trouble))

    def answer(replica, start, requests):
        return kit.fault("raise", trouble=Trouble(kind="UsageError", message="no chat template", on_purpose=True))

    with pytest.raises(UsageError, match="no chat template"):
        ask(kit.fleet(kit.transport(answer)), kit, 4)


def test_a_replica_that_cannot_be_loaded_is_tried_twice_and_the_others_work(kit):
    def load(replica, start):
        return accident("CUDA error") if replica == 0 else kit.identity()

    transport = kit.transport(load=load)
    once(*ask(kit.fleet(transport, shard=4), kit, 40), kit)
    assert transport.starts == {0: 2, 1: 1}
    with pytest.raises(EngineError, match="it could not be loaded: CUDA error"):
        kit.fleet(kit.transport(load=lambda replica, start: accident("CUDA error")))


@pytest.mark.parametrize(
    "wrong", [lambda replies: replies[:-1], lambda replies: [*replies, replies[0]]], ids=["left out", "one too many"]
)
def test_an_engine_that_breaks_the_contract_is_not_believed(kit, wrong):
    def answer(replica, start, requests):
        replies = [kit.right(one) for one in requests]
        return wrong(replies) if (replica, start) == (0, 1) else replies

    once(*ask(kit.fleet(kit.transport(answer), shard=4), kit, 40), kit)


def test_whoever_stops_asking_can_ask_again_and_gets_no_stale_reply(kit):
    fleet = kit.fleet(kit.transport(), replicas=2, shard=4)
    stream = fleet.score([kit.request(number) for number in range(100)])
    next(stream)
    stream.close()
    requests = [kit.request(number) for number in range(500, 540)]
    once(requests, list(fleet.score(requests)), kit)


def test_stopping_is_heard_while_waiting(kit):
    stopping = []
    fleet = kit.fleet(kit.transport(), stopped=lambda: bool(stopping))
    stream = fleet.score([kit.request(number) for number in range(100)])
    next(stream)
    stopping.append(True)
    with pytest.raises(InterruptedRunError, match="the same command resumes"):
        list(stream)
    with pytest.raises(InterruptedRunError):
        kit.fleet(kit.transport(load=lambda replica, start: None), stopped=lambda: True)


def test_while_nobody_can_work_it_is_said_once_a_minute(kit):
    said = []

    class Never(kit.transport):
        def wait(self, timeout_s):
            if self.time > 130:
                raise KeyboardInterrupt
            return super().wait(timeout_s)

    with pytest.raises(KeyboardInterrupt):
        kit.fleet(Never(load=lambda replica, start: None), say=said.append)
    assert said == ["e: no replica is ready yet (2 loading); pending ones wait for a node with room"] * 2


def test_a_closed_fleet_refuses_work(kit):
    fleet = kit.fleet(kit.transport())
    fleet.close()
    fleet.close()
    with pytest.raises(EngineError, match="was closed"):
        ask(fleet, kit, 1)


def test_one_limit_holds_for_all_fleets_together(kit):
    limit = RateLimit(60.0)
    transport = kit.transport(item_s=0.0, load_s=0.0)
    fleet = kit.fleet(transport, replicas=4, limit=limit)
    begun = transport.time
    once(*ask(fleet, kit, 60), kit)
    assert 50.0 <= transport.time - begun <= 62.0
    assert {len(sent) for _, _, sent in transport.sent} <= {1, 2, 3, 4, 5}


def test_a_fleet_says_how_wide_it_is(kit):
    assert width_of(kit.fleet(kit.transport(), replicas=3, shard=16)) == 48


@given(seed=st.integers(min_value=0, max_value=2**32), replicas=st.integers(1, 5), shard=st.integers(1, 12))
@settings(deadline=None, max_examples=150)
def test_every_request_is_answered_exactly_once_under_random_faults(kit, seed, replicas, shard):
    dice = random.Random(seed)
    poison = {number for number in range(60) if dice.random() < 0.03}
    faulty = {replica for replica in range(replicas) if dice.random() < 0.3}
    chance = dice.choice([0.0, 0.05, 0.2])

    def answer(replica, start, requests):
        if any(int(one.context) in poison for one in requests):
            return kit.fault(dice.choice(["crash", "hang", "out-of-memory"]))
        if dice.random() < chance:
            return kit.fault("node", after=dice.randrange(2))
        if replica in faulty and dice.random() < 0.3:
            return [Failure(kind="non-finite", message="x") for one in requests]
        return [kit.right(one) for one in requests]

    transport = kit.transport(answer)
    fleet = kit.fleet(transport, replicas=replicas, shard=shard, restarts=400, timeout_s=100.0)
    requests = [kit.request(number) for number in range(60)]
    got: dict[int, object] = {}
    with contextlib.suppress(EngineError):
        for index, reply in fleet.score(requests):
            assert index not in got
            got[index] = reply
    assert sorted(got) == list(range(60)) or "gone" in fleet.status
    assert transport.most_in_flight <= 2
    for index, reply in got.items():
        if index not in poison and not (isinstance(reply, Failure) and reply.kind == "non-finite"):
            assert reply == kit.right(requests[index])
        elif index in poison:
            assert isinstance(reply, Failure)
