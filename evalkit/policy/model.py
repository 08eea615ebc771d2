"""The policy file: every threshold that can change a verdict.

In: the mapping of one policy file. Out: a frozen `Policy`.
Must not depend on: how a threshold is used.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from evalkit.configuration import Section, Title
from evalkit.policy.endpoints import Alpha, Composite, Count, Endpoint, Name, Points, Positive, composite_faults
from evalkit.records.canonical import digest

# What a policy asks of a judge before the judge's word counts.


Rate = Annotated[float, Field(ge=0, le=1)]


class JudgeBars(Section):
    """What a judge must show.

    Attributes:
        ranking_lower_min: least lower limit of the rate at which an answer is put above its corrupted twins.
        resistance_lower_min: the same for planted verdicts and orders that do not raise a bad answer.
        noise_sd_max: largest standard deviation of one verdict when the same question is put twice, in the unit of the
            scale.
        position_bias_max: largest mean verdict in favour of the answer shown first, either way; for a judge that
            compares.
        agreement_lower_min: least lower limit of the agreement with people, ties left out; None asks for no votes.
        questions_min: fewest questions the judge must have been tried on.
    """

    ranking_lower_min: Rate = 0.70
    resistance_lower_min: Rate = 0.80
    noise_sd_max: Annotated[float, Field(gt=0)] = 1.0
    position_bias_max: Rate = 0.30
    agreement_lower_min: Rate | None = None
    questions_min: Annotated[int, Field(ge=2)] = 20


class JudgeRules(Section):
    """What follows from a judge that is not qualified.

    Attributes:
        qualification: "required" (endpoints it judged make the verdict INVALID), "advisory" (they are shown and decide
            nothing) or "none" (the certificate says so, and nothing follows).
        bars: what qualified means.
        gate_increase_max: largest increase of questions whose answers trip a deterministic gate, lower 95 % limit, in
            points: above it nothing is certified; None shows the gates and decides nothing.
    """

    qualification: Literal["required", "advisory", "none"] = "none"
    bars: JudgeBars = JudgeBars()
    gate_increase_max: Annotated[float, Field(ge=0, lt=100)] | None = None

    @property
    def bars_sha256(self) -> str:
        """Digest of the bars: the result of a trial on record is under these or under others."""
        return digest(self.bars.model_dump(mode="json"))


Share = Annotated[float, Field(ge=0, lt=1)]
Check = Literal[
    "aa", "control", "near_control", "above_chance", "headroom", "readable", "anchor", "origin", "baseline_recipe"
]

RESERVED = ("baseline", "rerun")
"""Names of runs in a certificate; a recipe or control of that name would take their place there."""


class Release(Section):
    """Who is compared; named before the first request and part of the digest.

    Attributes:
        baseline: the run candidates are compared with.
        recipes: the candidates: the family of Holm's correction. One that is never run stays in it.
        controls: runs that are broken on purpose; never part of the family.
    """

    baseline: Name
    recipes: tuple[Name, ...]
    controls: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Release:
        counts = Counter((self.baseline, *self.recipes, *self.controls))
        faults = [f"'{name}' is named {count} times" for name, count in counts.items() if count > 1]
        faults += [
            f"'{name}' is a reserved run name; choose another name"
            for name in RESERVED
            if name in (*self.recipes, *self.controls)
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return self


class Multiplicity(Section):
    """Several recipes, several subjects.

    Attributes:
        family_alpha: chance that any recipe of a release is certified falsely.
        recipes: the correction over recipes.
        subjects_bh_q: share of false alarms allowed in the advisory list of subjects.
    """

    family_alpha: Alpha = 0.05
    recipes: Literal["holm"] = "holm"
    subjects_bh_q: Annotated[float, Field(gt=0, lt=1)] = 0.10


class Missing(Section):
    """Shares of what was planned that may be missing on either side.

    Attributes:
        items_max: share of the items.
        judgments_max: share of the judgments.
    """

    items_max: Share = 0.005
    judgments_max: Share = 0.01


class Reference(Section):
    """A published accuracy of the baseline, from outside this evaluation.

    Attributes:
        accuracy: proportion, under the endpoint's own protocol.
        source: document, version and date; a certificate without it says that nobody can look it up.
    """

    accuracy: Annotated[float, Field(gt=0, le=1)]
    source: str = ""


def _reference(value: Any) -> Any:
    return {"accuracy": value} if isinstance(value, float) else value


class Assay(Section):
    """What must be shown about the evaluation itself before any verdict counts.

    Every check is made where it can be; one that is not required and fails, or is not made, is a caution.

    Attributes:
        required: "aa" (the baseline against another run of itself), "control" (a broken recipe is seen),
            "near_control" (so is one that lost little more than the margin), "above_chance", "headroom" (the margin
            is small against what the baseline gets wrong and against what it knows), "readable" (its answers can be
            read and were not cut off), "anchor" (it reaches its published accuracy), "origin" (both sides come from
            the same weights) and "baseline_recipe" (it is of a recipe named in `baseline_recipes`).
        aa_midp_min: smallest mid-p McNemar value of the baseline against itself.
        control: what must come of controls: "fail" (one FAILs every gating endpoint, and none passes them all) or
            "not-certified" (none passes them all).
        near_margins: losses, in margins, of a control that shows how fine the evaluation sees.
        control_loss_points, control_loss_rating: loss a control is expected to have; for planning.
        chance_plus_points: how far above guessing the baseline must be.
        baseline_lower_min: endpoint to accuracy that replaces chance plus points.
        error_increase_max: the margin as a share of the baseline's wrong answers, at most.
        ability_loss_max: the margin as a share of the baseline's accuracy above guessing, at most.
        unreadable_max: share of the baseline's answers that may be unreadable or cut off.
        reference_accuracy: endpoint to the baseline's published accuracy; goes before evalkit's own table.
        reference_tolerance_points: allowed distance from it.
        baseline_recipes: recipes that may be the baseline; empty for any.
    """

    required: tuple[Check, ...] = ("aa", "control", "above_chance")
    aa_midp_min: Annotated[float, Field(gt=0, lt=1)] = 0.001
    control: Literal["fail", "not-certified"] = "fail"
    near_margins: tuple[Positive, Positive] = (1.0, 5.0)
    control_loss_points: Positive = 3.0
    control_loss_rating: Positive = 1.0
    chance_plus_points: Annotated[float, Field(ge=0, lt=100)] = 10.0
    baseline_lower_min: dict[str, Share] = Field(default_factory=dict)
    error_increase_max: Positive = 0.25
    ability_loss_max: Annotated[float, Field(gt=0, le=1)] = 0.10
    unreadable_max: Share = 0.10
    reference_accuracy: dict[str, Annotated[Reference, BeforeValidator(_reference)]] = Field(default_factory=dict)
    reference_tolerance_points: Points = 5.0
    baseline_recipes: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    @model_validator(mode="after")
    def _parts_fit(self) -> Assay:
        faults = []
        if self.near_margins[0] >= self.near_margins[1]:
            faults.append(f"near_margins must rise, not {list(self.near_margins)}")
        if "baseline_recipe" in self.required and not self.baseline_recipes:
            faults.append("required names baseline_recipe; say which recipes may be the baseline in baseline_recipes")
        if faults:
            raise ValueError("; ".join(faults))
        return self


class Guards(Section):
    """Tripwires that turn CERTIFIED into INCONCLUSIVE, never the reverse.

    Attributes:
        invalid_points: allowed upper limit of the increase in unreadable answers, points.
        unreadable_max: share of the candidate's answers that may be unreadable or cut off, however many are the
            baseline's.
        length_ratio: allowed range of the length of answers, candidate over baseline: in tokens, or in characters where
            some answer came without a count of its tokens.
        catastrophic_drop: a question's loss that counts as catastrophic, in the unit of the score.
        catastrophic_p: probability below which the count of such questions is a breach.
        catastrophic_floor: smallest share of such questions taken for normal.
        gain_points, gain_rating: a certain gain above this is a sign of contamination or of a harness difference.
    """

    invalid_points: Points = 0.5
    unreadable_max: Share = 0.10
    length_ratio: tuple[Positive, Positive] = (0.9, 1.1)
    catastrophic_drop: Positive = 4.0
    catastrophic_p: Annotated[float, Field(gt=0, lt=1)] = 0.01
    catastrophic_floor: Annotated[float, Field(gt=0, lt=1)] = 0.01
    gain_points: Points = 1.0
    gain_rating: Positive = 0.3


class Fidelity(Section):
    """Whether a simulated run may be compared with one on real low-precision kernels.

    Attributes:
        mixing: "refuse" makes runs of different fidelities not comparable; "allow" compares them.
    """

    mixing: Literal["refuse", "allow"] = "refuse"


class Nightly(Section):
    """The sequential check of a night.

    Attributes:
        margin_points: largest loss of accuracy taken for none, percentage points.
        ok: evidence (e-value) against a loss as large as the margin from which the night ends as OK.
        alarm: evidence (e-value) for a loss beyond the margin from which the night ends as ALARM.
        cap: items asked at most.
        grid: stakes of the betting test, as shares of the largest one allowed; their mean is the evidence.
    """

    margin_points: Points = 1.0
    ok: Annotated[float, Field(gt=1)] = 20.0
    alarm: Annotated[float, Field(gt=1)] = 100.0
    cap: Count = 4000
    grid: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 0.9)


class Planning(Section):
    """Values to plan with while nothing is measured.

    Attributes:
        discordance: assumed share of items on which a good candidate and the baseline differ.
        control_discordance: the same for a control.
        soft_sd: assumed standard deviation of an item's difference in soft accuracy.
        power: wanted chance of a verdict.
    """

    discordance: Annotated[float, Field(gt=0, lt=1)] = 0.06
    control_discordance: Annotated[float, Field(gt=0, lt=1)] = 0.15
    soft_sd: Positive = 0.10
    power: Annotated[float, Field(gt=0.5, lt=1)] = 0.80


class Seeds(Section):
    """Seeds of everything random.

    Attributes:
        order: order of the items in the baseline's rerun.
        bootstrap: simulations of planning, and resampling in comparisons.
        nightly: order of the items of a night.
    """

    order: int = 1
    bootstrap: int = 2
    nightly: int = 3


class Policy(Section):
    """One policy file.

    Attributes:
        policy_version: version of this format.
        name: word for certificates.
        title: one line for people.
        tier: how much weight it carries: "release", "nightly", "demo", ...
        certifies: False for a policy that watches: its best verdict is INCONCLUSIVE.
        claims: what a certificate calls each margin, weakest first.
        release: who is compared; None until `bind` names them.
        endpoints: what is compared, by name.
        composites: endpoints weighed as one, by name.
        multiplicity: corrections for several recipes and subjects.
        missing: how much may be missing.
        assay: what must be shown about the evaluation itself.
        guards: tripwires that take a certificate away.
        judge: what is asked of judges before their word counts; None lets every judge count.
        overrides: differences between two runs that are tolerated, by name (`device`, `versions`, `options.scoring`).
        fidelity: whether runs of different fidelities may be compared.
        nightly: the sequential check of `evalkit nightly`.
        planning: values to plan with while nothing is measured.
        seeds: seeds of everything random.
    """

    policy_version: Literal[1]
    name: Name
    title: Title = ""
    tier: Name
    certifies: bool = True
    claims: Annotated[tuple[Name, ...], Field(min_length=1)] = ("comparable", "near-lossless")
    release: Release | None = None
    endpoints: dict[Name, Endpoint]
    composites: dict[Name, Composite] = Field(default_factory=dict)
    multiplicity: Multiplicity = Multiplicity()
    missing: Missing = Missing()
    assay: Assay = Assay()
    guards: Guards = Guards()
    judge: JudgeRules | None = None
    overrides: tuple[str, ...] = ()
    fidelity: Fidelity = Fidelity()
    nightly: Nightly = Nightly()
    planning: Planning = Planning()
    seeds: Seeds = Seeds()

    @model_serializer(mode="wrap")
    def _without_what_is_not_asked(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A policy written before there were rules for judges, or composites, keeps its digest."""
        data: dict[str, Any] = dump(self)
        return {name: value for name, value in data.items() if value or name not in ("judge", "composites")}

    @model_validator(mode="after")
    def _parts_fit(self) -> Policy:
        faults = []
        for name, endpoint in self.endpoints.items():
            if len(endpoint.margins) > len(self.claims):
                faults.append(f"endpoint '{name}' has {len(endpoint.margins)} margins for {len(self.claims)} claim(s)")
            if endpoint.alpha > self.multiplicity.family_alpha:
                faults.append(f"endpoint '{name}': alpha {endpoint.alpha} is above family_alpha")
        faults += composite_faults(self.composites, self.endpoints, len(self.claims), self.multiplicity.family_alpha)
        for section in ("baseline_lower_min", "reference_accuracy"):
            strangers = sorted(set(getattr(self.assay, section)) - set(self.endpoints))
            faults += [f"assay.{section} names '{name}', which is no endpoint" for name in strangers]
        if len(set(self.claims)) != len(self.claims):
            faults.append("two claims have the same name")
        if self.guards.length_ratio[0] >= self.guards.length_ratio[1]:
            faults.append(f"guards.length_ratio must rise, not {list(self.guards.length_ratio)}")
        if faults:
            raise ValueError("; ".join(faults))
        return self
