"""Three requests in ten are broken on the way; what arrives is right, and what does not is a failure by name."""

from __future__ import annotations

from collections import Counter

import pytest

from evalkit.adapters.base import Failure, GenerateRequest, Generation, Message, ScoreReply, ScoreRequest
from evalkit.benchmarks import Marking
from evalkit.benchmarks.benchmark import item_set_sha256
from evalkit.collect import collect
from evalkit.records import ChoiceReply, Item, Manifest, TaskRun, text_digest
from evalkit.store import RunFolder, read_run

LETTERS = (" A", " B", " C", " D")
COUNT = 60


@pytest.fixture(params=["echo", "next-token"])
def broken(request, doubles, serve, connect):
    """An engine behind the proxy, the double behind it, and the proxy."""
    server = serve(doubles.vllm(most=400, echo="scored" if request.param == "echo" else "ignored"))
    with doubles.Proxy(server.url) as proxy:
        engine = connect(proxy.url, retries=12, top_logprobs=400, check_every=16)
        assert engine.identity.options["scoring"] == request.param
        yield engine, server, proxy


def numbers(server, context):
    found = server.brain.next(server.brain.encode(context))
    return [float(found[server.brain.encode(letter, False)[0]]) for letter in LETTERS]


class Letters:
    """Sixty items with one right letter each."""

    task, samples = "letters", 1

    def __init__(self):
        self.items = tuple(
            Item(
                task="letters",
                subject="sums",
                item_sha256=text_digest(str(n)),
                occurrence=0,
                prompt_sha256=text_digest(f"p{n}"),
                target_sha256=text_digest("t"),
                doc={"n": n},
                context=f"Question: {n}\n\nAnswer:",
                continuations=LETTERS,
                target=n % 4,
            )
            for n in range(COUNT)
        )
        self.task_run = TaskRun(
            definition_sha256="d" * 64,
            kind="choice",
            protocol="p",
            shots=0,
            metric="acc",
            chance=0.25,
            planned=COUNT,
            item_set_sha256=item_set_sha256(self.items),
            prompts_sha256="f" * 64,
            dataset={},
        )

    def mark(self, item, reply):
        return Marking(marks={"acc": float(max(range(4), key=reply.logprobs.__getitem__) == item.target)})


def test_a_run_is_completed_with_at_most_the_failed_items_missing(broken, tmp_path):
    engine, server, proxy = broken
    benchmark = Letters()
    manifest = Manifest(
        evalkit="0", engine=engine.identity, tasks={"letters": benchmark.task_run}, created_at="2020-01-01T00:00:00Z"
    )
    with RunFolder.create_or_resume(tmp_path / "run", manifest) as folder:
        (count,) = collect(folder, engine, [benchmark], progress=False)
    records = {record.item_sha256: record for record in read_run(tmp_path / "run").records["letters"]}
    assert len(records) == count.written == COUNT
    failed = [record.failure.split(":")[0] for record in records.values() if record.status == "failed"]
    assert count.failed == len(failed) < COUNT // 2
    assert set(failed) <= {"transport", "refused"}
    for item in benchmark.items:
        reply = records[item.item_sha256].reply
        if reply is not None:
            assert isinstance(reply, ChoiceReply)
            assert reply.logprobs == pytest.approx(numbers(server, item.context), abs=1e-9)
    assert {"reset", "garbage", "empty", "storm", "error", "silence", "refusal"} <= proxy.done.keys()
    assert proxy.done["none"] < 0.8 * sum(proxy.done.values())

    with RunFolder.create_or_resume(tmp_path / "run", manifest) as folder:
        (again,) = collect(folder, engine, [benchmark], retry_failed=True, progress=False)
    assert again.written == len(failed)
    assert again.failed <= len(failed)


def test_answers_are_whole_or_failures(broken):
    engine, server, _ = broken
    prompts = [f"Count on: one, two, three, {n}" for n in range(24)]
    requests = [GenerateRequest(prompt=prompt, max_tokens=6) for prompt in prompts]
    requests += [GenerateRequest(prompt=(Message(role="user", content=prompt),), max_tokens=6) for prompt in prompts]
    found = dict(engine.generate(requests))
    assert sorted(found) == list(range(len(requests)))
    kinds = Counter(reply.kind for reply in found.values() if isinstance(reply, Failure))
    assert set(kinds) <= {"transport", "refused"}
    assert sum(kinds.values()) < len(requests) // 2
    for index, request in enumerate(requests):
        if isinstance(found[index], Generation):
            body = {"model": "toy", "temperature": 0, "max_tokens": 6}
            if isinstance(request.prompt, str):
                reply = server.answer("POST", "/v1/completions", {**body, "prompt": request.prompt})
                assert found[index].text == reply["choices"][0]["text"]
            else:
                messages = [{"role": "user", "content": request.prompt[0].content}]
                reply = server.answer("POST", "/v1/chat/completions", {**body, "messages": messages})
                assert found[index].text == reply["choices"][0]["message"]["content"]


def test_a_server_that_only_fails_is_given_up_after_the_retries(doubles, serve, connect):
    server = serve(doubles.vllm())
    engine = connect(server.url, retries=2)
    with doubles.Proxy(server.url, share=1.0, faults=("error",)) as proxy:
        engine._served.asker.transport._exchange.base_url = proxy.url
        reply = engine._scorer.score(ScoreRequest(context="The sky is", continuations=(" hot", " cold")))
        assert (reply.kind, "HTTP 500" in reply.message, "(after 3 tries)" in reply.message) == (
            "transport",
            True,
            True,
        )
    assert not isinstance(reply, ScoreReply)
