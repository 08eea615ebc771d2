"""The file of a qualification: rows, numbers, and a digest that a certificate cites.

In: rows and who was tried. Out: one JSON file, the same bytes for the same rows; or such a file, checked.
May not know: engines, clocks, bars.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit import __version__
from evalkit.comparison.plain import to_plain
from evalkit.errors import DataError, StoreError, UsageError
from evalkit.probes import ProbeRow
from evalkit.qualification.estimates import Estimates, estimates_of
from evalkit.records import digest, parse_object
from evalkit.store.lines import write_atomic

VERSION = 1
KIND = "judge-qualification"


@dataclass(frozen=True, kw_only=True)
class Qualification:
    """A judge that was tried.

    Attributes:
        evalkit: version that tried it.
        judge: identity of the judge engine as plain data, with its digest `sha256`.
        profile, profile_sha256: in which words it was asked.
        references_sha256: digest of the reference answers it got; None without any.
        source: the run whose answers the probes were made from: task, identity, digest of its records.
        rows: every probe and its outcome.
        agreement: agreement of the judge, of GPT-4 and of people with people, as plain data; None without votes.
    """

    judge: Mapping[str, Any]
    profile: str
    profile_sha256: str
    references_sha256: str | None
    source: Mapping[str, Any]
    rows: tuple[ProbeRow, ...]
    agreement: Mapping[str, Any] | None = None
    evalkit: str = field(default=__version__)

    @property
    def estimates(self) -> Estimates:
        """What the rows show."""
        return estimates_of(self.rows)

    @property
    def content(self) -> dict[str, Any]:
        """Everything but the digest, as JSON data."""
        plain: dict[str, Any] = to_plain(
            {
                "kind": KIND,
                "version": VERSION,
                "evalkit": self.evalkit,
                "judge": self.judge,
                "profile": self.profile,
                "profile_sha256": self.profile_sha256,
                "references_sha256": self.references_sha256,
                "source": self.source,
                "estimates": self.estimates,
                "agreement": self.agreement,
                "rows": [row.to_plain() for row in self.rows],
            }
        )
        return plain

    @property
    def summary(self) -> dict[str, Any]:
        """The content without the rows: what a certificate repeats."""
        return {name: value for name, value in self.content.items() if name != "rows"}

    @property
    def sha256(self) -> str:
        """Digest of the content: what a certificate cites."""
        return digest(self.content)


def write_qualification(path: Path, found: Qualification) -> None:
    """Write the file, whole or not at all.

    Raises:
        StoreError: it cannot be written.
    """
    text = json.dumps(
        {**found.content, "sha256": found.sha256}, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False
    )
    write_atomic(path, [text + "\n"])


def read_qualification(path: Path) -> Qualification:
    """Read a file and check that its numbers follow from its rows.

    Raises:
        UsageError: there is no such file.
        DataError: it is no qualification, or was changed after it was written.
        StoreError: it cannot be read.
    """
    try:
        row = parse_object(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file; next step: evalkit judge qualify") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; next step: qualify the judge again") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    if row.get("kind") != KIND or row.get("version") != VERSION:
        raise DataError(f"{path}: not a file of a judge's qualification, or of another version")
    found = _built(path, row)
    if found.sha256 != row.get("sha256"):
        raise DataError(
            f"{path}: its digest is {row.get('sha256')}, its content has {found.sha256}: it was changed after it was "
            "written; next step: qualify the judge again"
        )
    return found


def _built(path: Path, row: Mapping[str, Any]) -> Qualification:
    try:
        rows: Sequence[Mapping[str, Any]] = row["rows"]
        return Qualification(
            judge=row["judge"],
            profile=row["profile"],
            profile_sha256=row["profile_sha256"],
            references_sha256=row["references_sha256"],
            source=row["source"],
            rows=tuple(ProbeRow.from_plain(one) for one in rows),
            agreement=row["agreement"],
            evalkit=row["evalkit"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a whole qualification ({error!r}); next step: qualify the judge again") from error
