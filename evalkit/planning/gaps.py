"""What a suite lacks for a verdict under its policy, whatever the power.

In: a policy and a suite. Out: sentences. May not know: what a run would find.
"""

from __future__ import annotations

from evalkit.policy import MeanEndpoint, Policy
from evalkit.suite import EngineSpec, JudgeSpec, Suite


def suite_gaps(policy: Policy, suite: Suite) -> tuple[str, ...]:
    """Return why a suite cannot be certified under a policy: tasks, checks and judgments it does not ask for."""
    gating = {name: endpoint for name, endpoint in policy.endpoints.items() if endpoint.gating}
    gaps = [
        f"{name}: the suite does not run its task '{endpoint.task}'"
        for name, endpoint in gating.items()
        if endpoint.task not in suite.tasks
    ]
    if "aa" in policy.assay.required and suite.rerun is None:
        gaps.append("the policy requires the baseline to be run twice, the suite does not (rerun:)")
    if "control" in policy.assay.required and not suite.controls:
        gaps.append("the policy requires a recipe broken on purpose, the suite has no controls")
    gaps += _baseline(policy, suite.baseline)
    for name, endpoint in gating.items():
        if not isinstance(endpoint, MeanEndpoint):
            continue
        if suite.judge is None:
            gaps.append(f"{name}: the suite has no judge")
        elif endpoint.judgments not in (None, suite.judge.repeats):
            gaps.append(
                f"{name}: the policy asks for {endpoint.judgments} judgments of each answer, the suite's judge gives "
                f"{suite.judge.repeats} (repeats)"
            )
        if suite.judge is not None:
            gaps += _untried(policy, name, suite.judge)
    return tuple(gaps)


def _baseline(policy: Policy, baseline: EngineSpec) -> list[str]:
    """Return why the baseline cannot be one under the policy, as far as its specification says."""
    allowed, required = policy.assay.baseline_recipes, policy.assay.required
    if "baseline_recipe" not in required or baseline.recipe in allowed:
        return []
    wanted = f"the policy wants a baseline of recipe {' or '.join(allowed)}, the suite's is '{baseline.recipe}'"
    return [f"{wanted}, so every verdict is INVALID (baseline-recipe)"]


def _untried(policy: Policy, name: str, judge: JudgeSpec) -> list[str]:
    """Return why no judge of a suite could show that its word counts, where the policy asks for that."""
    rules = policy.judge
    if rules is None or rules.qualification == "none":
        return []
    follows = "every verdict is INVALID" if rules.qualification == "required" else "it decides nothing"
    if judge.qualify is None:
        return [f"{name}: the policy wants judges that qualified, the suite tries none (judge: qualify), so {follows}"]
    if judge.qualify < rules.bars.questions_min:
        few = f"{name}: the policy wants judges tried on {rules.bars.questions_min} questions, the suite tries them on "
        return [f"{few}{judge.qualify} (judge: qualify), so {follows}"]
    return []
