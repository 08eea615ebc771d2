"""How many replicas one driver keeps busy: efficiency and driver load with up to 256 simulated replicas, and on Ray.

Simulated: evalkit's own dispatcher, collector and store, on a transport whose replicas only wait. Each request takes
50 ms on average with a long tail (lognormal), a replica answers one after the other, shards hold 32, and time is real:
what the driver needs is taken from it. Requests and replies are pickled on their way, as on a cluster. Each replica has
equally many shards, whatever their number; two more rows ask all of MMLU of 64 replicas.

Ray: such requests on real Ray actors in processes of their own, on this machine. The estimate for 405B is arithmetic on
published numbers, made here; nothing of it was measured.

Efficiency is the time that the requests themselves need, spread evenly over all replicas, over the time that passed.
That of scheduling alone is taken on a clock that the driver's own work does not move.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import os
import pickle
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import made_runs
import measuring as m
import numpy as np

from evalkit.adapters.base import Resources, ScoreReply, ScoreRequest
from evalkit.assets import AssetStore
from evalkit.benchmarks import Marking
from evalkit.cluster import Cluster, Crew, Fleet, Terms
from evalkit.cluster.transport import Answered, Loaded, News, Placed
from evalkit.collect import collect
from evalkit.definitions import find_definitions
from evalkit.records import ChoiceReply, Item, Manifest, TaskRun, text_digest
from evalkit.store import RunFolder
from evalkit.suite import EngineSpec, Execution, Placement

SHARD, MEAN_S, SIGMA = 32, 0.05, 0.6
"""Requests of a shard; mean seconds of a request; spread of their logarithm: one in a hundred takes four medians."""

MMLU, CONVERSATIONS, TURNS, ANSWER_TOKENS = 14_042, 80, 2, 1024
GOAL_EFFICIENCY, GOAL_CORES, GOAL_REPLICAS = 0.90, 1.0, 64

HEADERS = ["replicas", "work", "requests", "seconds", "requests/s", "efficiency", "driver, cores"]

PUBLISHED = {"official FP8": (8, 399.9), "ModelOpt FP8": (8, 463.1), "INT4 AWQ": (2, 75.6)}
"""GPUs of an engine, and its output tokens a second at 2,048 tokens read and 128 written, at most (8 and 2 H200)."""

SOURCE = "NVIDIA, 'Boosting Llama 3.1 405B Performance up to 1.44x', August 2024: TensorRT-LLM on HGX H200"
READ, WRITTEN = 2048, 128


def main() -> int:
    """Measure both kinds of replicas, then reckon."""
    args = _arguments()
    found = m.Findings(settings=vars(args))
    counts = [int(count) for count in args.replicas.split(",")]
    jobs = [(count, count * SHARD * args.shards, SHARD, f"shards each: {args.shards}") for count in counts]
    for size in (SHARD, SHARD // 4) if args.mmlu_replicas else ():
        jobs.append((args.mmlu_replicas, args.mmlu_items, size, f"all of MMLU, shards of {size}"))
    rows = [_simulated(count, total, size, name, args) for count, total, size, name in jobs]
    ray_rows = _on_ray([int(count) for count in args.ray.split(",")], args) if args.ray else []
    estimate = _estimate(_efficiency_at(rows, GOAL_REPLICAS))
    found.results = {"simulated": rows, "ray": ray_rows, "estimate": estimate, "goals": _goals(rows)}
    headers = [*HEADERS[:5], "efficiency, scheduling alone", *HEADERS[5:]]
    found.tables = [
        m.Table(name="scale", headers=headers, rows=[_row(row) for row in rows]),
        m.Table(name="scale-ray", headers=HEADERS, rows=[_row(row) for row in ray_rows]),
        _estimate_table(estimate),
    ]
    for goal, reached in found.results["goals"].items():
        m.say(f"{goal}: {'reached' if reached else 'MISSED'}")
    m.publish(__file__, found, args.json)
    return 0


def _arguments() -> argparse.Namespace:
    parser = m.arguments(__doc__ or "", repeats=1)
    parser.add_argument("--replicas", default="1,2,4,8,16,32,64,128,256", help="simulated replicas")
    parser.add_argument("--shards", type=int, default=16, help="shards for each replica")
    parser.add_argument("--mmlu-replicas", type=int, default=64, help="replicas that share all of MMLU; 0 for none")
    parser.add_argument("--mmlu-items", type=int, default=MMLU, help="items of MMLU")
    parser.add_argument("--ray", default="1,2,4,8", help="real Ray actors; empty for none")
    parser.add_argument("--ray-shards", type=int, default=4, help="shards for each actor")
    parser.add_argument("--seed", type=int, default=405, help="of the latencies")
    return parser.parse_args()


def _latency_s(context: str, seed: int) -> float:
    """Return what a request takes: drawn from its own text, so that whoever answers needs the same."""
    rng = np.random.default_rng(int(text_digest(f"{seed}:{context}")[:15], 16))
    return float(MEAN_S * rng.lognormal(-(SIGMA**2) / 2, SIGMA))


class WaitingTransport:
    """Replicas that wait as long as their requests take, in the driver's own process.

    Args:
        replicas: how many.
        seconds: context to what a request takes.
        real: wait in real time; otherwise a clock is moved on, and the driver's own work takes none of it.
    """

    def __init__(self, replicas: int, seconds: dict[str, float], *, real: bool) -> None:
        self._seconds, self._real, self._time = seconds, real, 0.0
        self._free_at = [0.0] * replicas
        self._calendar: list[tuple[float, int, News]] = []
        self._order = itertools.count()

    def start(self, replica: int) -> None:
        """Have a replica ready at once."""
        self._at(0.0, Placed(replica=replica, node="simulated"))
        self._at(0.0, Loaded(replica=replica, identity=made_runs.engine("none")))

    def send(self, replica: int, ticket: int, call: str, requests: Sequence[ScoreRequest]) -> None:  # noqa: ARG002
        """Note when the shard will be answered."""
        asked = pickle.loads(pickle.dumps(list(requests)))
        begin = max(self.now(), self._free_at[replica])
        self._free_at[replica] = begin + sum(self._seconds[request.context] for request in asked)
        replies = [(place, _reply(self._seconds[request.context])) for place, request in enumerate(asked)]
        self._at(self._free_at[replica], Answered(replica=replica, ticket=ticket, replies=replies))

    def stop(self, replica: int) -> None:
        """Nothing is ever lost here."""

    def wait(self, timeout_s: float) -> list[News]:
        """Sleep until something has happened, or move the clock on."""
        if self._calendar:
            pause_s = max(0.0, min(timeout_s, self._calendar[0][0] - self.now()))
            self._time += pause_s
            time.sleep(pause_s if self._real else 0.0)
        now, found = self.now(), []
        while self._calendar and self._calendar[0][0] <= now:
            found.append(pickle.loads(pickle.dumps(heapq.heappop(self._calendar)[2])))
        return found

    def now(self) -> float:
        """Return seconds."""
        return time.monotonic() if self._real else self._time

    def close(self) -> None:
        """Nothing runs here."""

    def _at(self, when: float, news: News) -> None:
        heapq.heappush(self._calendar, (when, next(self._order), news))


def _reply(value: float) -> ScoreReply:
    greedy = (True, False, False, False)
    return ScoreReply(logprobs=(-value, -1.0 - value, -2.0 - value, -3.0 - value), greedy=greedy, tokens=(1, 1, 1, 1))


class Questions:
    """Items as large as MMLU's with five worked examples, and no more than that."""

    task, samples = "mmlu", 1

    def __init__(self, count: int) -> None:
        examples = "Question: which of these is right?\nA. one\nB. two\nC. three\nD. four\nAnswer: A\n\n" * 30
        self.items = tuple(self._item(number, examples) for number in range(count))
        self.task_run: TaskRun = made_runs.choice_task(0)

    @staticmethod
    def _item(number: int, examples: str) -> Item:
        context = f"About {number // 240}.\n\n{examples}Question {number}?\nAnswer:"
        return Item(
            task="mmlu",
            subject=f"subject-{number // 240}",
            item_sha256=text_digest(f"item {number}"),
            occurrence=0,
            prompt_sha256=text_digest(context),
            target_sha256=text_digest("1"),
            doc={"number": number},
            context=context,
            continuations=(" A", " B", " C", " D"),
            target=number % 4,
        )

    def mark(self, item: Item, reply: ChoiceReply) -> Marking:
        """Mark as lm-eval does: the most probable letter counts."""
        return Marking(marks={"acc": float(max(range(4), key=reply.logprobs.__getitem__) == item.target)})


def _simulated(replicas: int, total: int, shard: int, work: str, args: argparse.Namespace) -> dict[str, Any]:
    m.say(f"simulated: {replicas} replicas, {total:,} requests in shards of {shard}")
    questions = Questions(total)
    seconds = {item.context or "": _latency_s(item.context or "", args.seed) for item in questions.items}
    found = {}
    for real in (False, True):
        transport = WaitingTransport(replicas, seconds, real=real)
        crew = Crew(transport, Terms(name="scale", replicas=replicas, shard=shard))
        crew.open()
        fleet = Fleet(crew)
        fleet.gather(replicas, 60)
        begun = transport.now()
        found[real] = _measured(fleet, questions, replicas, work, sum(seconds.values()))
        if not real:
            found[real]["efficiency"] = found[real]["ideal_s"] / (transport.now() - begun)
    return {**found[True], "scheduling": found[False]["efficiency"]}


def _measured(fleet: Fleet, questions: Questions, replicas: int, work: str, needed_s: float) -> dict[str, Any]:
    """Collect everything into a run folder, and take the times."""
    manifest = Manifest(
        evalkit="0", engine=fleet.identity, tasks={"mmlu": questions.task_run}, created_at="2026-01-01T00:00:00Z"
    )
    with (
        tempfile.TemporaryDirectory() as scratch,
        RunFolder.create_or_resume(Path(scratch) / "run", manifest) as folder,
    ):
        folder.write_items("mmlu", questions.items)
        wall, cpu = time.perf_counter(), time.process_time()
        collect(folder, fleet, [questions], progress=False)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        written = len(folder.records("mmlu"))
    fleet.close()
    if written != len(questions.items):
        raise RuntimeError(f"{written} records of {len(questions.items)} requests")
    ideal = needed_s / replicas
    return {
        "replicas": replicas,
        "work": work,
        "requests": written,
        "seconds": wall,
        "ideal_s": ideal,
        "efficiency": ideal / wall,
        "driver_cores": cpu / wall,
    }


ADAPTER = """
import time
import numpy as np
from evalkit.adapters.base import ScoreReply
from evalkit.adapters.scripted import load as scripted
from evalkit.records import text_digest
SUMMARY = "waits as long as a request takes"
def load(spec, resources):
    options = dict(spec.options)
    seed, mean, sigma = options.pop("seed_"), options.pop("mean_s"), options.pop("sigma")
    engine = scripted(spec.model_copy(update={"adapter": "scripted", "options": options}), resources)
    return Waiting(engine, seed, mean, sigma)
class Waiting:
    def __init__(self, engine, seed, mean, sigma):
        self.identity, self._of = engine.identity, (seed, mean, sigma)
    def score(self, requests):
        seed, mean, sigma = self._of
        for index, request in enumerate(requests):
            rng = np.random.default_rng(int(text_digest(f"{seed}:{request.context}")[:15], 16))
            time.sleep(float(mean * rng.lognormal(-sigma**2 / 2, sigma)))
            yield index, ScoreReply(
                logprobs=(-1.25, -2.5, -3.75, -5.0), greedy=(True, False, False, False), tokens=(1, 1, 1, 1))
    def generate(self, requests):
        raise NotImplementedError
    def close(self):
        pass
"""


def _on_ray(counts: Sequence[int], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure real Ray actors whose engine waits; it is an adapter of another distribution, installed for now."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "waiting_adapter.py").write_text(textwrap.dedent(ADAPTER))
        dist = home / "waiting_adapter-0.dist-info"
        dist.mkdir()
        (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: waiting-adapter\nVersion: 0\n")
        (dist / "entry_points.txt").write_text("[evalkit.adapters]\nwaiting = waiting_adapter\n")
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        execution = Execution(on="ray", address="local", shard=SHARD, defaults=Placement(num_cpus=0.01))
        with Cluster(execution, m.say) as cluster:
            return [_actors(cluster, count, args) for count in counts]


def _actors(cluster: Cluster, replicas: int, args: argparse.Namespace) -> dict[str, Any]:
    questions = Questions(replicas * SHARD * args.ray_shards)
    needed = sum(_latency_s(item.context or "", args.seed) for item in questions.items)
    options = {"seed_": args.seed, "mean_s": MEAN_S, "sigma": SIGMA}
    spec = EngineSpec(name=f"scale-{replicas}", adapter="waiting", model="none", options=options)
    resources = Resources(assets=AssetStore(find_definitions(None).root))
    fleet = cluster.open(spec, resources, Placement(replicas=replicas, num_cpus=0.01))
    ready = fleet.gather(replicas, 300)
    m.say(f"Ray: {ready} of {replicas} actors, {len(questions.items):,} requests")
    return _measured(fleet, questions, ready, f"shards each: {args.ray_shards}", needed)


def _row(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['replicas']}",
        row["work"],
        f"{row['requests']:,}",
        f"{row['seconds']:.1f}",
        f"{row['requests'] / row['seconds']:,.0f}",
        *([f"{row['scheduling']:.1%}"] if "scheduling" in row else []),
        f"{row['efficiency']:.1%}",
        f"{row['driver_cores']:.2f}",
    ]


def _efficiency_at(rows: Sequence[dict[str, Any]], replicas: int) -> float | None:
    return next((row["efficiency"] for row in rows if row["replicas"] == replicas), None)


def _goals(rows: Sequence[dict[str, Any]]) -> dict[str, bool]:
    at = next((row for row in rows if row["replicas"] == GOAL_REPLICAS), None)
    if at is None:
        return {}
    return {
        f"at least {GOAL_EFFICIENCY:.0%} efficiency at {GOAL_REPLICAS} replicas": at["efficiency"] >= GOAL_EFFICIENCY,
        f"driver below {GOAL_CORES:g} core at {GOAL_REPLICAS} replicas": at["driver_cores"] < GOAL_CORES,
    }


ENGINES = (
    ("baseline", "official FP8", 1),
    ("baseline again", "official FP8", 1),
    *((f"candidate {number}", "ModelOpt FP8", 1) for number in (1, 2, 3)),
    *((f"candidate {number}", "INT4 AWQ", 4) for number in (4, 5, 6)),
)
"""Six candidates on 64 H200: what runs at the same time, which published rate is taken for it, how many replicas."""


def _estimate(efficiency: float | None) -> list[dict[str, Any]]:
    """Reckon each engine's time.

    An MMLU item is taken for a request of 2,048 tokens read and 128 written, which is more than it is (fewer are read,
    most of them shared with neighbours, and one is written): it takes 128 / rate seconds of the engine at most. A turn
    of MT-Bench is taken for 1,024 tokens written at the same rate:

        seconds = (14,042 * 128 + 80 * 2 * 1,024) / (rate * replicas * efficiency)
    """
    tokens = MMLU * WRITTEN + CONVERSATIONS * TURNS * ANSWER_TOKENS
    found = []
    for name, kind, replicas in ENGINES:
        gpus, rate = PUBLISHED[kind]
        seconds = tokens / (rate * replicas * (efficiency or GOAL_EFFICIENCY))
        found.append(
            {"engine": name, "rate_of": kind, "gpus": gpus * replicas, "replicas": replicas, "hours": seconds / 3600}
        )
    return found


def _estimate_table(estimate: Sequence[dict[str, Any]]) -> m.Table:
    rates = {kind: f"{rate:g} ({gpus} GPUs)" for kind, (gpus, rate) in PUBLISHED.items()}
    rows = [
        [
            row["engine"],
            row["rate_of"],
            str(row["replicas"]),
            str(row["gpus"]),
            rates[row["rate_of"]],
            f"{row['hours']:.1f}",
            f"{row['hours'] * row['gpus']:.0f}",
        ]
        for row in estimate
    ]
    gpus = sum(row["gpus"] for row in estimate)
    hours = sum(row["hours"] * row["gpus"] for row in estimate)
    longest = max(row["hours"] for row in estimate)
    rows.append(["all at once", "", "", str(gpus), "", f"{longest:.1f}", f"{hours:.0f}"])
    headers = ["engine", "rate taken", "replicas", "GPUs", "published tokens/s", "hours, at most", "GPU hours"]
    return m.Table(name="scale-estimate", headers=headers, rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
