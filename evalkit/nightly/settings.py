"""What is asked of one night, beside the suite and its policy.

In: options of the command line. Out: `NightSettings`.
May not know: where an option came from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from evalkit.errors import UsageError

BLOCK = 256
"""Items put to an engine between two looks at the evidence."""

_LABEL = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


@dataclass(frozen=True, kw_only=True)
class NightSettings:
    """One night.

    Attributes:
        night: its label, normally the date; with the seed of the policy it draws the order of the items.
        started_at: UTC time, ISO 8601.
        site: where it runs, for suites that several machines watch; part of what tells nights apart.
        full: whether an alarm, or the cap, leads to the full comparison.
        block: items asked between two looks; it changes the cost, never the outcome.
        discordance: share of items that flip, to plan with; None for what is known.
        rate: items a second, to plan with; None for what is known.
        environment: what else a reader may want to know of the night (driver, commit, ...).

    Raises:
        UsageError: a label that is no folder name, or an empty block.
    """

    night: str
    started_at: str
    site: str = "default"
    full: bool = True
    block: int = BLOCK
    discordance: float | None = None
    rate: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("night", "site"):
            if not _LABEL.fullmatch(getattr(self, name)):
                raise UsageError(
                    f"--{name} {getattr(self, name)!r}: write letters, digits, dots, dashes and underscores, "
                    "such as 2026-03-12"
                )
        if self.block < 1:
            raise UsageError(f"--block {self.block}: at least 1 item is asked at a time")
