"""Compare two runs of a task.

In: two runs, a task name, settings. Out: a `Comparison`, always: what forbids judging is listed in it as faults.
May not know: verdicts. Difference is always candidate minus baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.comparison.answers import AnswerComparison, all_identical
from evalkit.comparison.choices import DistributionShift, unequal_choices
from evalkit.comparison.conversations import RatingComparison
from evalkit.comparison.coverage import Coverage, broken_engine
from evalkit.comparison.differences import Difference, find_differences
from evalkit.comparison.gates import GateComparison
from evalkit.comparison.judged import judged_parts
from evalkit.comparison.marked import marked_parts
from evalkit.comparison.means import MeanComparison
from evalkit.comparison.pairing import pair
from evalkit.comparison.pairwise import PairwiseComparison
from evalkit.comparison.plain import to_plain
from evalkit.comparison.proportions import ProportionComparison
from evalkit.comparison.runs import Fault, RunLabel, RunView, citable_judge, citable_task, contradicted, label
from evalkit.comparison.settings import ComparisonSettings, settings_for
from evalkit.comparison.units import unit_codes
from evalkit.records import JudgeRun, TaskRun

if TYPE_CHECKING:
    from evalkit.policy import ResolvedPolicy  # takes as long to import as numpy, and comparing alone needs none


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One task, two runs, paired.

    Attributes:
        endpoint: endpoint of a policy it was made for; None outside a policy.
        task: task name.
        metric: the mark that counts.
        baseline, candidate: who was compared.
        task_run: what the baseline was asked; None if a run lacks the task.
        higher_is_better: whether more of the metric is better. If less is, marks are turned round before anything is
            estimated (from 0 to 1: 1 - mark), so that a positive difference is an improvement everywhere. None if
            nobody said; then no verdict may rest on it.
        judge_run: who judged the baseline; None for a task that is not judged.
        differences: what should agree and does not, by name.
        faults: why the data may not be judged; empty for sound data.
        planned: units of a complete comparison (items, or questions).
        coverage: what either side has of it; None if a run lacks the task.
        same_model: every reply of both sides is identical.
        proportion: right-or-wrong items; None for other metrics.
        mean: a metric that is not right or wrong; else None.
        soft: probability of the right choice; None without choice replies.
        rating: judged conversations; else None.
        shift: distance between the two distributions over the choices; None without choice replies.
        answers: generated answers; None without any.
        gates: deterministic gates on the answers of conversations; None without any.
        pairwise: judgings in which the candidate's answers were compared with the baseline's; empty without any.
    """

    endpoint: str | None
    task: str
    metric: str
    baseline: RunLabel
    candidate: RunLabel
    task_run: TaskRun | None
    judge_run: JudgeRun | None
    differences: tuple[Difference, ...]
    faults: tuple[Fault, ...]
    planned: int
    coverage: Coverage | None
    same_model: bool
    proportion: ProportionComparison | None = None
    mean: MeanComparison | None = None
    soft: MeanComparison | None = None
    rating: RatingComparison | None = None
    shift: DistributionShift | None = None
    answers: AnswerComparison | None = None
    gates: GateComparison | None = None
    pairwise: tuple[PairwiseComparison, ...] = ()
    higher_is_better: bool | None = None

    @property
    def blocking(self) -> tuple[Difference, ...]:
        """Differences that make the runs incomparable: not tolerated by name."""
        return tuple(found for found in self.differences if found.blocking and not found.tolerated)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON data, unrounded."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def compare_endpoints(policy: ResolvedPolicy, baseline: RunView, candidate: RunView) -> dict[str, Comparison]:
    """Compare two runs on every endpoint of a policy; endpoint name to comparison."""
    return {
        name: compare(baseline, candidate, endpoint.task, settings_for(policy, name))
        for name, endpoint in policy.endpoints.items()
    }


def compare(baseline: RunView, candidate: RunView, task: str, settings: ComparisonSettings | None = None) -> Comparison:
    """Compare two runs of a task, item by item.

    Args:
        baseline: the run differences are taken from.
        candidate: the other run.
        task: task name.
        settings: None for the defaults.
    """
    chosen = settings or ComparisonSettings()
    left, right = baseline.manifest.tasks.get(task), candidate.manifest.tasks.get(task)
    if left is None or right is None:
        return _without_task(baseline, candidate, task, chosen)
    pairs = pair(task, (left, baseline.records.get(task, ())), (right, candidate.records.get(task, ())))
    faults = [
        *contradicted("baseline", baseline, task),
        *contradicted("candidate", candidate, task),
        *pairs.faults,
        *broken_engine("baseline", pairs.baseline),
        *broken_engine("candidate", pairs.candidate),
        *unequal_choices(pairs.baseline, pairs.candidate),
    ]
    judge = baseline.manifest.judges.get(task)
    metric = chosen.metric or left.metric
    higher, disagreement = _direction((left, right), metric, chosen)
    faults += disagreement
    if left.kind == "conversation":
        parts, more = judged_parts(baseline, candidate, task, pairs, chosen)
        faults += more
    else:
        codes = unit_codes(
            task,
            [key[:3] for key in pairs.keys],
            pairs.unseen,
            baseline.facts(task) or candidate.facts(task),
            cluster=chosen.cluster,
            strata=chosen.strata,
        )
        parts = marked_parts(left, pairs, codes, chosen, faults, lower_is_better=higher is False)
    return Comparison(
        endpoint=chosen.endpoint,
        task=task,
        metric=metric,
        higher_is_better=higher,
        baseline=label(baseline.manifest),
        candidate=label(candidate.manifest),
        task_run=citable_task(left),
        judge_run=citable_judge(judge) if judge is not None else None,
        differences=find_differences(baseline.manifest, candidate.manifest, task, chosen.tolerated),
        faults=tuple(faults),
        same_model=all_identical(pairs.baseline, pairs.candidate),
        **parts,
    )


def _direction(
    runs: tuple[TaskRun, TaskRun], metric: str, settings: ComparisonSettings
) -> tuple[bool | None, list[Fault]]:
    """Return whether more of the metric is better, and a fault where two say different things."""
    said = {
        "the baseline's run": runs[0].direction(metric),
        "the candidate's run": runs[1].direction(metric),
        "the policy": settings.higher_is_better,
    }
    known = {who: higher for who, higher in said.items() if higher is not None}
    if len(set(known.values())) < 2:
        return next(iter(known.values()), None), []
    parts = ", ".join(f"{who} says {'more' if higher else 'less'}" for who, higher in known.items())
    message = f"is more or less of '{metric}' better? {parts}; next step: mend higher_is_better where it is wrong"
    return None, [Fault(code="not-comparable", message=message)]


def _without_task(baseline: RunView, candidate: RunView, task: str, settings: ComparisonSettings) -> Comparison:
    lacking = [
        side for side, run in (("baseline", baseline), ("candidate", candidate)) if task not in run.manifest.tasks
    ]
    message = f"task '{task}' is not in the run of the {' and the '.join(lacking)}; next step: run it"
    return Comparison(
        endpoint=settings.endpoint,
        task=task,
        metric=settings.metric or "",
        baseline=label(baseline.manifest),
        candidate=label(candidate.manifest),
        task_run=None,
        judge_run=None,
        differences=(),
        faults=(Fault(code="coverage", message=message),),
        planned=0,
        coverage=None,
        same_model=False,
    )
