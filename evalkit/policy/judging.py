"""What a policy asks of a judge before the judge's word counts.

In: the mapping `judge` of a policy file. Out: frozen, checked models.
May not know: how a judge is tried.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from evalkit.configuration import Section
from evalkit.records import digest

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
