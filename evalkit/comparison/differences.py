"""What must agree between two runs of a task, and what does not.

In: two manifests, a task name, the names of tolerated differences. Out: every difference by name.
May not know: records; whether a difference matters for a verdict is the policy's to say, by name.

What a recipe changes (weights, recipe, quantization) is not compared: that is the comparison. Everything else that can
change an answer or a mark is. A device is named, and batches that a lack of memory made smaller, but do not make runs
incomparable; the processor of engines on a CPU does, since its rounding changes as many answers as some recipes do.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evalkit.records import EngineIdentity, JudgeRun, Manifest, TaskRun, canonical_json, judged_task, processor_line


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One difference between two runs.

    Attributes:
        name: how a policy names it to tolerate it (`overrides`).
        baseline, candidate: the two values, as text.
        blocking: False for a difference that is only reported.
        tolerated: whether the policy names it.
    """

    name: str
    baseline: str
    candidate: str
    blocking: bool
    tolerated: bool

    @property
    def text(self) -> str:
        """One sentence."""
        return f"{self.name}: baseline has {self.baseline}, candidate has {self.candidate}"


_TASK = {
    "definition": "definition_sha256",
    "kind": "kind",
    "protocol": "protocol",
    "shots": "shots",
    "metric": "metric",
    "chance": "chance",
    "planned": "planned",
    "item_set": "item_set_sha256",
    "prompts": "prompts_sha256",
}
_ENGINE = {
    "tokenizer": "tokenizer_sha256",
    "chat_template": "chat_template_sha256",
    "adapter": "adapter",
    "dtype": "dtype",
    "fidelity": "fidelity",
}
_JUDGE = {
    "judge_profile": "profile_sha256",
    "references": "references_sha256",
    "judge_repeats": "repeats",
    "judge_planned": "planned",
    "judge_scale": "scale",
}
_REPORTED_ONLY = ("device", "batches")


def find_differences(
    baseline: Manifest, candidate: Manifest, task: str, tolerated: Collection[str] = ()
) -> tuple[Difference, ...]:
    """Return every difference in what must agree.

    Names are those of `overrides` in a policy: `definition`, `prompts`, `versions.<package>`, `options.<option>`,
    `settings.<setting>`, `dataset.<field>`, `judge`, `processor.<fact>`, ...; `versions` alone tolerates all versions,
    and so on.

    Args:
        baseline: a manifest that has the task.
        candidate: another one.
        task: task name.
        tolerated: names the policy tolerates.
    """
    found = [
        *_evalkit(baseline, candidate),
        *_batches(baseline, candidate),
        *_of_task(baseline.tasks[task], candidate.tasks[task]),
        *_of_engine(baseline.engine, candidate.engine),
        *_of_judges(baseline.judges, candidate.judges, task),
    ]
    return tuple(
        Difference(
            name=name,
            baseline=_shown(left),
            candidate=_shown(right),
            blocking=name not in _REPORTED_ONLY,
            tolerated=name in tolerated or name.split(".")[0] in tolerated,
        )
        for name, left, right in found
    )


_Found = Iterator[tuple[str, Any, Any]]


def _evalkit(left: Manifest, right: Manifest) -> _Found:
    if left.evalkit != right.evalkit:
        yield "evalkit", left.evalkit, right.evalkit


def _batches(left: Manifest, right: Manifest) -> _Found:
    if left.smaller_batches != right.smaller_batches:
        told = ["; ".join(side.smaller_batches) or "those asked for" for side in (left, right)]
        yield "batches", told[0], told[1]


def _fields(names: Mapping[str, str], left: Any, right: Any) -> _Found:
    for name, attribute in names.items():
        a, b = _plain(getattr(left, attribute)), _plain(getattr(right, attribute))
        if a != b:
            yield name, a, b


def _mapping(name: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> _Found:
    a, b = _plain(left), _plain(right)
    for key in sorted(set(a) | set(b)):
        if key not in a or key not in b or a[key] != b[key]:
            yield f"{name}.{key}", a.get(key, "nothing"), b.get(key, "nothing")


def _of_task(left: TaskRun, right: TaskRun) -> _Found:
    yield from _fields(_TASK, left, right)
    if left.score_range is not None and right.score_range is not None:  # folders of old versions declare none
        yield from _fields({"score_range": "score_range"}, left, right)
    yield from _mapping("settings", left.settings, right.settings)
    # The same content may come from another place: what counts is its digest, where there is one.
    a, b = _content(left.dataset), _content(right.dataset)
    yield from _mapping("dataset", a, b)


def _content(dataset: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"sha256": dataset["sha256"]} if dataset.get("sha256") else dataset


def _of_engine(left: EngineIdentity, right: EngineIdentity) -> _Found:
    yield from _fields(_ENGINE, left, right)
    # Another adapter brings other packages and options of its own; that difference has a name already.
    shared = left.adapter != right.adapter
    yield from _mapping("versions", *_common(left.versions, right.versions, only=shared))
    yield from _mapping("options", *_common(left.options, right.options, only=shared))
    yield from _of_processor(left.processor, right.processor, other_adapter=shared)
    if left.device != right.device:
        yield "device", left.device, right.device


def _of_processor(left: Mapping[str, Any] | None, right: Mapping[str, Any] | None, *, other_adapter: bool) -> _Found:
    """Compare processors; where one adapter says and another one does not, the adapters' difference has a name."""
    if left is None or right is None:
        if left is not right and not other_adapter:
            yield "processor", left and processor_line(left), right and processor_line(right)
        return
    # What torch says of itself is compared where both engines are torch.
    yield from _mapping("processor", *_common(left, right, only=other_adapter))


def _common(
    left: Mapping[str, Any], right: Mapping[str, Any], *, only: bool
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if not only:
        return left, right
    keys = set(left) & set(right)
    return {key: left[key] for key in keys}, {key: right[key] for key in keys}


def _of_judges(left: Mapping[str, JudgeRun], right: Mapping[str, JudgeRun], task: str) -> _Found:
    """Compare the task's judge and every judge of a panel; a pairwise judging is the candidate's alone."""
    names = {
        name
        for side in (left, right)
        for name, run in side.items()
        if judged_task(name) == task and run.mode == "single"
    }
    for name in sorted({task, *names}):
        suffix = name.removeprefix(task)
        yield from ((f"{what}{suffix}", a, b) for what, a, b in _of_judge(left.get(name), right.get(name)))


def _of_judge(left: JudgeRun | None, right: JudgeRun | None) -> _Found:
    if left is None or right is None:
        if left is not right:
            yield "judge", left and left.profile, right and right.profile
        return
    yield from _fields(_JUDGE, left, right)
    if left.identity.sha256 == right.identity.sha256:
        return
    if replace(left.identity, processor=None).sha256 == replace(right.identity, processor=None).sha256:
        yield from _of_processor(left.identity.processor, right.identity.processor, other_adapter=False)
    else:
        yield (
            "judge",
            f"{left.identity.model} {left.identity.sha256}",
            f"{right.identity.model} {right.identity.sha256}",
        )


def _plain(value: Any) -> Any:
    """Return the value as JSON gives it back, so that a tuple equals the list it became on disk."""
    return json.loads(canonical_json(value))


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
