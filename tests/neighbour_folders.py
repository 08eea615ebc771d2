"""Results folders of other evaluation tools, small and whole: inspect, evalscope, lighteval and Every Eval Ever."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path


def written(folder: Path, files: dict[str, object]) -> Path:
    for name, value in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = name.endswith(".jsonl") and isinstance(value, list)
        text = "".join(json.dumps(row) + "\n" for row in value) if rows else json.dumps(value, indent=1)
        file.write_text(value if isinstance(value, str) else text)
    return folder


def inspect_log(right, *, model="openai/a", scored=None, **changes):
    samples = [
        {
            "id": at + 1,
            "epoch": 1,
            "input": f"What is {at}?",
            "target": str(at),
            "messages": [
                {"role": "system", "content": "Be short.", "id": f"random{model}"},
                {"role": "user", "content": f"What is {at}?", "source": "input"},
                {"role": "assistant", "content": str(at) if one else "no", "source": "generate"},
            ],
            "output": {
                "choices": [
                    {"message": {"role": "assistant", "content": str(at) if one else "no"}, "stop_reason": "stop"}
                ],
                "usage": {"input_tokens": 9, "output_tokens": 2},
            },
            "scores": {"match": {"value": "C" if one else "I", "answer": "x"}},
        }
        for at, one in enumerate(right)
    ]
    mean = sum(right) / len(right) if scored is None else scored
    log = {
        "version": 2,
        "status": "success",
        "eval": {
            "created": "2026-01-02T03:04:05+00:00",
            "task": "sums",
            "model": model,
            "model_args": {"api_key": "sk-0123456789abcdefghij", "dtype": "bfloat16"},
            "dataset": {"name": "sums", "sample_ids": [sample["id"] for sample in samples]},
            "config": {"limit": len(right)},
            "packages": {"inspect_ai": "0.3.285"},
        },
        "plan": {"steps": [{"solver": "generate"}], "config": {"temperature": 0.0}},
        "results": {
            "total_samples": len(right),
            "scores": [
                {
                    "name": "match",
                    "scorer": "match",
                    "metrics": {"accuracy": {"name": "accuracy", "value": mean}, "stderr": {"value": 0.1}},
                }
            ],
        },
        "samples": samples,
    }
    log.update(changes)
    return log


def archive(file: Path, log, packing=zipfile.ZIP_DEFLATED) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", packing) as packed:
        packed.writestr("header.json", json.dumps({key: value for key, value in log.items() if key != "samples"}))
        for sample in log["samples"]:
            packed.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
    return file


def evalscope_folder(folder: Path, right, *, score=None, model="qwen", **changes) -> Path:
    reviews, predictions = [], []
    for at, one in enumerate(right):
        user = {"role": "user", "content": f"How much is {at}?", "id": f"r{at}"}
        text = f"ANSWER: {at if one else 'no'}"
        said = {"role": "assistant", "content": text}
        predictions.append(
            {
                "index": at,
                "model": model,
                "model_output": {
                    "choices": [{"message": said, "stop_reason": "max_tokens" if at == 0 else "stop"}],
                    "usage": {"input_tokens": 5, "output_tokens": 3},
                },
                "messages": [user, said],
            }
        )
        inner = {"value": {"acc": float(one)}, "prediction": text, "extracted_prediction": str(at) if one else ""}
        reviews.append(
            {
                "index": at,
                "target": [str(at)],
                "messages": [user, said],
                "sample_score": {"score": inner, "sample_id": at, "group_id": at},
            }
        )
    mean = round(sum(right) / len(right), 4) if score is None else score
    subset = {"name": "main", "score": mean, "num": len(right)}
    report = {
        "model_name": model,
        "dataset_name": "sums",
        "metrics": [
            {"name": "mean_acc", "score": mean, "num": len(right), "categories": [{"name": ["x"], "subsets": [subset]}]}
        ],
    }
    files = {
        f"reviews/{model}/sums_main.jsonl": reviews,
        f"predictions/{model}/sums_main.jsonl": predictions,
        f"reports/{model}/sums.json": report,
        "configs/task_config_1.yaml": "model: org/qwen\ngeneration_config: {temperature: 0.0}\n"
        "dataset_args: {sums: {few_shot_num: 4}}\nmodel_args: {precision: torch.float16}\n",
    }
    return written(folder, {**files, **changes})


def detail(at, right, **changes):
    scores = [-1.0, -2.0, -3.0] if right else [-2.0, -1.0, -3.0]
    made = {
        "doc": {
            "query": f"Question {at}? Answer:",
            "choices": [" yes", " no", " perhaps"],
            "gold_index": [0],
            "task_name": "leaderboard|quiz|5",
            "num_effective_few_shots": 5,
            "id": str(at),
        },
        "model_response": {
            "input": f"Examples. Question {at}? Answer:",
            "input_tokens": [1, 2],
            "text": [],
            "logprobs": scores,
            "argmax_logits_eq_gold": [right, False, False],
        },
        "metric": {"acc": float(right), "acc_norm": float(scores[0] / 3 > scores[1] / 2)},
    }
    return {**made, **changes}


def flat(at, right, texts=False):
    """A row as the first leaderboard wrote it: everything on one level, some of it as text."""
    new = detail(at, right)
    scores = new["model_response"]["logprobs"]
    gold = new["doc"]["gold_index"]
    return {
        "example": new["doc"]["query"],
        "full_prompt": new["model_response"]["input"],
        "choices": repr(new["doc"]["choices"]) if texts else new["doc"]["choices"],
        "gold_index": repr(gold) if texts else gold,
        "pred_logits": repr(scores) if texts else scores,
        "num_effective_few_shots": 5,
        "truncated": 0,
        "metrics": new["metric"],
    }


def lighteval_results(rows, **changes):
    means = {name: sum(row["metric"][name] for row in rows) / len(rows) for name in rows[0]["metric"]}
    return {
        "config_general": {"model_name": "org/m", "lighteval_sha": "abc", "generation_parameters": {"seed": 1}},
        "results": {"leaderboard|quiz|5": {**means, "acc_stderr": 0.1, **changes}, "all": means},
        "config_tasks": {"leaderboard|quiz": {"hf_repo": "org/quiz", "effective_num_docs": len(rows)}},
    }


STAMP = "2026-01-02T03-04-05.678901"


def eee(folder: Path, right, *, score=None, **changes) -> Path:
    rows = [
        {
            "schema_version": "0.3.0",
            "evaluation_id": "e/m/1",
            "model_id": "org/m",
            "evaluation_name": "quiz",
            "evaluation_result_id": "quiz:acc",
            "sample_id": f"q{at}",
            "interaction_type": "single_turn",
            "input": {"raw": f"Why {at}?", "reference": ["so"], "choices": None},
            "output": {"raw": ["so" if one else "no"]},
            "messages": None,
            "evaluation": {"score": float(one), "is_correct": one},
            "token_usage": {"input_tokens": 4, "output_tokens": 2, "total_tokens": 6},
        }
        for at, one in enumerate(right)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    mean = sum(right) / len(right) if score is None else score
    aggregate = {
        "schema_version": "0.3.0",
        "evaluation_id": "e/m/1",
        "evaluation_timestamp": "1767323045",
        "model_info": {"name": "m", "id": "org/m", "additional_details": {"dtype": "float16"}},
        "evaluation_results": [
            {
                "evaluation_result_id": "quiz:acc",
                "evaluation_name": "quiz",
                "metric_config": {"metric_id": "acc", "lower_is_better": False},
                "score_details": {"score": mean, "uncertainty": {"num_samples": len(rows)}},
            }
        ],
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": "data/somewhere/else/x_samples.jsonl",
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(text.encode()).hexdigest(),
            "total_rows": len(rows),
        },
    }
    return written(folder, {"x_samples.jsonl": text, "x.json": {**aggregate, **changes}})
