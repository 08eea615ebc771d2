"""Run folders read for a decision: what the store checks, and ratings read again from the judge's own words.

In: a run folder. Out: a `Run` that knows of every contradiction in it.
May not know: which run is the baseline.

The grammar of a judge's reply belongs to the collecting half, deciding to the other; only this room may see both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from evalkit.judging.ratings import fastchat_choice, fastchat_rating
from evalkit.judging.structured import parse_json_choice, parse_json_rating
from evalkit.records import JudgeRun, Judgment, judged_task
from evalkit.store import Run, judgment_key, read_run
from evalkit.store.layout import task_file
from evalkit.store.lines import read_lines


def read_checked(path: Path) -> Run:
    """Read a run folder with everything in it held against its source; errors as `read_run`."""
    run = read_run(path)
    contradictions, unchecked = dict(run.contradictions), dict(run.unchecked)
    for judging, judge in run.manifest.judges.items():
        task, silent = judged_task(judging), 0
        wrong: list[str] = []
        for judgment in run.judgments[judging]:
            allowed = ratings_of(judgment, judge)
            silent += allowed is not None and not allowed
            if allowed and not any(math.isclose(judgment.score or 0.0, given, rel_tol=1e-9) for given in allowed):
                where = f"{_place(run, judging, judgment)}: judgment of {judgment_key(judgment)}"
                wrong.append(f"{where}: score is {judgment.score!r}, but {allowed[0]!r} by the judge's own words")
        if wrong:
            contradictions[task] = (*wrong, *contradictions.get(task, ()))
        if silent:
            told = f"score of {silent:,} judgment(s) of '{judging}': no rating can be read in the judge's words again"
            unchecked[task] = (*unchecked.get(task, ()), told)
    return replace(run, contradictions=contradictions, unchecked=unchecked)


def ratings_of(judgment: Judgment, judge: JudgeRun) -> tuple[float, ...] | None:
    """Return the scores that a judgment's own evidence gives: none where it gives no score, None where it needs none.

    A judge that was not asked for words tells its probabilities; any other wrote its verdict. FastChat's way of
    reading, by which imported judgments were read, is allowed beside evalkit's.
    """
    if judgment.status == "rule":
        return (float(judge.scale[0]),) if judge.mode == "single" else (-1.0, 0.0, 1.0)
    if judgment.status != "ok":
        return None
    return tuple(_single(judgment, judge) if judge.mode == "single" else _pairwise(judgment))


def _single(judgment: Judgment, judge: JudgeRun) -> Iterator[float]:
    probabilities = judgment.details.get("probabilities")
    if isinstance(probabilities, list) and not judgment.text:
        numbers = range(int(judge.scale[0]), int(judge.scale[1]) + 1)
        if len(numbers) == len(probabilities):
            yield math.fsum(number * weight for number, weight in zip(numbers, probabilities, strict=True))
        return
    scale = (float(judge.scale[0]), float(judge.scale[1]))
    read = parse_json_rating(judgment.text, "stop", scale, [])
    if read.reason == "several":  # an earlier version took the last one; what the judge meant nobody can say
        return
    score = read.score
    if score is not None:
        yield score
    other = fastchat_rating(judgment.text) if judge.identity.adapter == "fastchat" or score is None else None
    if other is not None and scale[0] <= other <= scale[1]:
        yield other


def _pairwise(judgment: Judgment) -> Iterator[float]:
    first = judgment.repeat % 2 == 0
    probabilities = judgment.details.get("probabilities")
    if isinstance(probabilities, list) and not judgment.text:
        best = [
            letter
            for letter, weight in zip(("A", "B", "tie"), probabilities, strict=False)
            if weight == max(probabilities)
        ]
        choices = best if len(best) == 1 else ["tie"]
    else:
        read = parse_json_choice(judgment.text, "stop", [])
        if read.reason == "several":
            return
        choices = [choice for choice in (read.choice, fastchat_choice(judgment.text)) if choice is not None]
    for choice in choices:
        yield 0.0 if choice == "tie" else 1.0 if (choice == "A") == first else -1.0


def _place(run: Run, judging: str, judgment: Judgment) -> str:
    """Return file and line of a judgment; the file is named as a certificate may name it."""
    wanted = judgment.to_json()
    file = task_file(run.path, "judgments", judging)
    line = next((number for number, text in read_lines(file, below=run.path) if text == wanted), 0)
    return f"{task_file(Path(run.path.resolve().name), 'judgments', judging)}:{line}"
