"""What is said of the nodes of a cluster, and what one node says of itself."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from evalkit.cluster import looking
from evalkit.cluster.nodes import NodeReport, remarks, room_for, together
from evalkit.suite import Placement

GIB = 2**30


def node(name="node", gpus=8, versions=None, **row):
    found = {
        "python": "3.11.7",
        "versions": {"evalkit-quant": "1", "torch": "2.13", "vllm": None, **(versions or {})},
        "gpus": ["NVIDIA H200, 143771 MiB"] * gpus,
        "cache": "/cache",
        "free_bytes": 900 * GIB,
        "models": {},
        "urls": {},
        **row,
    }
    return NodeReport(name=name, resources={"GPU": float(gpus), "CPU": 64.0}, row=found)


def gaps(reports, placements=None):
    return {(r.where, r.what): r for r in remarks(reports, placements or {}) if r.state == "gap"}


def test_equal_nodes_have_no_gap():
    assert gaps([node("a"), node("b")]) == {}
    seen = [r.seen for r in remarks([node("a")], {}) if r.what == "GPUs"]
    assert seen == ["8 x NVIDIA H200, 143771 MiB"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"versions": {"torch": "2.12"}}, "torch"),
        ({"versions": {"evalkit-quant": "0"}}, "evalkit-quant"),
        ({"python": "3.12.1"}, "python"),
    ],
)
def test_a_version_that_differs_is_a_gap_that_names_both(change, what):
    found = gaps([node("a"), node("b", **change)])
    assert list(found) == [("cluster", what)]
    assert "on a; " in found["cluster", what].seen or "on b; " in found["cluster", what].seen
    assert "custom resource" in found["cluster", what].next_step


def test_a_package_that_only_some_have_is_a_note():
    found = remarks([node("head", versions={"torch": None}), node("a")], {})
    (note,) = [r for r in found if r.where == "cluster"]
    assert (note.what, note.state, note.seen) == ("torch", "note", "only on a")


def test_a_node_without_evalkit_or_without_an_answer_is_a_gap():
    silent = NodeReport(name="c", resources={}, fault="no answer in 90 s")
    found = gaps([node("a"), node("b", versions={"evalkit-quant": None}), silent])
    assert set(found) == {("b", "evalkit"), ("c", "node")}
    assert all(remark.next_step for remark in found.values())


def test_a_model_counts_only_where_a_replica_could_run():
    missing = {"models": {"fp8": ["gap", "/models/x is not on this node"]}}
    needs = {"fp8": Placement(num_gpus=8)}
    assert set(gaps([node("a", **missing)], needs)) == {("a", "model of fp8")}
    assert set(gaps([node("a", models={"fp8": ["ok", "here"]}), node("b", gpus=4, **missing)], needs)) == set()


def test_full_disks_broken_drivers_and_closed_ports_are_gaps():
    broken = node("a", gpus=0, free_bytes=GIB, urls={"http://x": ["gap", "x:80 cannot be reached"]})
    assert set(gaps([broken])) == {("a", "cache"), ("a", "server")}
    assert set(gaps([node("a", free_bytes=None, gpus=0)])) == {("a", "cache")}
    ill = NodeReport(name="a", resources={"GPU": 8.0}, row={**node().row, "gpus": "nvidia-smi failed: no driver"})
    assert set(gaps([ill])) == {("a", "GPUs")}


def test_room_is_counted_by_node():
    nodes = [{"GPU": 8.0, "CPU": 64.0}, {"GPU": 4.0, "CPU": 64.0, "H200": 4.0}]
    assert room_for("e", Placement(num_gpus=8), nodes).fit == 1
    assert room_for("e", Placement(replicas=9, num_gpus=2), nodes).seen.startswith("6 of 9 replicas fit at once")
    assert room_for("e", Placement(num_gpus=2, resources={"H200": 2}), nodes).fit == 2
    nowhere = room_for("e", Placement(num_gpus=8, resources={"H200": 1}), nodes)
    assert (nowhere.fit, nowhere.seen) == (
        0,
        "a replica needs 8 GPU, 1 CPU, 1 H200 on one node; no node has all of it at once",
    )
    assert room_for("e", Placement(num_cpus=0), []).fit == 0
    assert gaps([node("a", gpus=4)], {"e": Placement(num_gpus=8)})["e", "room"].next_step


def test_engines_that_run_together_share_the_nodes():
    nodes = [{"GPU": 8.0, "CPU": 64.0}] * 2
    asked = {"a": Placement(num_gpus=8), "b": Placement(replicas=4, num_gpus=2)}
    assert together(asked, nodes) == "all 5 replicas of 2 engines fit at the same time"
    assert together({**asked, "c": Placement(num_gpus=1)}, nodes).endswith("waiting for room: c 1")


def test_a_node_looks_at_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "model").mkdir()
    (tmp_path / "hub" / "models--me--cached" / "snapshots" / "abc").mkdir(parents=True)
    models = {"a": str(tmp_path / "model"), "b": str(tmp_path / "none"), "c": "me/cached", "d": "me/other"}
    row = looking.look(["evalkit-quant", "no-such-package"], str(tmp_path / "cache"), models, ["http://127.0.0.1:9"])
    assert {name: state for name, (state, _) in row["models"].items()} == {"a": "ok", "b": "gap", "c": "ok", "d": "gap"}
    assert row["versions"]["evalkit-quant"]
    assert row["versions"]["no-such-package"] is None
    assert row["free_bytes"] > 0
    assert row["urls"]["http://127.0.0.1:9"][0] == "gap"


def test_the_hub_is_asked_for_what_is_not_cached(tmp_path, monkeypatch):
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(200 if "open" in self.path else 403)
            self.end_headers()

        def log_message(self, *_words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "a-token")
    found = looking.look([], str(tmp_path), {"a": "me/open", "b": "me/gated"}, [])["models"]
    server.shutdown()
    server.server_close()
    assert found["a"][0] == "ok"
    assert found["b"] == ["gap", "the hub answers 403 for me/gated (with HF_TOKEN)"]
    assert asked == [("/api/models/me/open", "Bearer a-token"), ("/api/models/me/gated", "Bearer a-token")]
