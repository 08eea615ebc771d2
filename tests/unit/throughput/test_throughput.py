"""Measured throughput of other tools: read by their keys, never mixed, and never a rate of the wrong tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evalkit import cli
from evalkit.errors import DataError, ExitCode, UsageError
from evalkit.throughput import Measurement, import_throughput, read_throughput, throughput_json, throughput_tables

ARTICLE = """recipe,input_tokens,output_tokens,mode,tokens_per_second,hardware
modelopt-fp8-kv,2048,128,maximum,463.1,8 H200
modelopt-fp8-kv,32768,2048,maximum,320.1,8 H200
modelopt-fp8-kv,120000,2048,maximum,71.5,8 H200
official-fp8,2048,128,maximum,399.9,8 H200
official-fp8,32768,2048,maximum,230.8,8 H200
official-fp8,120000,2048,maximum,49.6,8 H200
"""
"""Published maximum throughput of Llama 3.1 405B with TensorRT-LLM, output tokens per second."""

TRTLLM = {
    "engine": {"model": "m", "version": "1.2.0"},
    "world_info": {"tp_size": 8, "world_size": 8},
    "request_info": {
        "num_requests": 100,
        "avg_num_concurrent_requests": 60.5,
        "avg_input_length": 2048.0,
        "avg_output_length": 127.6,
    },
    "performance": {"system_output_throughput_tok_s": 463.1, "system_total_throughput_tok_s": 7000.0},
}
VLLM_SERVE = {
    "completed": 10,
    "total_input_tokens": 20480,
    "total_output_tokens": 1280,
    "output_throughput": 44.5,
    "total_token_throughput": 750.0,
    "max_concurrency": 1,
}
VLLM_THROUGHPUT = {"elapsed_time": 10.0, "num_requests": 100, "total_num_tokens": 217600, "tokens_per_second": 21760.0}
VLLM_LATENCY = {"avg_latency": 2.0, "latencies": [2.0]}


def _guide(kind: str, concurrency: float, speed: float, part: str = "config") -> dict[str, Any]:
    means = {
        "request_concurrency": concurrency,
        "prompt_token_count": 256,
        "output_token_count": 128,
        "output_tokens_per_second": speed,
        "tokens_per_second": 3 * speed,
    }
    metrics = {name: {"successful": {"mean": value, "median": value}} for name, value in means.items()}
    return {part: {"strategy": {"type_": kind}}, "metrics": metrics}


@pytest.fixture
def write(tmp_path: Path):
    def written(value: object, name: str = "bench.json") -> Path:
        file = tmp_path / name
        file.write_text(value if isinstance(value, str) else json.dumps(value))
        return file

    return written


def test_the_seed_article_s_table(write) -> None:
    found = import_throughput(write(ARTICLE, "article.csv"))
    (table,) = throughput_tables(found, baseline="official-fp8")["tables"]
    assert table["title"] == "Maximum throughput, imported from csv"
    assert table["headers"] == ["input | output tokens", "2,048 | 128", "32,768 | 2,048", "120,000 | 2,048"]
    assert table["rows"] == [
        ["modelopt-fp8-kv", "463.1", "320.1", "71.5"],
        ["official-fp8", "399.9", "230.8", "49.6"],
        ["speedup, modelopt-fp8-kv", "1.16x", "1.39x", "1.44x"],
    ]
    assert "8 H200" in table["caption"]


def test_trtllm_bench(write) -> None:
    (one,) = import_throughput(write(TRTLLM), recipe="fp8")
    assert (one.input_tokens, one.output_tokens, one.tokens_per_second) == (2048, 128, 463.1)
    assert (one.mode, one.tool, one.hardware, one.requests) == ("maximum", "trtllm-bench", "8 GPU, 1.2.0", 100)
    TRTLLM_ONE = json.loads(json.dumps(TRTLLM))  # noqa: N806
    TRTLLM_ONE["request_info"]["avg_num_concurrent_requests"] = 1.0
    assert import_throughput(write(TRTLLM_ONE), recipe="fp8")[0].mode == "batch1"


def test_vllm_s_three_files(write) -> None:
    (serve,) = import_throughput(write(VLLM_SERVE), recipe="r")
    assert (serve.input_tokens, serve.output_tokens, serve.tokens_per_second, serve.mode) == (2048, 128, 44.5, "batch1")
    (offline,) = import_throughput(write(VLLM_THROUGHPUT), recipe="r", lengths=(2048, 128))
    assert offline.tokens_per_second == 1280.0, "output tokens alone, not the 21,760 of both"
    (latency,) = import_throughput(write(VLLM_LATENCY), recipe="r", lengths=(2048, 128))
    assert (latency.tokens_per_second, latency.mode) == (64.0, "batch1")


def test_a_rate_of_both_kinds_of_tokens_is_refused_where_output_cannot_be_told(write) -> None:
    with pytest.raises(UsageError, match="--lengths"):
        import_throughput(write(VLLM_THROUGHPUT), recipe="r")
    with pytest.raises(DataError, match="cannot be told"):
        import_throughput(write(VLLM_THROUGHPUT), recipe="r", lengths=(1024, 128))


@pytest.mark.parametrize("part", ["config", "args"])
def test_guidellm_gives_its_fastest_and_its_synchronous_run(write, part: str) -> None:
    benches = [
        _guide("synchronous", 1.0, 20.0, part),
        _guide("throughput", 64.0, 900.0, part),
        _guide("constant", 10.0, 300.0, part),
    ]
    found = {one.mode: one for one in import_throughput(write({"benchmarks": benches}), recipe="r")}
    assert found["batch1"].tokens_per_second == 20.0
    assert found["maximum"].tokens_per_second == 900.0
    assert found["maximum"].concurrency == 64.0
    assert (found["maximum"].input_tokens, found["maximum"].output_tokens) == (256, 128)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"x": 1}, "no file of trtllm-bench"),
        ([], "no file of trtllm-bench"),
        ("{broken", "not valid JSON"),
        ({**VLLM_SERVE, "output_throughput": None}, "'output_throughput' must be a number"),
        ({**VLLM_SERVE, "output_throughput": True}, "must be a number"),
        ({**VLLM_SERVE, "output_throughput": 0}, "above 0"),
        ({**VLLM_SERVE, "completed": 0}, "no request was completed"),
        ({"benchmarks": []}, "no benchmark in it"),
        ({"benchmarks": [{"metrics": {}}]}, "request_concurrency"),
        ('{"output_throughput": NaN, "completed": 1, "total_input_tokens": 1, "total_output_tokens": 1}', "a number"),
    ],
)
def test_what_cannot_be_read_is_named(write, content: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        import_throughput(write(content), recipe="r")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipe,input_tokens\nx,1\n", "lacks the column"),
        (ARTICLE.replace("maximum", "fastest", 1), "unknown mode 'fastest'"),
        (ARTICLE.replace("463.1", "fast"), ":2: "),
        (ARTICLE.replace("463.1", "-1"), "above 0"),
        (ARTICLE.replace("463.1", "inf"), "above 0"),
        (ARTICLE.splitlines()[0] + "\n", "no row in it"),
    ],
)
def test_a_bad_csv_names_column_or_line(write, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        import_throughput(write(text, "x.csv"))


def test_the_recipe_must_be_named_and_a_csv_may_take_one(write) -> None:
    with pytest.raises(UsageError, match="recipe name missing"):
        import_throughput(write(TRTLLM))
    lines = [line.split(",", 1)[1] for line in ARTICLE.splitlines()]
    assert {one.recipe for one in import_throughput(write("\n".join(lines), "y.csv"), recipe="r")} == {"r"}


def _one(**changes: Any) -> Measurement:
    made = {
        "recipe": "r",
        "input_tokens": 8,
        "output_tokens": 4,
        "mode": "maximum",
        "tokens_per_second": 10.0,
        "tool": "evalkit",
    }
    return Measurement(**{**made, **changes})


def test_tools_are_never_in_one_table_and_evalkit_s_own_come_first() -> None:
    measured = [_one(), _one(tool="trtllm-bench", tokens_per_second=99.0), _one(recipe="base", mode="batch1")]
    shown = throughput_tables(measured, baseline="base")
    assert [table["title"] for table in shown["tables"]] == [
        "Maximum throughput, measured by evalkit",
        "One request at a time (batch 1), measured by evalkit",
        "Maximum throughput, imported from trtllm-bench",
    ]
    assert all("speedup" not in row[0] for table in shown["tables"] for row in table["rows"])
    assert "No speedup: the baseline was not measured." in shown["tables"][0]["caption"]
    assert any("cannot vouch" in note for note in shown["notes"])


def test_different_hardware_in_one_table_is_shouted() -> None:
    shown = throughput_tables([_one(hardware="H200"), _one(recipe="b", hardware="B200")], baseline="b")
    assert "HARDWARE DIFFERS" in shown["tables"][0]["caption"]


def test_the_file_comes_back_and_order_changes_no_byte(tmp_path: Path) -> None:
    measured = [_one(), _one(recipe="b"), _one(mode="batch1")]
    text = throughput_json(measured)
    assert throughput_json(reversed(measured)) == text
    (tmp_path / "t.json").write_text(text)
    assert set(read_throughput(tmp_path / "t.json")) == set(measured)
    with pytest.raises(DataError, match="measured twice"):
        throughput_json([_one(), _one(tokens_per_second=11.0)])
    (tmp_path / "t.json").write_text(text.replace('"recipe": "b"', '"recipe": "c"'))
    with pytest.raises(DataError, match="changed after it was written"):
        read_throughput(tmp_path / "t.json")
    row = {name: value for name, value in json.loads(text).items() if name != "content_sha256"}
    (tmp_path / "t.json").write_text(json.dumps(row).replace('"recipe": "b"', '"recipes": "b"'))
    with pytest.raises(DataError, match=r"measurement \d: .*recipes"):
        read_throughput(tmp_path / "t.json")
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(DataError, match="no throughput file"):
        read_throughput(tmp_path / "t.json")


def test_the_verb_writes_the_file_and_keeps_evalkit_s_own(write, tmp_path: Path, capsys) -> None:
    target = tmp_path / "out" / "throughput.json"
    target.parent.mkdir()
    target.write_text(throughput_json([_one()]))
    argv = ["report", "throughput", "--csv", str(write(ARTICLE, "a.csv")), "--measured", "x", str(write(TRTLLM))]
    assert cli.main([*argv, "--baseline", "official-fp8", "--output", str(target)]) == 0
    out = capsys.readouterr().out
    assert "1.44x" in out
    assert {one.tool for one in read_throughput(target)} == {"csv", "trtllm-bench", "evalkit"}
    assert cli.main(["report", "throughput"]) == ExitCode.USAGE
    assert (
        cli.main(["report", "throughput", "--csv", str(write(ARTICLE, "a.csv")), "--lengths", "8x4"]) == ExitCode.USAGE
    )
