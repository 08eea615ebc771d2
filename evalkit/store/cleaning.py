"""Secrets taken out of what a run folder is given, before it is compared or written.

In: manifests, records, judgments. Out: the same without secrets; what holds none comes back equal.
May not know: files.

Numbers, prompts and answers are evidence and stay as they are; only what was asked for, how, and what went wrong can
carry a key: settings, addresses, commands, failures.
"""

from __future__ import annotations

from dataclasses import replace

from evalkit.records import EngineIdentity, JudgeRun, Judgment, Manifest, Record
from evalkit.redaction import redact_settings, redact_text


def clean_manifest(manifest: Manifest) -> Manifest:
    """Return a manifest without secrets."""
    return replace(
        manifest,
        engine=clean_identity(manifest.engine),
        judges={name: clean_judge(judge) for name, judge in manifest.judges.items()},
        requested=redact_settings(manifest.requested),
        command=redact_text(manifest.command),
    )


def clean_identity(identity: EngineIdentity) -> EngineIdentity:
    """Return an identity without secrets."""
    return replace(
        identity,
        model=redact_text(identity.model),
        quantization=redact_settings(identity.quantization),
        options=redact_settings(identity.options),
    )


def clean_judge(judge: JudgeRun) -> JudgeRun:
    """Return who judged, without secrets."""
    return replace(judge, identity=clean_identity(judge.identity), requested=redact_settings(judge.requested))


def clean_record(record: Record) -> Record:
    """Return a record whose failure, if it has one, holds no secret."""
    return record if record.failure is None else replace(record, failure=redact_text(record.failure))


def clean_judgment(judgment: Judgment) -> Judgment:
    """Return a judgment whose failure, if it is one, holds no secret."""
    return replace(judgment, details=redact_settings(judgment.details)) if judgment.status == "api_error" else judgment
