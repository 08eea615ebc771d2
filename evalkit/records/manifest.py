"""What a run folder says of itself: engine, tasks, judges, requests.

In: plain values, or the text of `manifest.json`. Out: a frozen `Manifest`.
May not know: the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from evalkit.errors import DataError
from evalkit.records.identity import EngineIdentity
from evalkit.records.parsing import build, parse_object, tuple_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

FORMAT = 1
"""Version of the run-folder format; a folder with another number is refused."""


SHARES = ("acc", "acc_norm", "acc_mutual_info", "exact_match", "pass@1", "rating", "reward")
"""Metrics of which more is better wherever they are called so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRun:
    """What a run was asked for one task; two runs are comparable only if these agree.

    Attributes:
        definition_sha256: digest of the task definition.
        kind: "choice" (continuations scored), "text" (one generated answer) or "conversation" (several turns).
        protocol: name of the protocol (`ll-5shot`, `cloze-0shot`, `mt-bench-greedy`, ...).
        shots: worked examples before each item.
        metric: name of the mark that decides ("acc", "acc_norm", "rating").
        chance: accuracy of guessing, proportion; None where it has no meaning.
        planned: number of records a complete run holds (items times samples).
        item_set_sha256: digest of the sorted item keys.
        prompts_sha256: digest of the sorted (item key, prompt digest) pairs.
        dataset: where the items came from: asset, source, revision, sha256.
        settings: decoding and marking settings that can change a reply or a mark.
        higher_is_better: metric to whether more of it is better, as the task or its tool says; more is better of a
            metric of `SHARES` that is not in it, and of any other nothing is known.
        score_range: lowest and highest value the metric can have; None where the task declares none (a rating's range
            is its judge's scale), and then no verdict may rest on the metric's mean.
    """

    definition_sha256: str
    kind: Literal["choice", "text", "conversation"]
    protocol: str
    shots: int
    metric: str
    chance: float | None
    planned: int
    item_set_sha256: str
    prompts_sha256: str
    dataset: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    score_range: tuple[float, float] | None = None

    def direction(self, metric: str) -> bool | None:
        """Return whether more of a metric is better; None if nobody said.

        A mark may be named `metric,filter`, as lm-eval does where a task has several filters.
        """
        for name in (metric, metric.partition(",")[0]):
            if name in self.higher_is_better:
                return self.higher_is_better[name]
            if name in SHARES:
                return True
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeRun:
    """Who judged a run's answers, with which words.

    Attributes:
        profile: name of the judge profile.
        profile_sha256: digest of the profile definition and of the prompt texts it loaded.
        references_sha256: digest of the reference answers used; None without references.
        identity: identity of the judge engine.
        repeats: judgments of each answer.
        planned: number of judgments a complete run holds.
        scale: lowest and highest rating; -1 and 1 for pairwise.
        requested: what was asked for of the judge engine, as in `Manifest.requested`.
        mode: "single" (one answer is rated at a time) or "pairwise" (two answers are compared, in both orders).
        opponent_sha256: of a pairwise judging, digest of the identity that gave the other answers; else None.
    """

    profile: str
    profile_sha256: str
    references_sha256: str | None
    identity: EngineIdentity
    repeats: int
    planned: int
    scale: tuple[float, float]
    requested: Mapping[str, Any] = field(default_factory=dict)
    mode: Literal["single", "pairwise"] = "single"
    opponent_sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a run folder says of itself, written before its first record.

    Attributes:
        format: `FORMAT`.
        evalkit: version of evalkit.
        engine: identity read back from the loaded engine.
        tasks: task name to what was asked.
        judges: judging name (`judging_name`) to who judged.
        requested: what was asked for (specification, recipe digest, model digest, package versions); a finished run
            with an equal request is reused without loading the engine again.
        policy_sha256: digest of the policy in force when the run began; None for a run outside a suite.
        smaller_batches: how a lack of memory made batches smaller than model, device and options ask for, one sentence
            each; such a run rounds otherwise than one with memory enough.
        created_at: UTC time, ISO 8601; never part of a record.
        command: the command line that made the run, for people.
        run_id: drawn at random when the run began, so that a copy of a run is known for one; "" where nobody drew one.
    """

    format: int = FORMAT
    evalkit: str
    engine: EngineIdentity
    tasks: Mapping[str, TaskRun]
    judges: Mapping[str, JudgeRun] = field(default_factory=dict)
    requested: Mapping[str, Any] = field(default_factory=dict)
    policy_sha256: str | None = None
    smaller_batches: tuple[str, ...] = ()
    created_at: str
    command: str = ""
    run_id: str = ""

    def to_json(self) -> str:
        """Return `manifest.json`: sorted keys, indented for people."""
        return json.dumps(asdict(self), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read `manifest.json`; the inverse of `to_json`.

        Raises:
            DataError: not JSON, another format, or an unknown or missing field.
        """
        row = parse_object(text, "a manifest")
        if row.get("format") != FORMAT:
            raise DataError(f"run format {row.get('format')!r} is not {FORMAT}; read it with the evalkit that wrote it")
        _refuse_paths(row)
        row["engine"] = build(EngineIdentity, row.get("engine", {}))
        row["tasks"] = {name: _task_run(task) for name, task in row.get("tasks", {}).items()}
        row["judges"] = {name: _judge_run(judge) for name, judge in row.get("judges", {}).items()}
        if "smaller_batches" in row:
            row["smaller_batches"] = tuple_of(row, "smaller_batches")
        return build(cls, row)


def _task_run(row: Mapping[str, Any]) -> TaskRun:
    fixed = dict(row)
    if fixed.get("score_range") is not None:
        fixed["score_range"] = tuple(fixed["score_range"])
    return build(TaskRun, fixed)


def _refuse_paths(row: Mapping[str, Any]) -> None:
    """Refuse a name that an export would make a file name of, if it could lead out of a folder."""
    asked = row.get("requested")
    engine = asked.get("engine") if isinstance(asked, Mapping) else None
    name = engine.get("name") if isinstance(engine, Mapping) else None
    if isinstance(name, str) and (len(name) > 100 or not _NAME.fullmatch(name)):
        raise DataError(f"requested.engine.name: {name!r:.120} is no name of an engine: letters, digits and '._-'")


def _judge_run(row: Mapping[str, Any]) -> JudgeRun:
    fixed = dict(row)
    fixed["identity"] = build(EngineIdentity, fixed.get("identity", {}))
    fixed["scale"] = tuple(fixed.get("scale", ()))
    return build(JudgeRun, fixed)
