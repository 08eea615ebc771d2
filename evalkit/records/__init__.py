"""What a run produces: items, replies, records, judgments, identities, manifests.

In: plain values. Out: frozen values with one canonical JSON form and one digest each.
May not know: where they are stored, who measured them, or which run is the baseline.

A record holds what one engine did with one item; every number in a report is derived from records, later and again.
"""

from __future__ import annotations

from evalkit.records.canonical import canonical_json, content_digest, digest, fold, text_digest
from evalkit.records.contents import CONTENT, ROW, SUBJECT, ItemFacts, item_facts
from evalkit.records.identity import EngineIdentity, Fidelity, processor_line
from evalkit.records.items import Item
from evalkit.records.judgments import Judgment, JudgmentStatus, judged_task, judging_name
from evalkit.records.manifest import FORMAT, JudgeRun, Manifest, TaskRun
from evalkit.records.origin import Origin, model_key, origin_of
from evalkit.records.parsing import build, parse_object
from evalkit.records.record import Record, Status
from evalkit.records.replies import ChoiceReply, TextReply, Turn

__all__ = [
    "CONTENT",
    "FORMAT",
    "ROW",
    "SUBJECT",
    "ChoiceReply",
    "EngineIdentity",
    "Fidelity",
    "Item",
    "ItemFacts",
    "JudgeRun",
    "Judgment",
    "JudgmentStatus",
    "Manifest",
    "Origin",
    "Record",
    "Status",
    "TaskRun",
    "TextReply",
    "Turn",
    "build",
    "canonical_json",
    "content_digest",
    "digest",
    "fold",
    "item_facts",
    "judged_task",
    "judging_name",
    "model_key",
    "origin_of",
    "parse_object",
    "processor_line",
    "text_digest",
]
