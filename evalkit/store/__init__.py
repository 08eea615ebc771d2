"""Run folders under `outputs/`: the only place where the two halves of evalkit meet.

In: manifests, items, records, judgments. Out: the same, read back and checked.
Must not depend on: how a record was made, or which run is the baseline.
"""

from evalkit.store.folder import RunFolder, keep_log
from evalkit.store.reading import (
    RatingStore,
    Run,
    begun_manifest,
    judgment_key,
    read_items,
    read_judgments,
    read_manifest,
    read_records,
    read_run,
    record_keys,
)

__all__ = [
    "RatingStore",
    "Run",
    "RunFolder",
    "begun_manifest",
    "judgment_key",
    "keep_log",
    "read_items",
    "read_judgments",
    "read_manifest",
    "read_records",
    "read_run",
    "record_keys",
]
