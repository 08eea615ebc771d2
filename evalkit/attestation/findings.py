"""What a check can find wrong, one word for each.

In: nothing. Out: the words, and `Finding`.
May not know: how anything is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FINDINGS: Mapping[str, str] = {
    "envelope-missing": "there is no signature beside the certificate",
    "envelope-format": "the signature file is no DSSE envelope of an in-toto statement",
    "stranger-key": "it is signed, but by nobody you trust",
    "signature-invalid": "a trusted key's signature does not fit the content",
    "statement-format": "the signed statement is not one that evalkit writes",
    "statement-differs": "the signed statement says something else than the certificate",
    "not-covered": "a file that the certificate rests on is not in the signed statement",
    "file-missing": "a signed file is not there",
    "file-changed": "a signed file has other bytes",
    "file-added": "a run folder holds a file that was not signed",
    "file-irregular": "a link, a device or anything but a regular file lies among what must be covered",
    "file-stranger": "a file beside the certificate could be taken for a part of it and is none",
    "certificate-format": "the certificate cannot be read",
    "policy-digest": "the policy in the certificate is not the one its digest names",
    "run-missing": "a run folder that the certificate cites is not there",
    "run-unreadable": "a run folder is damaged",
    "records-differ": "records or judgments are not those the certificate cites",
    "verdict-differs": "the records give another verdict",
    "number-differs": "the records give another value",
    "ledger-missing": "the ledger that the certificate cites is not there",
    "ledger-edited": "the ledger's entries are no chain: one was changed, taken out or put in",
    "ledger-truncated": "the ledger is shorter than the certificate that cites it",
    "ledger-forked": "the ledger holds other entries than the certificate cites",
    "seal-invalid": "the signature of a sealed policy does not fit what the ledger says of it",
    "report-differs": "a report says something else than the certificate",
    "report-unchecked": "a report could not be written again here, so nothing is known of what it says",
    "too-few-signers": "fewer of the keys you trust signed it than you ask for",
    "other-policy": "it was decided by another policy than you ask for",
    "other-tier": "its policy is of another tier, or borrows the word and is weaker than the standard",
    "other-weights": "the recipe you ask for is not in it, or has other weights",
    "other-baseline": "the baseline has other weights than you ask for",
    "margin-too-wide": "it allows a larger loss than you do",
    "alpha-too-large": "it allows a larger chance of a false certificate than you do",
}
"""Every finding with its meaning."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        code: a key of `FINDINGS`.
        where: file, or place in the certificate.
        message: what was expected and what was found.
    """

    code: str
    where: str
    message: str

    def __post_init__(self) -> None:
        if self.code not in FINDINGS:
            raise ValueError(f"{self.code!r} is no finding")
