"""The files to copy for a cluster: each read, and run as far as a machine without a scheduler allows."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from evalkit.adapters.base import read_options
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.cli.certify import command as certify
from evalkit.cli.doctor import command as doctor
from evalkit.cluster.nodes import room_for, together
from evalkit.suite import load_suite

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "examples" / "cluster"
SUITE = ROOT / "examples" / "llama-3.1-405b-ray.yaml"

NODES = [{"GPU": 8.0, "CPU": 64.0}] * 6

FAKE = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$FAKE_LOG"
case "$(basename "$0") $1" in
  "srun "*)
    token="$RAY_AUTH_TOKEN_PATH"
    echo "token $RAY_AUTH_MODE $(wc -c < "$token") $(stat -c %a "$token")" >> "$FAKE_LOG"
    exec sleep 60;;
  "python -c") exit "${FAKE_BROKEN:-0}";;
  "python -")
    cat > /dev/null
    for _ in $(seq 600); do
      [ "$(grep -c '^token' "$FAKE_LOG")" -ge $((SLURM_JOB_NUM_NODES > 1 ? 2 : 1)) ] && break
      sleep 0.05
    done
    exit "${FAKE_NODES:-0}";;
  "evalkit doctor") exit "${FAKE_DOCTOR:-0}";;
  "evalkit certify")
    if [ -n "$FAKE_WAIT" ]; then
      trap 'echo interrupted >> "$FAKE_LOG"; exit 5' INT
      echo waiting >> "$FAKE_LOG"
      for _ in $(seq 600); do sleep 0.05; done
    fi
    exit "${FAKE_CODE:-0}";;
esac
"""


HOSTNAME = '#!/bin/sh\nif [ "$1" = -I ]; then echo 10.0.0.1 10.1.0.1; else echo node1; fi\n'


@pytest.fixture(scope="module")
def suite():
    return load_suite(SUITE)


def placements(suite):
    names = [engine.name for engine in suite.engines]
    found = {name: suite.execution.placement(name) for name in names}
    return {**found, suite.rerun_engine.name: suite.execution.placement(suite.baseline.name)}


def test_the_suite_is_the_reference_case_with_a_place_for_every_engine(suite):
    reference = load_suite(ROOT / "examples" / "llama-3.1-405b-h200.yaml")
    same = ("policy", "tasks", "baseline", "rerun", "candidates", "controls")
    assert suite.judge.qualify == reference.judge.qualify
    assert {name: getattr(suite, name) for name in same} == {name: getattr(reference, name) for name in same}
    assert reference.execution.on == "local"
    assert suite.execution.on == "ray"
    assert suite.execution.concurrent
    for engine in suite.engines:
        options = read_options(TensorRTOptions, engine)
        needs = suite.execution.placement(engine.name)
        assert needs.num_gpus == options.tensor_parallel * options.pipeline_parallel, engine.name
    assert suite.execution.placement("judge").count == 2


def test_six_nodes_of_eight_hold_everything_at_once(suite):
    asked = placements(suite)
    assert {name: room_for(name, needs, NODES).fit >= needs.count for name, needs in asked.items()} == (
        dict.fromkeys(asked, True)
    )
    assert together(asked, NODES).startswith("all 9 replicas")
    assert "waiting for room" in together(asked, NODES[:2])


@pytest.fixture
def fake(tmp_path):
    """A cluster's programs that write down how they were called."""
    bin_, home = tmp_path / "bin", tmp_path / "home"
    bin_.mkdir()
    home.mkdir()
    for name in ("srun", "scontrol", "ray", "python", "evalkit", "hostname"):
        program = bin_ / name
        program.write_text(
            '#!/bin/sh\n[ "$1" = -I ] && echo 10.0.0.1 10.1.0.1 || echo node1\n' if name == "hostname" else FAKE
        )
        program.chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "EVALKIT_HOME": str(home),
        "EVALKIT_BIN": str(bin_),
        "EVALKIT_SUITE": "suite.yaml",
        "FAKE_LOG": str(tmp_path / "log"),
        "FAKE_WAIT": "",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "4",
        "SLURM_GPUS_ON_NODE": "8",
    }
    return env, tmp_path / "log"


def run(*command, **given):
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=600, **given)


def options_of(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def known(command):
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("code", [0, 1, 3, 4, 5])
def test_the_slurm_script_starts_ray_everywhere_looks_and_certifies(fake, code):
    env, log = fake
    done = run("bash", str(CLUSTER / "slurm.sh"), env={**env, "FAKE_CODE": str(code)})
    assert done.returncode == code, done.stderr
    lines = log.read_text().splitlines()
    head, others = sorted((line for line in lines if line.startswith("srun")), key=lambda line: "--head" not in line)
    assert "--nodes=1 --ntasks=1 --nodelist=node1" in head
    assert "start --head --block --node-ip-address=10.0.0.1 --port=6379 --num-gpus=8" in head
    assert "--nodes=3 --ntasks=3 --exclude=node1" in others
    assert "start --block --address=10.0.0.1:6379 --num-gpus=8" in others
    (looked,) = [line for line in lines if line.startswith("evalkit doctor")]
    (certified,) = [line for line in lines if line.startswith("evalkit certify")]
    assert looked == "evalkit doctor --strict --on 10.0.0.1:6379 --engine suite.yaml"
    assert certified == "evalkit certify suite.yaml --on 10.0.0.1:6379 --quiet"
    assert options_of(looked) <= known(doctor)
    assert options_of(certified) <= known(certify)
    assert not any(line.startswith("scontrol") for line in lines)


def test_every_node_has_the_token_of_this_job_and_nobody_else_may_read_it(fake):
    env, log = fake
    home = Path(env["EVALKIT_HOME"])
    (home / ".ray-token-7").symlink_to(home / "elsewhere")  # what somebody put there is not written through
    assert run("bash", str(CLUSTER / "slurm.sh"), env=env).returncode == 0
    assert [line for line in log.read_text().splitlines() if line.startswith("token")] == ["token token 64 600"] * 2
    assert list(home.iterdir()) == []


def test_a_broken_interpreter_is_no_rejection(fake):
    env, _ = fake
    done = run("bash", str(CLUSTER / "slurm.sh"), env={**env, "FAKE_CODE": "1", "FAKE_BROKEN": "1"})
    assert done.returncode == 5
    assert "REJECTED" not in done.stdout


def test_on_one_node_there_are_no_others(fake):
    env, log = fake
    assert run("bash", str(CLUSTER / "slurm.sh"), env={**env, "SLURM_JOB_NUM_NODES": "1"}).returncode == 0
    assert log.read_text().count("srun ") == 1


@pytest.mark.parametrize("what", ["FAKE_NODES", "FAKE_DOCTOR"])
def test_nothing_is_begun_on_a_cluster_that_is_not_whole(fake, what):
    env, log = fake
    assert run("bash", str(CLUSTER / "slurm.sh"), env={**env, what: "1"}).returncode == 5
    assert "certify" not in log.read_text()


def test_slurm_s_warning_reaches_evalkit_and_the_job_is_queued_again(fake):
    env, log = fake
    job = subprocess.Popen(
        ["bash", str(CLUSTER / "slurm.sh")], env={**env, "FAKE_WAIT": "1"}, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 600
    while not log.exists() or "waiting" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGINT)
    out, _ = job.communicate(timeout=600)
    assert job.returncode == 5
    assert "interrupted" in log.read_text()
    assert "scontrol requeue 7" in log.read_text()
    assert "goes on where it was" in out


def test_the_slurm_script_is_well_formed():
    text = (CLUSTER / "slurm.sh").read_text()
    assert run("bash", "-n", input=text).returncode == 0
    if shutil.which("shellcheck"):
        checked = run("shellcheck", str(CLUSTER / "slurm.sh"))
        assert checked.returncode == 0, checked.stdout
    lines = text.splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH")]
    assert all(re.match(r"#SBATCH --[a-z-]+(=\S+)?(\s+#.*)?$", line) for line in directives)
    first_command = next(at for at, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(lines.index(line) < first_command for line in directives)  # Slurm reads none after the first command
    python = re.search(r"<<'PYTHON'[^\n]*\n(.*?)\nPYTHON", text, re.DOTALL)[1]
    compile(python, "slurm.sh", "exec")


RAY_JOB = {
    *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata", "clusterSelector"),
    *("submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId", "submissionMode"),
    *("entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished"),
    *("shutdownAfterJobFinishes", "suspend"),
}
RAY_CLUSTER = {
    "headGroupSpec",
    "workerGroupSpecs",
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
}
HEAD = {"serviceType", "headService", "enableIngress", "rayStartParams", "template"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template"}
POD = {"containers", "volumes", "tolerations", "nodeSelector", "serviceAccountName", "imagePullSecrets"} | {
    *("securityContext", "automountServiceAccountToken")
}
CONTAINER = {"name", "image", "ports", "env", "envFrom", "resources", "volumeMounts", "command", "args"} | {
    "securityContext"
}
"""Fields of KubeRay's custom resource `RayJob` of ray.io/v1, and of a pod, that the manifest may use."""


@pytest.fixture(scope="module")
def manifest():
    return yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())


def test_the_manifest_has_the_form_of_a_ray_job(manifest):
    job = manifest
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= RAY_JOB
    assert job["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode")
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) <= RAY_CLUSTER
    assert set(cluster["headGroupSpec"]) <= HEAD
    groups = cluster["workerGroupSpecs"]
    names = [job["metadata"]["name"], *(group["groupName"] for group in groups)]
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 47 for name in names)
    for group in (cluster["headGroupSpec"], *groups):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "ray start takes words"
        pod = group["template"]["spec"]
        assert set(pod) <= POD
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert set(container) <= CONTAINER
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert all(isinstance(one["value"], str) for one in container["env"])
            limits = container["resources"]["limits"]
            assert limits == container["resources"]["requests"], "a pod that may be squeezed measures nothing well"
    for group in groups:
        assert set(group) <= WORKERS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_job_asks_for_what_there_is_and_a_verdict_is_no_failure(manifest, tmp_path):
    entry = manifest["spec"]["entrypoint"]
    words = shlex.split(entry)
    assert words[:2] == ["bash", "-c"]
    assert len(words) == 3
    assert options_of(words[2]) <= known(doctor) | known(certify)
    fake = tmp_path / "evalkit"
    fake.write_text('#!/bin/sh\n[ "$1" = doctor ] && exit "$FAKE_DOCTOR"\nexit "$FAKE_CODE"\n')
    fake.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for doctor_code, code, wanted in ((0, 0, 0), (0, 1, 0), (0, 3, 0), (0, 4, 0), (0, 5, 5), (0, 2, 2), (5, 0, 5)):
        env = {**path, "FAKE_DOCTOR": str(doctor_code), "FAKE_CODE": str(code)}
        on_its_way = shlex.join(
            words
        )  # KubeRay's shell takes it apart, `ray job submit` joins it, the node's shell runs it
        assert run("sh", "-c", on_its_way, env=env).returncode == wanted


def test_the_suite_is_where_the_job_looks_for_it(manifest):
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = [one for one in head["volumes"] if "configMap" in one]
    (mount,) = [one for one in head["containers"][0]["volumeMounts"] if one["name"] == volume["name"]]
    text = (CLUSTER / "kuberay.yaml").read_text()
    made = re.search(r"kubectl create configmap (\S+) --from-file=(\S+)=(\S+)", text)
    assert made[1] == volume["configMap"]["name"]
    assert f"{mount['mountPath']}/{made[2]}" in manifest["spec"]["entrypoint"]
    assert (ROOT / made[3]).exists()
