"""Outputs in an object store, through a real HTTP endpoint that speaks S3's protocol (moto's server, a double of S3).

A driver that is killed in mid-run is gone on with from another spool folder, as from another machine; every verb takes
a URL where it takes a folder; and what lies in the bucket afterwards is what would lie in a folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys

import pytest
import yaml

from evalkit import cli
from evalkit.ledger import Ledger
from evalkit.policy.binding import LIBRARY
from evalkit.store import read_run
from evalkit.store.mirror import Mirror, brought_down

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ITEMS = 200
KEYS = {"AWS_ACCESS_KEY_ID": "an-access-key-of-a-test", "AWS_SECRET_ACCESS_KEY": "a-secret-key-of-a-test-0123456789"}
CHILD = f"""
import sys, time
from pathlib import Path
from evalkit.adapters.base import ScoreReply
from evalkit.benchmarks import Marking
from evalkit.collect import collect, writing
from evalkit.records import EngineIdentity, Item, Manifest, TaskRun, text_digest
from evalkit.store import RunFolder
from evalkit.benchmarks.benchmark import item_set_sha256
from evalkit.store.mirror import Mirror, mirror

writing.BATCH, mirror.SEND_S = 5, 0.1
place, spool, hangs_at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

class Engine:
    identity = EngineIdentity(
        adapter="fake", model="m", weights_sha256="a", recipe="none", recipe_sha256=None, fidelity="engine",
        quantization={{}}, dtype="f", tokenizer_sha256="b", chat_template_sha256=None, versions={{}}, device="cpu",
    )
    def score(self, requests):
        for index, request in enumerate(requests):
            time.sleep(600 if index == hangs_at else 0)
            value = -1 - int(text_digest(request.context)[:4], 16) / 65536
            yield index, ScoreReply(logprobs=(value, value - 1), greedy=(True, False), tokens=(1, 1))

class Benchmark:
    task, samples = "quiz", 1
    items = tuple(
        Item(
            task="quiz", subject="s", item_sha256=text_digest(str(n)), occurrence=0, prompt_sha256="p",
            target_sha256="t", doc={{"n": n}}, context=str(n), continuations=(" a", " b"), target=0,
        )
        for n in range({ITEMS})
    )
    task_run = TaskRun(
        definition_sha256="d", kind="choice", protocol="p", shots=0, metric="acc", chance=None, planned={ITEMS},
        item_set_sha256=item_set_sha256(items), prompts_sha256="p", dataset={{}},
    )
    def mark(self, item, reply):
        return Marking(marks={{"acc": 1.0}})

manifest = Manifest(evalkit="0", engine=Engine.identity, tasks={{"quiz": Benchmark.task_run}}, created_at="then")

def run(root):
    with RunFolder.create_or_resume(root, manifest) as folder:
        print("found", len(folder.done_keys("quiz")), flush=True)
        collect(folder, Engine(), [Benchmark()], progress=False)

if "://" in place:
    with Mirror(place, spool, ttl_s=1.5, say=lambda line: print(line, flush=True)) as opened:
        run(opened.root)
else:
    run(Path(place))
"""


@pytest.fixture(scope="module")
def server():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    found = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    found.start()
    host, port = found.get_host_and_port()
    yield f"http://{host}:{port}"
    found.stop()


@pytest.fixture
def environment(server, monkeypatch, tmp_path):
    """What a machine needs to reach the store, and nothing of this machine's own."""
    values = {
        **KEYS,
        "AWS_ENDPOINT_URL": server,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, **values}


@pytest.fixture
def bucket(environment, request):
    """A fresh bucket, seen as S3's own client sees it."""
    client = boto3.client("s3")
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60].strip("-")
    client.create_bucket(Bucket=name)

    def keys(prefix=""):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=prefix)
        return [row["Key"] for page in pages for row in page.get("Contents", [])]

    def body(key):
        return client.get_object(Bucket=name, Key=key)["Body"].read()

    keys.name, keys.body = name, body
    return keys


def child(place, spool, environment, hangs_at=-1):
    command = [sys.executable, "-c", CHILD, str(place), str(spool), str(hangs_at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return out


def sent_lines(bucket):
    """Lines of records that lie in the bucket, in whatever pieces."""
    pieces = [key for key in bucket() if "/.quiz.jsonl.parts/" in key and not key.endswith(".done")]
    return sum(bucket.body(key).count(b"\n") for key in pieces)


def test_a_driver_that_is_killed_is_gone_on_with_from_another_machine(tmp_path, bucket, environment, capsys):
    finish(child(tmp_path / "local", tmp_path / "none", environment))
    whole = (tmp_path / "local" / "records" / "quiz.jsonl").read_bytes()
    url = f"s3://{bucket.name}/outputs/fp8"
    first = child(url, tmp_path / "spool-1", environment, hangs_at=120)
    while sent_lines(bucket) < 100:
        assert first.poll() is None, first.communicate()
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=600)
    kept = sent_lines(bucket)
    assert 100 <= kept < ITEMS
    said = finish(child(url, tmp_path / "spool-2", environment))
    assert f"found {kept}\n" in said, "what was sent is not asked again"
    assert "is dead; its folder is taken over" in said
    assert bucket.body("outputs/fp8/records/quiz.jsonl") == whole
    assert bucket.body("outputs/fp8/items/quiz.jsonl") == (tmp_path / "local" / "items" / "quiz.jsonl").read_bytes()
    pieces = [key for key in bucket() if ".parts/" in key and "records" in key]
    assert len(pieces) == 1
    assert pieces[0].endswith(".done")
    with brought_down(url, tmp_path / "spool-3") as folder:
        assert read_run(folder).records_sha256("quiz") == read_run(tmp_path / "local").records_sha256("quiz")

    assert cli.main(["compare", url, url, "--spool", str(tmp_path / "mine")]) in (0, 4)
    assert list((tmp_path / "mine").glob("*/fp8/manifest.json")), "the spool may be named"
    changed = whole.replace(b"1.0", b"0.0", 1)
    boto3.client("s3").put_object(Bucket=bucket.name, Key="outputs/fp8/records/quiz.jsonl", Body=changed)
    argv = ["report", "export", url, "--output", str(tmp_path / "out"), "--spool", str(tmp_path / "mine")]
    assert cli.main(argv) == 4, "a file that somebody else changed is not believed"
    assert "is not the file that evalkit wrote" in capsys.readouterr().err


def test_a_driver_that_is_killed_is_gone_on_with_at_once_on_the_same_machine(tmp_path, bucket, environment):
    url = f"s3://{bucket.name}/outputs/fp8"
    first = child(url, tmp_path / "spool", environment, hangs_at=60)
    while sent_lines(bucket) < 30:
        assert first.poll() is None, first.communicate()
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=600)
    here = next((tmp_path / "spool").glob("*/fp8/records/quiz.jsonl")).read_bytes().count(b"\n")
    said = finish(child(url, tmp_path / "spool", environment))
    assert f"found {here}\n" in said, "also what was written here and not sent is kept"
    assert "waiting" not in said
    assert bucket.body("outputs/fp8/records/quiz.jsonl").count(b"\n") == ITEMS


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path, bucket, environment):
    url = f"s3://{bucket.name}/outputs/fp8"
    with Mirror(url, tmp_path / "spool-1", ttl_s=20.0) as held:
        (held.root / "certificate.json").write_text("{}")
        held.send()
        second = child(url, tmp_path / "spool-2", environment)
        _, error = second.communicate(timeout=600)
        assert second.returncode != 0
        assert f"{url}: process {os.getpid()} on host" in error
        assert "is writing to this folder" in error
        with brought_down(url, tmp_path / "spool-3") as folder:
            assert (folder / "certificate.json").read_text() == "{}"
    finish(child(url, tmp_path / "spool-2", environment))
    assert bucket.body("outputs/fp8/records/quiz.jsonl").count(b"\n") == ITEMS
    assert bucket.body("outputs/fp8/certificate.json") == b"{}"


QUESTIONS = range(81, 93)
SENTENCES = ("A careful reader counts to 17 here.", "Some are short, and some are rather long.", "The rest follows.")
TEXTS = [" ".join(SENTENCES[(at + k) % 3] for k in range(8)) + f" So it is {at}." for at in range(6)]
RATED = [json.dumps({"reasoning": "Seen.", "rating": value, "winner": "A"}) for value in (4, 6, 7, 8)]


def write_lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def suite(tmp_path):
    """Write a judged suite whose outputs lie somewhere."""
    data = tmp_path / "data"
    data.mkdir()
    turns = [{"question_id": n, "category": "math", "turns": [f"What about {n}?", f"And {n}?"]} for n in QUESTIONS]
    write_lines(data / "question.jsonl", turns)
    prompt = {"name": "x", "type": "single", "system_prompt": "", "prompt_template": "{question}{answer}"}
    write_lines(data / "judge_prompts.jsonl", [prompt])
    answers = [{"question_id": n, "choices": [{"turns": [f"right {n}", f"right {n}"]}]} for n in QUESTIONS]
    write_lines(data / "gpt-4-0125-preview.jsonl", answers)
    policy = yaml.safe_load((LIBRARY / "demo.yaml").read_text("utf-8"))
    endpoint = {**policy["endpoints"]["mt_bench"], "task": "mt-bench", "low_power_choice": "cap"}
    policy |= {"name": "own", "endpoints": {"mt_bench": endpoint}, "assay": {"required": []}}
    policy["judge"] = {"qualification": "advisory"}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy))

    def write(name, outputs):
        described = {
            "name": "judged",
            "policy": "./policy.yaml",
            "engine": {"adapter": "scripted", "model": "m", "options": {"text": TEXTS}},
            "baseline": {"name": "base", "options": {"seed": 1}},
            "candidates": [{"name": "cand", "options": {"seed": 2}}],
            "tasks": ["mt-bench"],
            "judge": {
                "profile": "evalkit-structured",
                "engine": {"options": {"text": RATED}, "model": "judge"},
                "qualify": 4,
            },
            "assets": {"mt-bench": [{"local": "./data"}]},
            "outputs": str(outputs),
        }
        file = tmp_path / name
        file.write_text(yaml.safe_dump(described))
        return file

    return write


JUDGE = ["--profile", "evalkit-structured", "--adapter", "scripted", "--model", "judge", "--as", "second"]
JUDGE += ["--option", f"text={json.dumps(RATED)}"]


def run(capsys, argv):
    """Return the exit code of a command and every word that it printed."""
    code = cli.main(argv)
    return [str(code), *(word for word in capsys.readouterr().out.split() if word.strip("-"))]


def undrawn(content):
    """Return a file without the ids that runs drew when they began, and without the digest of who holds one."""
    return re.sub(rb'"run_id": ?"[0-9a-f]*"|[0-9a-f]{64}  manifest.json\n', b"", content)


DATED = ("manifest.json", "timings.jsonl", "ledger.json", "ledger.jsonl")
"""Files that say when and how a run was made, or cite what does."""


def test_every_verb_takes_a_url_where_it_takes_a_folder(tmp_path, bucket, suite, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVALKIT_SPOOL", str(tmp_path / "spool"))
    url, local = f"s3://{bucket.name}/judged", tmp_path / "judged"
    here, there = suite("local.yaml", local), suite("remote.yaml", url)
    Ledger(local / "ledger.jsonl").opened()  # where that of outputs behind a URL is, so that both are alike
    code = cli.main(["certify", str(here), "--quiet"])
    assert cli.main(["certify", str(there), "--quiet"]) == code
    said = capsys.readouterr().err
    assert f"written: {url}/certificate.json, {url}/report.md" in said
    assert "spool" not in said

    mine = {path.relative_to(local).as_posix(): path for path in local.rglob("*") if path.is_file()}
    mine = {name: path for name, path in mine.items() if not name.endswith("lock")}
    theirs = {key.removeprefix("judged/") for key in bucket("judged/")}
    assert {name for name in theirs if ".parts/" not in name and ".evalkit-lease/" not in name} == set(mine)
    for name, path in mine.items():
        if not name.endswith((*DATED, ".html", ".md")):
            assert undrawn(bucket.body(f"judged/{name}")) == undrawn(path.read_bytes()), name

    monkeypatch.setenv("EVALKIT_SPOOL", str(tmp_path / "spool-2"))  # from another machine
    for argv in (
        ["certify", str(there), "--from", "--quiet"],
        ["compare", f"{url}/base", f"{url}/cand"],
        ["report", f"{url}/certificate.json", "--format", "text"],
        ["verify", url, "--unsigned"],
        ["report", "export", f"{url}/cand", "--format", "fastchat", "--output", str(tmp_path / "exported")],
        ["judge", f"{url}/base", f"{url}/cand", *JUDGE, "--quiet"],
        ["plan", str(there)],
    ):
        expected = run(capsys, [part.replace(url, str(local)).replace(str(there), str(here)) for part in argv])
        assert run(capsys, argv) == [part.replace(str(local), url) for part in expected], argv
    assert "judged/cand/judgments/mt-bench%40second.jsonl" in bucket("judged/")

    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    everything += b"".join(bucket.body(key) for key in bucket())
    for secret in KEYS.values():
        assert secret.encode() not in everything


def test_one_run_of_a_suite_is_held_by_itself(tmp_path, bucket, suite, monkeypatch, capsys):
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    url = f"s3://{bucket.name}/judged"
    there = suite("remote.yaml", url)
    argv = ["run", f"{there}#base", "--quiet", "--json", "--spool", str(tmp_path / "spool")]
    assert cli.main(argv) == 0
    assert json.loads(capsys.readouterr().out)["run"] == f"{url}/base"
    leases = [key for key in bucket() if ".evalkit-lease/" in key]
    assert leases == ["judged/base/.evalkit-lease/00000001.json"]
    assert json.loads(bucket.body(leases[0]))["released"] is True


def test_what_is_wrong_with_a_url_is_said_with_the_next_step(tmp_path, bucket, suite, monkeypatch, capsys):
    monkeypatch.setenv("EVALKIT_SPOOL", str(tmp_path / "spool"))
    url = f"s3://{bucket.name}/judged"
    for argv, code, words in (
        (["compare", f"{url}/a", f"{url}/b"], 2, "there is nothing behind this URL"),
        (["report", f"{url}/certificate.json"], 2, "there is nothing behind this URL"),
        (["certify", str(suite("gone.yaml", "s3://no-such-bucket-anywhere/x")), "--quiet"], 5, "check the name"),
        (["nightly", str(suite("night.yaml", url))], 2, "needs a local folder"),
    ):
        assert cli.main(argv) == code, argv
        said = capsys.readouterr().err
        assert words in said
        assert "next step" in said
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("evalkit.store.mirror.remote._TRIES", 1)
    assert cli.main(["compare", f"{url}/a", f"{url}/b"]) == 5
    said = capsys.readouterr().err
    assert f"{url}/a: cannot be listed" in said
    assert "AWS_ENDPOINT_URL" in said
