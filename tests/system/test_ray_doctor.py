"""`evalkit doctor --on` on Ray's own cluster of several nodes, and the 405B suite with scripted engines on it."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from evalkit import __version__, cli
from evalkit.configuration import read_yaml
from evalkit.policy.binding import LIBRARY
from evalkit.records import unsealed
from evalkit.store import read_run

pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra 'ray')"),
]

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "examples" / "llama-3.1-405b-ray.yaml"


@pytest.fixture(scope="module")
def nodes():
    """Two nodes that say they have GPUs; nothing here looks for them."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 64, "num_gpus": 24, "include_dashboard": False}
        )
        cluster.add_node(num_cpus=64, num_gpus=16)
        yield cluster
        cluster.shutdown()


def looked(capsys, *argv):
    code = cli.main(["doctor", *argv, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_every_node_is_looked_at(nodes, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path))
    code, found = looked(capsys, "--on", nodes.address)
    assert code == 0, found["remarks"]
    assert len({report["name"] for report in found["nodes"]}) == 2
    assert sorted(report["resources"].get("GPU", 0) for report in found["nodes"]) == [16, 24]
    for report in found["nodes"]:
        assert report["row"]["versions"]["evalkit-quant"] == __version__
        assert report["row"]["free_bytes"] > 0
    seen = [remark["seen"] for remark in found["remarks"] if remark["what"] == "GPUs"]
    if shutil.which("nvidia-smi") is None:
        assert sorted(seen) == ["none; Ray knows of 16", "none; Ray knows of 24"]
    assert not [remark for remark in found["remarks"] if remark["where"] == "cluster"], "one Python is not two"


def test_what_would_fail_after_hours_is_said_before_anything_starts(nodes, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    described = read_yaml(SUITE)
    described["execution"]["engines"]["int4-awq"] = {"num_gpus": 32, "num_cpus": 1}
    described["execution"]["engines"]["judge"] = {"urls": ["http://127.0.0.1:9/v1"]}
    file = tmp_path / "suite.yaml"
    file.write_text(yaml.safe_dump(described))
    assert cli.main(["doctor", "--strict", "--on", nodes.address, "--engine", str(file)]) == 5
    said = capsys.readouterr().out
    assert said.count("405b-official-fp8 is not on this node") == 2
    assert "405b-int4-awq" not in said, "no node could hold it anyway"
    assert "a replica needs 32 GPU, 1 CPU on one node; the largest node has 24 GPU" in said
    assert "next step for int4-awq: room: add such a node" in said
    assert "it fits (8 GPU, 8 CPU)" in said
    assert said.count("127.0.0.1:9 cannot be reached") == 2
    assert "of 4 replicas" not in said
    assert "replicas fit at the same time; waiting for room: int4-awq 1" in said


def test_there_is_no_cluster(capsys):
    assert cli.main(["doctor", "--on", "127.0.0.1:9"]) == 5
    assert "next step: see that 'ray status' works" in capsys.readouterr().err
    assert cli.main(["doctor", "--on", "local"]) == 2


QUESTIONS = range(81, 89)
TEXTS = [" ".join(f"Sentence {k} of the answer {at}." for k in range(12)) for at in range(5)]
RATED = [json.dumps({"reasoning": "Seen.", "rating": value}) for value in (5, 6, 8)]


def lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def dry(tmp_path):
    """The 405B suite with scripted engines in its engines' places: the same names, the same execution section."""
    data = tmp_path / "data"
    data.mkdir()
    turns = [{"question_id": n, "category": "math", "turns": [f"What about {n}?", f"And {n}?"]} for n in QUESTIONS]
    lines(data / "question.jsonl", turns)
    prompt = {"name": "x", "type": "single", "system_prompt": "", "prompt_template": "{question}{answer}"}
    lines(data / "judge_prompts.jsonl", [prompt])
    answers = [{"question_id": n, "choices": [{"turns": ["right", "right"]}]} for n in QUESTIONS]
    lines(data / "gpt-4-0125-preview.jsonl", answers)
    policy = yaml.safe_load((LIBRARY / "demo.yaml").read_text("utf-8"))
    endpoint = {**policy["endpoints"]["mt_bench"], "task": "mt-bench", "low_power_choice": "cap"}
    policy |= {"name": "own", "endpoints": {"mt_bench": endpoint}, "assay": {"required": []}}
    policy["judge"] = {"qualification": "advisory"}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy))

    described = read_yaml(SUITE)
    described |= {"policy": "./policy.yaml", "tasks": ["mt-bench"], "assets": {"mt-bench": [{"local": "./data"}]}}
    described["engine"] = {"adapter": "scripted", "model": "m"}
    described["rerun"] = {}
    for seed, engine in enumerate([described["baseline"], *described["candidates"], *described["controls"]]):
        engine |= {"model": "m", "recipe": "none", "options": {"seed": seed, "text": TEXTS}}
    described["judge"] = {"profile": "evalkit-structured", "engine": {"model": "judge", "options": {"text": RATED}}}
    described["execution"]["engines"]["judge"] = {"replicas": 2, "num_cpus": 1}
    described["execution"]["engines"]["int4-awq"]["replicas"] = 2

    def write(outputs):
        file = tmp_path / f"{outputs}.yaml"
        file.write_text(yaml.safe_dump({**described, "outputs": str(tmp_path / outputs / "outputs")}))
        return file

    return write


def test_the_405b_suite_runs_with_scripted_engines_where_its_own_would(nodes, dry, tmp_path, capsys):
    here = cli.main(["certify", str(dry("here")), "--on", "local", "--quiet"])
    there = cli.main(["certify", str(dry("there")), "--on", nodes.address])
    said = capsys.readouterr().err
    assert here == there, said
    for engine in ("official-fp8", "official-fp8-rerun", "modelopt-fp8-kv", "int4-awq", "control"):
        assert re.search(rf"^{engine}: replica \d on node", said, re.MULTILINE), said
        mine, theirs = (read_run(tmp_path / name / "outputs" / engine) for name in ("here", "there"))
        assert mine.records_sha256("mt-bench") == theirs.records_sha256("mt-bench")
        assert mine.judgments_sha256("mt-bench") == theirs.judgments_sha256("mt-bench")
    files = [tmp_path / name / "outputs" / "certificate.json" for name in ("here", "there")]
    documents = [unsealed(json.loads(file.read_text()), str(file)) for file in files]  # the digest is of a ledger too
    assert all(document.pop("ledger")["entries"] > 8 for document in documents)  # engines begin in any order
    assert documents[0] == documents[1]
