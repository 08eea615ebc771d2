"""The in-toto statement over a certificate: what was found, on which bytes, under which rules.

In: a certificate as data, digests of the files it rests on. Out: the statement's canonical JSON text, or what one says.
May not know: signatures, folders.

The predicate is in-toto's own test-result 0.1, so that tools that know nothing of evalkit can gate on `result`; what
evalkit adds lies under one key of its own. There is no time in it: equal evidence is an equal statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from evalkit.attestation.terms import borrowed_words, terms, verdicts
from evalkit.errors import DataError
from evalkit.records import canonical_json, parse_object

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"

Data = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A signed statement, read.

    Attributes:
        files: file name to sha256.
        predicate: everything else.
    """

    files: Mapping[str, str]
    predicate: Data


def statement_text(document: Data, files: Mapping[str, str]) -> str:
    """Write the statement over a certificate.

    Args:
        document: what `certificate.json` holds.
        files: name to sha256 of every file it rests on.
    """
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": files[name]}} for name in sorted(files)],
            "predicateType": PREDICATE_TYPE,
            "predicate": predicate(document),
        }
    )


def predicate(document: Data) -> dict[str, Any]:
    """Return what is stated of a certificate: in-toto's test result, and under which terms it was reached.

    PASSED is for whoever looks at nothing else, so it is said only where the words are the standard's own or the
    policy's own: CERTIFIED in borrowed words, by a policy weaker than the standard of those words, is WARNED.
    """
    outcomes = {str(one["recipe"]): str(one["outcome"]) for one in verdicts(document)}
    borrowed = borrowed_words(document)
    words = {"BORROWED" if name in borrowed else outcome for name, outcome in outcomes.items()}
    warned = words <= {"CERTIFIED", "BORROWED"} or words == {"INCONCLUSIVE"}
    result = "PASSED" if words == {"CERTIFIED"} else "WARNED" if words and warned else "FAILED"
    return {
        "result": result,
        "configuration": configuration(document),
        "passedTests": sorted(n for n, outcome in outcomes.items() if outcome == "CERTIFIED" and n not in borrowed),
        "warnedTests": sorted(n for n, outcome in outcomes.items() if outcome == "INCONCLUSIVE" or n in borrowed),
        "failedTests": sorted(name for name, outcome in outcomes.items() if outcome in ("REJECTED", "INVALID")),
        "evalkit": {
            "version": document["evalkit"],
            "certificate_version": document["certificate_version"],
            "policy": document["decision"]["policy"],
            "outcomes": outcomes,
            **terms(document),
        },
    }


def configuration(document: Data) -> list[dict[str, Any]]:
    """Return the digests of everything that a verdict depends on beside the records: policy, definitions, recipes."""
    found = {f"policy/{document['decision']['policy']}": document["policy"]["sha256"]}
    for name, run in document["runs"].items():
        engine = run["engine"]
        found[f"weights/{engine['model']}/{name}"] = engine["weights_sha256"]
        if engine["recipe_sha256"]:
            found[f"recipe/{engine['recipe']}/{name}"] = engine["recipe_sha256"]
        for task, asked in run["tasks"].items():
            found[f"task/{task}/{name}"] = asked["definition_sha256"]
        for task, judge in run["judges"].items():
            found[f"judge/{judge['profile']}/{task}/{name}"] = judge["profile_sha256"]
            if judge["references_sha256"]:
                found[f"references/{task}/{name}"] = judge["references_sha256"]
    for at, judge in enumerate(document.get("qualifications") or ()):
        found[f"qualification/{judge['profile']}/{at}"] = judge["sha256"]
    return [{"name": name, "digest": {"sha256": found[name]}} for name in sorted(found)]


def parse_statement(payload: bytes, where: str) -> Statement:
    """Read a signed statement strictly.

    Raises:
        DataError: it is no statement that evalkit writes, or a file name leaves the folder.
    """
    try:
        row = parse_object(payload.decode("utf-8"), where)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: the statement is not UTF-8 at byte {error.start}") from error
    if row.get("_type") != STATEMENT_TYPE or row.get("predicateType") != PREDICATE_TYPE:
        raise DataError(f"{where}: _type {row.get('_type')!r}, predicateType {row.get('predicateType')!r}")
    subjects, said = row.get("subject"), row.get("predicate")
    if not isinstance(subjects, list) or not subjects or not isinstance(said, dict):
        raise DataError(f"{where}: a statement must hold subjects and a predicate")
    files: dict[str, str] = {}
    for subject in subjects:
        name = subject.get("name") if isinstance(subject, dict) else None
        digest = subject.get("digest") if isinstance(subject, dict) else None
        sha256 = digest.get("sha256") if isinstance(digest, dict) else None
        if not isinstance(name, str) or not isinstance(sha256, str):
            raise DataError(f"{where}: a subject must hold a name and a sha256 digest, not {subject!r}")
        if name in files:
            raise DataError(f"{where}: two subjects have the name {name!r}")
        files[_inside(name, where)] = sha256
    return Statement(files=files, predicate=said)


def _inside(name: str, where: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or str(path) != name or not path.parts:
        raise DataError(f"{where}: the file name {name!r} leaves the folder of the certificate")
    return name
