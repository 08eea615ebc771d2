"""Engines on a real Ray: nodes that die and come, drivers that are killed, faulty replicas; and the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from evalkit.adapters.base import Resources
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.benchmarks import Decoding, Marking
from evalkit.benchmarks.benchmark import item_set_sha256
from evalkit.cli import main
from evalkit.cluster import Cluster as OurCluster
from evalkit.collect import collect
from evalkit.errors import EngineError, ExitCode
from evalkit.policy.binding import LIBRARY
from evalkit.records import Item, Manifest, TaskRun, text_digest, unsealed
from evalkit.store import RunFolder
from evalkit.suite import EngineSpec, Execution, Placement

pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra 'ray')"),
]

ROOT = Path(__file__).resolve().parents[2]
ITEMS = 240


class Quiz:
    """A benchmark of questions whose contexts share prefixes, or of conversations of two turns."""

    task, samples = "quiz", 1

    def __init__(self, kind: str = "choice", count: int = ITEMS) -> None:
        self.items = tuple(
            Item(
                task="quiz", subject=f"s{n // 40}", item_sha256=text_digest(str(n)), occurrence=0, prompt_sha256="p",
                target_sha256="t", doc={"n": n}, context=f"subject {n // 40} " * 20 + f"question {n}",
                continuations=(" a", " b", " c"), target=0, turns=(f"one {n}", f"two {n}"),
            )
            for n in range(count)
        )  # fmt: skip
        self.task_run = TaskRun(
            definition_sha256="d", kind=kind, protocol="p", shots=0, metric="acc", chance=None, planned=count,
            item_set_sha256=item_set_sha256(self.items), prompts_sha256="p", dataset={},
        )  # fmt: skip

    def decoding(self, item):
        return Decoding(max_tokens=9)

    def mark(self, item, reply):
        return Marking(marks={"acc": 1.0})


def spec(adapter: str = "slow", **options) -> EngineSpec:
    return EngineSpec(name="e", adapter=adapter, model="m", options=options)


def resources() -> Resources:
    return Resources(assets=AssetStore(ROOT))


def run(engine, path: Path, quiz: Quiz) -> bytes:
    manifest = Manifest(evalkit="0", engine=engine.identity, tasks={"quiz": quiz.task_run}, created_at="then")
    with RunFolder.create_or_resume(path, manifest) as folder:
        collect(folder, engine, [quiz], progress=False)
    return records(path)


def records(path: Path) -> bytes:
    return (path / "records" / "quiz.jsonl").read_bytes()


def local(path: Path, kind: str = "choice") -> bytes:
    return run(load_engine(spec("scripted"), resources()), path, Quiz(kind))


@contextlib.contextmanager
def fleet(address, placement=None, said=None, engine=None, **execution):
    """Open an engine on the cluster, as `certify` does."""
    where = Execution(on="ray", address=address, **{"shard": 8, **execution})
    said = said if said is not None else []
    with OurCluster(where, said.append) as cluster:
        wanted = placement or Placement(replicas=3, num_cpus=0, resources={"slot": 1})
        opened = cluster.open(engine or spec(delay_s=0.01), resources(), wanted)
        try:
            yield opened
        finally:
            opened.close()


def processes(word: str) -> list[str]:
    """Return the command lines of running processes that hold a word."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if word in line and file.parent.name != str(os.getpid()):
                found.append(line)
    return found


def gone(word: str, within_s: float = 600.0) -> bool:
    """Wait until no process holds a word any more."""
    until = time.monotonic() + within_s
    while processes(word) and time.monotonic() < until:
        time.sleep(0.1)
    return not processes(word)


@pytest.fixture(scope="module")
def path_with_adapter(tmp_path_factory):
    """Install the adapter `slow`, here and for every process that Ray starts."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "slow_adapter.py").write_text((ROOT / "tests" / "slow_adapter.py").read_text())
    namespace: dict[str, object] = {}
    exec((folder / "slow_adapter.py").read_text(), namespace)
    info = folder / "slow_engines-1.0.dist-info"
    info.mkdir()
    for name, text in namespace["DISTRIBUTION"].items():
        (info / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.syspath_prepend(str(folder))
        yield folder


@pytest.fixture(scope="module")
def nodes(path_with_adapter):
    """A cluster of three nodes with one slot each."""
    from ray._private import services  # noqa: PLC0415
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_agent_register_timeout_ms", "240000")
        patch.setattr(services, "get_node", patiently(services.get_node))
        cluster = Cluster()
        for _ in range(3):
            add_node(cluster, resources={"slot": 1})
        session = cluster.head_node.get_session_dir_path()
        yield cluster
        cluster.shutdown()
    assert gone(session), processes(session)


def add_node(cluster, **wanted):
    """Start a node; its helpers get ports, for otherwise it waits for theirs, and not long enough on a busy machine."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        ports = {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}
    return cluster.add_node(num_cpus=1, include_dashboard=False, **ports, **wanted)


def patiently(ask):
    """Ray gives a node half a minute to start, which a busy machine may not have."""

    def asked(*words):
        until = time.monotonic() + 600
        while True:
            try:
                return ask(*words)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    return asked


def test_a_node_dies_another_comes_and_the_bytes_are_those_of_one_machine(nodes, tmp_path):
    class Watched:
        """The fleet, and what befalls the cluster while it works."""

        def __init__(self, inner):
            self.inner, self.identity = inner, inner.identity

        def score(self, requests):
            for count, pair in enumerate(self.inner.score(requests)):
                if count == 40:
                    nodes.remove_node(victim, allow_graceful=False)
                if count == 80:
                    add_node(nodes, resources={"slot": 2})
                yield pair

    victim = sorted(nodes.worker_nodes, key=lambda node: node.node_id)[0]
    said = []
    with fleet(nodes.address, Placement(replicas=4, num_cpus=0, resources={"slot": 1}), said) as opened:
        assert opened.gather(3, 600.0) == 3, "all that have a slot are ready before one dies"
        found = run(Watched(opened), tmp_path / "ray", Quiz())
        assert opened.gather(4, 600.0) == 4, "another one took its place, and the waiting one has a slot too"
        warnings = opened.warnings
    assert found == local(tmp_path / "local")
    assert any("was lost and its work was done again" in line for line in warnings), warnings
    assert len([line for line in said if line.endswith("is ready")]) == 5


CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # heard even where the tests run in the background
sys.path.insert(0, sys.argv[1])
import test_ray as here
from pathlib import Path
from evalkit.suite import Placement
_, _, address, replicas, path, kind = sys.argv
placement = Placement(replicas=int(replicas), num_cpus=0, resources={"slot": 1} if address else {})
with here.fleet(address or None, placement, engine=here.spec(delay_s=0.03)) as opened:
    print("ready", flush=True)
    here.run(opened, Path(path), here.Quiz(kind))
"""


def child(address: str, replicas: int, path: Path, kind: str = "choice") -> subprocess.Popen[str]:
    words = [sys.executable, "-c", CHILD, str(Path(__file__).parent), address, str(replicas), str(path), kind]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_lines(process, path: Path, count: int) -> None:
    file = path / "records" / "quiz.jsonl"
    while not file.exists() or file.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_a_killed_driver_leaves_nothing_running_and_its_run_goes_on_elsewhere(nodes, path_with_adapter, tmp_path):
    before = set(processes("raylet"))
    first = child("", 2, tmp_path / "run")  # on a Ray of its own
    wait_for_lines(first, tmp_path / "run", 64)
    started = [line for line in processes("raylet") if line not in before]
    assert started
    first.send_signal(signal.SIGKILL)
    first.communicate()
    cut = records(tmp_path / "run")
    assert 64 <= cut.count(b"\n") < ITEMS
    with fleet(nodes.address, Placement(replicas=3, num_cpus=0, resources={"slot": 1})) as opened:
        whole = run(opened, tmp_path / "run", Quiz())
    assert whole == local(tmp_path / "local")
    assert set(cut.splitlines()[:64]) <= set(whole.splitlines())
    assert all(gone(line) for line in started)


def test_ctrl_c_keeps_what_is_finished_and_one_machine_resumes(nodes, path_with_adapter, tmp_path):
    process = child(nodes.address, 2, tmp_path / "run")
    wait_for_lines(process, tmp_path / "run", 64)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=600)
    assert "InterruptedRunError: stopped on request" in error
    kept = records(tmp_path / "run").count(b"\n")
    assert f"{kept} of {ITEMS} records" in error
    assert local(tmp_path / "run") == local(tmp_path / "local")


def test_faulty_replicas_are_finished_without_counted_and_named(nodes, tmp_path, capfd):
    trouble = {"0": "hangs", "1": "gives-nan", "2": "dies-at-every-tenth"}
    placement = Placement(replicas=4, num_cpus=0)
    engine = spec(delay_s=0.005, trouble=trouble)
    said = []
    with fleet(nodes.address, placement, said, engine, timeout_s=10.0, restarts=12, shard=6) as opened:
        assert opened.gather(4, 600.0) == 4
        found = run(opened, tmp_path / "ray", Quiz())
        warnings = "\n".join(opened.warnings)
    assert found == local(tmp_path / "local")
    assert "replica 0 on node" in warnings
    assert "hang" in warnings
    assert "replica 1 on node" in warnings
    assert "with numbers that are not finite where another replica gave finite ones" in warnings
    assert "replica 2 on node" in warnings
    assert "crash" in warnings
    assert any("replica 1 on node" in line and "removed from rotation" in line for line in said)
    assert capfd.readouterr().out == ""  # Ray's own words about deaths are not mixed with data


def test_conversations_are_the_same_bytes(nodes, tmp_path):
    with fleet(nodes.address, Placement(replicas=2, num_cpus=0)) as opened:
        found = run(opened, tmp_path / "ray", Quiz("conversation"))
    assert found == local(tmp_path / "local", "conversation")


def test_a_node_without_evalkit_says_so_itself(nodes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)  # Ray lets actors import what lies where the driver was started
    (tmp_path / "evalkit").mkdir()
    (tmp_path / "evalkit" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'evalkit'\")\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        node = add_node(nodes, resources={"bare": 1})
    try:
        placement = Placement(num_cpus=0, resources={"bare": 1})
        with pytest.raises(EngineError) as caught, fleet(nodes.address, placement):
            pass
        assert f"({node.node_id[:8]}): it could not be loaded: evalkit cannot be imported there" in str(caught.value)
        assert "next step: install evalkit-quant" in str(caught.value)
    finally:
        nodes.remove_node(node)


def test_two_gpus_of_one_node_are_reserved_together(nodes):
    node = add_node(nodes, num_gpus=2)
    try:
        with fleet(nodes.address, Placement(num_gpus=2, num_cpus=1)) as opened:
            from ray.util import placement_group_table  # noqa: PLC0415

            groups = [row for row in placement_group_table().values() if row["state"] == "CREATED"]
            assert [(row["strategy"], row["bundles"]) for row in groups] == [
                ("STRICT_PACK", {0: {"GPU": 2.0, "CPU": 1.0}})
            ]
            assert opened.identity == load_engine(spec("scripted"), resources()).identity
    finally:
        nodes.remove_node(node)


RATED = [json.dumps({"reasoning": "Seen.", "rating": value, "winner": "A"}) for value in (4, 6, 7, 8)]


def write_suite(folder: Path) -> Path:
    """Write a suite of twelve questions with a judge, all engines scripted, that needs nothing but what is here."""
    numbers = range(81, 93)
    files = {
        "question": [{"question_id": n, "category": "math", "turns": [f"What is {n}?", f"Why {n}?"]} for n in numbers],
        "judge_prompts": [
            {"name": "x", "type": "single", "system_prompt": "", "prompt_template": "{question}{answer}"}
        ],
        "gpt-4-0125-preview": [
            {"question_id": n, "choices": [{"turns": [f"right {n}", f"right too {n}"]}]} for n in numbers
        ],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = yaml.safe_load((LIBRARY / "demo.yaml").read_text("utf-8"))
    endpoint = {**policy["endpoints"]["mt_bench"], "task": "mt-bench", "low_power_choice": "cap"}
    policy |= {"name": "own", "endpoints": {"mt_bench": endpoint}, "assay": {"required": []}}
    policy["judge"] = {"qualification": "advisory"}
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    suite = {
        "name": "judged",
        "policy": "./policy.yaml",
        "engine": {"adapter": "scripted", "model": "m"},
        "baseline": {"name": "base", "options": {"seed": 1}},
        "rerun": {},
        "candidates": [{"name": "cand", "options": {"seed": 2}}],
        "tasks": ["mt-bench"],
        "judge": {
            "profile": "evalkit-structured",
            "engine": {"options": {"text": RATED}, "model": "judge"},
            "pairwise": "evalkit-pairwise",
        },
        "assets": {"mt-bench": [{"local": str(folder)}]},
        "execution": {
            "concurrent": True,
            "defaults": {"num_cpus": 0},
            "engines": {"judge": {"replicas": 2}},
            "shard": 4,
            "judge_requests_per_minute": 60000,
        },
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    return folder / "suite.yaml"


def test_a_suite_on_a_cluster_is_the_suite_on_one_machine(nodes, tmp_path, monkeypatch, capsys):
    (tmp_path / "suite").mkdir()
    suite = write_suite(tmp_path / "suite")
    found, codes = {}, set()
    for where in ("local", nodes.address):
        folder = tmp_path / where.replace(":", "-")
        folder.mkdir()
        monkeypatch.chdir(folder)
        codes.add(main(["certify", str(suite), "--on", where]))
        dated = ("timings.jsonl", "ledger.jsonl", "certificate.ledger.jsonl")
        files = sorted(path for path in Path("outputs").rglob("*.jsonl") if path.name not in dated)
        found[where] = {str(path): lines_of(path) for path in files}
        text = Path("outputs/judged/certificate.json").read_text()
        document = unsealed(json.loads(text), "certificate.json")  # the digest is of its ledger too
        assert document.pop("ledger")["entries"] > 8  # in the order in which engines were begun
        found[where]["certificate"] = document
        told = capsys.readouterr().err
        assert bool(re.search(r"replica [01] on node", told)) == (where != "local")  # the other may come too late
    assert len(found["local"]) > 8
    assert found["local"] == found[nodes.address]
    assert codes == {main(["certify", str(suite), "--on", "local"])}  # all of it is reused
    assert codes == {ExitCode.INVALID}  # no endpoint gates; every engine, judging and comparison was at work
    assert "complete, reused from" in capsys.readouterr().err


def lines_of(file: Path) -> object:
    """Return a file's bytes; what a judge has said is kept in the order it came, so only that is sorted."""
    return sorted(file.read_bytes().splitlines()) if file.parent.name == "_judgments" else file.read_bytes()


def test_an_address_where_no_cluster_is():
    with pytest.raises(EngineError, match=r"Ray at 127\.0\.0\.1:1"), fleet("127.0.0.1:1"):
        pass
