from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from evalkit.adapters.base import Failure, Generation, ScoreReply
from evalkit.benchmarks import Decoding, Marking
from evalkit.benchmarks.benchmark import item_set_sha256
from evalkit.records import EngineIdentity, Item, Manifest, TaskRun, text_digest
from evalkit.store import RunFolder

IDENTITY = EngineIdentity(
    adapter="fake",
    model="fake",
    weights_sha256="a" * 64,
    recipe="none",
    recipe_sha256=None,
    fidelity="engine",
    quantization={},
    dtype="float32",
    tokenizer_sha256="b" * 64,
    chat_template_sha256=None,
    versions={},
    device="cpu",
)


class FakeEngine:
    """Scores by digest, echoes prompts; `break_at` raises after so many replies, `fail` turns prompts into failures."""

    identity = IDENTITY

    def __init__(
        self,
        fail: Callable[[str], Failure | None] = lambda _prompt: None,
        break_at: int | None = None,
        error: BaseException | None = None,
        reverse: bool = True,
    ) -> None:
        self.fail, self.break_at, self.error, self.reverse = fail, break_at, error, reverse
        self.asked: list = []

    def _stream(self, requests: Sequence, prompt: Callable, reply: Callable):
        order = range(len(requests))
        for count, index in enumerate(reversed(order) if self.reverse else order):
            if count == self.break_at:
                raise self.error or RuntimeError("broken")
            self.asked.append(requests[index])
            failure = self.fail(prompt(requests[index]))
            yield index, failure if failure else reply(requests[index])

    def score(self, requests):
        def reply(request):
            scores = tuple(
                -1 - int(text_digest(request.context + text)[:4], 16) / 65536 for text in request.continuations
            )
            best = max(scores)
            return ScoreReply(
                logprobs=scores, greedy=tuple(score == best for score in scores), tokens=(1,) * len(scores)
            )

        return self._stream(requests, lambda request: request.context, reply)

    def generate(self, requests):
        def words(request):
            return request.prompt if isinstance(request.prompt, str) else request.prompt[-1].content

        def reply(request):
            return Generation(
                text=f"answer {request.seed} to {words(request)}", finish="stop", prompt_tokens=3, completion_tokens=4
            )

        return self._stream(requests, words, reply)

    def close(self):
        pass


class FakeBenchmark:
    def __init__(self, count: int, kind: str = "choice", samples: int = 1) -> None:
        self.task, self.samples = "quiz", samples
        self.items = tuple(sorted((item(number, kind) for number in range(count)), key=lambda one: one.item_sha256))
        self.task_run = TaskRun(
            definition_sha256="d" * 64,
            kind=kind,
            protocol="p",
            shots=0,
            metric="acc",
            chance=0.5,
            planned=count * samples,
            item_set_sha256=item_set_sha256(self.items),
            prompts_sha256="f" * 64,
            dataset={},
        )

    def decoding(self, item):
        return Decoding(max_tokens=7, temperature=0.5, stop=("\n\n",))

    def mark(self, item, reply):
        return Marking(marks={"acc": 1.0}) if self.task_run.kind != "conversation" else Marking()


def item(number: int, kind: str = "choice") -> Item:
    base = {
        "task": "quiz",
        "subject": "sums",
        "item_sha256": text_digest(str(number)),
        "occurrence": 0,
        "prompt_sha256": text_digest(f"p{number}"),
        "target_sha256": text_digest("t"),
        "doc": {"number": number},
    }
    if kind == "choice":
        return Item(**base, context=f"{number}?", continuations=(" a", " bb"), target=1)
    if kind == "text":
        return Item(**base, context=f"{number}?")
    return Item(**base, turns=(f"{number} one", f"{number} two"))


@pytest.fixture
def fake(tmp_path) -> SimpleNamespace:
    def opened(benchmark: FakeBenchmark, name: str = "run") -> RunFolder:
        manifest = Manifest(
            evalkit="0",
            engine=IDENTITY,
            tasks={benchmark.task: benchmark.task_run},
            created_at="2020-01-01T00:00:00Z",
            command="evalkit run suite.yaml",
        )
        return RunFolder.create_or_resume(tmp_path / name, manifest)

    return SimpleNamespace(Engine=FakeEngine, Benchmark=FakeBenchmark, open=opened, item=item, root=tmp_path)
