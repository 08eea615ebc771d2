"""`evalkit plan init`: what it writes is read, planned and checked by evalkit itself; what it cannot know it asks."""

import json
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from model_server import ModelServer, vllm

from evalkit import cli
from evalkit.configuration import read_yaml
from evalkit.policy import load_policy
from evalkit.suite import load_suite

INIT = ("plan", "init")


def checkpoint(folder: Path, **quantization: object) -> Path:
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    if quantization:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_two_servers_become_a_suite_that_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with (
        ModelServer(brain=SimpleNamespace(max_length=4096), quirks=vllm()) as one,
        ModelServer(brain=SimpleNamespace(max_length=4096), quirks=vllm()) as other,
    ):
        code = cli.main(
            [*INIT, str(tmp_path / "first"), "--baseline", one.url, "--candidate", f"modelopt-fp8-kv={other.url}"]
        )
        assert code == 0, capsys.readouterr().err
    suite = load_suite(tmp_path / "first" / "suite.yaml")
    assert [engine.options["base_url"] for engine in suite.engines] == [one.url, other.url]
    assert [engine.recipe for engine in suite.engines] == ["llama-official-fp8", "modelopt-fp8-kv"]
    for kind in ("suite", "policy"):
        path = tmp_path / "first" / f"{kind}.yaml"
        first = path.read_text().splitlines()[0]
        schema = tmp_path / "first" / first.removeprefix("# yaml-language-server: $schema=")
        jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(read_yaml(path))
    told = capsys.readouterr()
    assert f"evalkit plan {tmp_path / 'first' / 'suite.yaml'}" in told.err
    assert cli.main(["plan", "--strict", str(tmp_path / "first" / "suite.yaml")]) == 0
    assert "control" not in load_policy(suite.policy).assay.required


def test_a_control_is_required_once_there_is_one(tmp_path: Path) -> None:
    with ModelServer(brain=SimpleNamespace(max_length=4096), quirks=vllm()) as one:
        places = [f"{name}={one.url}" for name in ("llama-official-fp8", "int4-awq", "control-rtn2")]
        options = zip(("--baseline", "--candidate", "--control"), places, strict=True)
        assert cli.main([*INIT, str(tmp_path / "s"), *(word for pair in options for word in pair)]) == 0
    suite = load_suite(tmp_path / "s" / "suite.yaml")
    assert [engine.name for engine in suite.controls] == ["control-rtn2"]
    assert "control" in load_policy(suite.policy).assay.required


def test_checkpoints_say_what_they_declare(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base")
    other = checkpoint(
        tmp_path / "fp8 # odd: 'name'",
        quant_method="modelopt",
        quant_algo="FP8",
        kv_cache_scheme={"type": "float", "num_bits": 8},
    )
    arguments = ["--baseline", f"none={base}", "--candidate", f"modelopt-fp8-kv={other}"]
    assert cli.main([*INIT, str(tmp_path / "s"), *arguments]) == 0
    suite = load_suite(tmp_path / "s" / "suite.yaml")
    assert [engine.model for engine in suite.engines] == [str(base), str(other)]
    assert "# declared: FP8, cache FP8" in (tmp_path / "s" / "suite.yaml").read_text()


@pytest.mark.parametrize(
    ("baseline", "candidate", "why"),
    [
        ("none={base}", "{other}", "which recipe that is, nobody says"),
        ("none={base}", "fp9={other}", "unknown recipe 'fp9'"),
        ("none={base}", "{missing}", "neither the address of a server"),
        ("none={base}", "none={other}", "named alike"),
        ("none={base}", "int4-awq={url}", "cannot be compared in one suite"),
        ("{url}", "{url}", "a server does not say how its model was quantized"),
        ("{dead}", "int4-awq={url}", "no list of models"),
    ],
)
def test_what_cannot_be_known_is_asked_and_nothing_is_written(tmp_path, capsys, baseline, candidate, why) -> None:
    base, other = checkpoint(tmp_path / "base"), checkpoint(tmp_path / "other")
    with ModelServer(brain=SimpleNamespace(max_length=4096), quirks=vllm()) as server:
        words = {"base": base, "other": other, "missing": tmp_path / "missing", "url": server.url}
        words |= {"dead": "http://127.0.0.1:9/v1"}
        places = ["--baseline", baseline.format(**words), "--candidate", candidate.format(**words)]
        assert cli.main([*INIT, str(tmp_path / "s"), *places]) in (2, 5)
    assert why in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_what_a_checkpoint_says_stays_a_comment(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base")
    other = checkpoint(tmp_path / "other", quant_method="modelopt", quant_algo="FP8\ntitle: CERTIFIED \u2028x")
    assert cli.main([*INIT, str(tmp_path / "s"), "--baseline", f"none={base}", "--candidate", f"int4-awq={other}"]) == 0
    assert load_suite(tmp_path / "s" / "suite.yaml").title == "int4-awq against none"


def test_what_is_there_is_never_replaced(tmp_path: Path, capsys) -> None:
    (tmp_path / "suite.yaml").write_text("mine")
    assert cli.main([*INIT, str(tmp_path), "--baseline", "x", "--candidate", "y"]) == 2
    assert "there already, and never replaced" in capsys.readouterr().err
    assert (tmp_path / "suite.yaml").read_text() == "mine"
