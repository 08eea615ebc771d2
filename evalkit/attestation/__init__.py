"""The attestation: a certificate and everything under it, signed, and checked by anyone.

In: the folder of a certificate and its runs, a key. Out: a signed envelope; findings of a check.
May not know: engines. Checking recomputes every statistic and the verdict from the records; nothing is believed.
"""

from evalkit.attestation.checking import Check, check_folder
from evalkit.attestation.findings import Finding
from evalkit.attestation.signing import ENVELOPE, dropped_keys, sign_folder

__all__ = ["ENVELOPE", "Check", "Finding", "check_folder", "dropped_keys", "sign_folder"]
