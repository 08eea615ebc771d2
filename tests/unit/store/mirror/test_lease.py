from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from evalkit.errors import StoreError
from evalkit.store.mirror.lease import LeaseLostError, newest, take


@pytest.fixture
def remote(opened):
    return opened.remote()


def held(remote, ticking, **options):
    return take(remote, clock=ticking.clock(), **options)[0]


def test_a_folder_is_taken_released_and_taken_again(remote, ticking):
    first, before = take(remote, clock=ticking.clock())
    assert (first.claim.epoch, before) == (1, None)
    first.release()
    second, before = take(remote, clock=ticking.clock())
    assert (second.claim.epoch, before) == (2, first.claim.id)
    assert ticking.time == 1000.0, "a released lease is not waited for"
    assert list(remote.find(".evalkit-lease")) == [".evalkit-lease/00000002.json"]


def test_a_living_holder_is_named_and_left_alone(remote, ticking, bucket):
    first = held(remote, ticking)
    beats = iter(range(1000))

    def sleep(seconds):
        ticking.time += seconds
        if next(beats) == 9:
            first.renew()

    with pytest.raises(StoreError, match=rf"process {first.claim.pid} on host {first.claim.host} is writing"):
        take(remote, clock=replace(ticking.clock(), sleep=sleep))
    first.renew()


def test_a_holder_that_stays_silent_is_outlived(remote, ticking):
    first = held(remote, ticking, ttl_s=60.0)
    said = []
    second, before = take(remote, clock=ticking.clock(), say=said.append)
    assert before == first.claim.id
    assert 60 <= ticking.time - 1000 < 63
    assert "waiting up to 60 s" in said[0]
    assert "is dead" in said[1]
    for call in (first.renew, first.release):
        with pytest.raises(LeaseLostError, match="has taken this folder over"):
            call()
    second.renew()


def test_a_holder_that_is_known_to_be_dead_is_not_waited_for(remote, ticking):
    first = held(remote, ticking)
    held(remote, ticking, dead=first.claim.id)
    assert ticking.time == 1000.0


def test_a_claim_that_a_crash_cut_off_is_outlived(remote, ticking):
    remote.put(".evalkit-lease/00000004.json", b'{"epoch": 4, "id"')
    assert held(remote, ticking).claim.epoch == 5


def test_a_holder_looks_before_it_sends_once_it_may_have_been_outlived(remote, ticking, bucket):
    lease = held(remote, ticking)
    before = bucket.count
    lease.ensure()
    assert bucket.count == before
    ticking.sleep(61)
    lease.ensure()
    assert newest(remote).beat == 1


@pytest.mark.parametrize("inner_first", [True, False])
def test_a_folder_around_a_held_one_or_inside_it_is_held_too(remote, ticking, inner_first):
    inner = remote.inside("fp8")
    first, second = (inner, remote) if inner_first else (remote, inner)
    lease = held(first, ticking)

    def sleep(seconds):
        ticking.time += seconds
        lease.renew()

    with pytest.raises(StoreError, match=rf"{first.url}: process"):
        take(second, clock=replace(ticking.clock(), sleep=sleep))
    assert newest(second).released
    lease.renew()


@pytest.mark.parametrize("inner_first", [True, False])
def test_a_dead_neighbour_is_fenced_off(remote, ticking, inner_first):
    inner = remote.inside("fp8")
    first, second = (inner, remote) if inner_first else (remote, inner)
    dead = held(first, ticking)
    living = held(second, ticking)
    with pytest.raises(LeaseLostError):
        dead.renew()
    living.renew()


def test_one_of_many_that_come_at_once_wins(remote, ticking, bucket):
    real, won, refused = threading.Lock(), [], []
    ask = bucket.asked

    def one_at_a_time(what, work):
        with real:
            return ask(what, work)

    bucket.asked = one_at_a_time

    def sleep(seconds):
        for lease in list(won):
            lease.renew()

    def come():
        try:
            won.append(take(remote, clock=replace(ticking.clock(), sleep=sleep))[0])
        except StoreError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=come) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=600)
    assert (len(won), len(refused)) == (1, 5)
