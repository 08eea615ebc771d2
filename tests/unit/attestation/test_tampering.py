"""What somebody could change about a signed certificate, and the word that each change is caught with.

Some changes are an outsider's: the files change after the signing. Some are the signer's own: then the signature is
good, and only computing everything again tells.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from evalkit.attestation import ENVELOPE, check_folder
from evalkit.attestation.envelope import parse_envelope, sign
from evalkit.attestation.statement import covered_files, digests, statement_text
from evalkit.records import digest

CANDIDATE, OTHER = "equal", "worse"


class Copy:
    """A copy of the signed release that a test may change."""

    def __init__(self, folder: Path, signed: Any) -> None:
        self.folder, self.signed = folder, signed

    def text(self, name: str, change: Callable[[str], str]) -> None:
        before = (self.folder / name).read_text("utf-8")
        after = change(before)
        assert after != before, f"the change of {name} changes nothing"
        (self.folder / name).write_text(after, "utf-8")

    def lines(self, name: str, change: Callable[[list[str]], list[str]]) -> None:
        self.text(name, lambda text: "".join(change(text.splitlines(keepends=True))))

    def certificate(self, change: Callable[[dict[str, Any]], None]) -> None:
        def changed(text: str) -> str:
            row = json.loads(text)
            change(row)
            return json.dumps(row, sort_keys=True, indent=1, ensure_ascii=False) + "\n"

        self.text("certificate.json", changed)

    def envelope(self, change: Callable[[dict[str, Any]], None]) -> None:
        row = json.loads((self.folder / ENVELOPE).read_text("utf-8"))
        change(row)
        (self.folder / ENVELOPE).write_text(json.dumps(row), "utf-8")

    def statement(self, change: Callable[[dict[str, Any]], None], key: Any = None) -> None:
        """Change what is signed; without a key the old signature stays."""
        envelope = parse_envelope((self.folder / ENVELOPE).read_text("utf-8"), ENVELOPE)
        row = json.loads(envelope.payload)
        change(row)
        payload = json.dumps(row).encode()
        if key is not None:
            (self.folder / ENVELOPE).write_text(sign(payload, key).to_json(), "utf-8")
        else:
            self.envelope(lambda old: old.update(payload=base64.b64encode(payload).decode()))

    def sign_again(self, key: Any = None, leave_out: str = "") -> None:
        """Sign whatever lies here, without a check: what a signer could do with another program."""
        document = json.loads((self.folder / "certificate.json").read_text("utf-8"))
        names = [n for n in covered_files(document, self.folder) if not leave_out or not n.startswith(leave_out)]
        payload = statement_text(document, {n: d for n, d in digests(self.folder, names) if d}).encode()
        (self.folder / ENVELOPE).write_text(sign(payload, key or self.signed.key).to_json(), "utf-8")


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(row: Any) -> None:
        *parts, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        for part in parts:
            row = row[part]
        assert row[last] != value
        row[last] = value

    return change


def _next_digit(found: re.Match[str]) -> str:
    return f"{found[1]}{(int(found[2]) + 1) % 10}"


def _certify_the_rejected(row: dict[str, Any]) -> None:
    (verdict,) = [one for one in row["decision"]["verdicts"] if one["recipe"] == OTHER]
    verdict.update(outcome="CERTIFIED", claim="within-demo-margin", reasons=[])


def _wider_margin(row: dict[str, Any]) -> None:
    row["policy"]["document"]["endpoints"]["mmlu"]["margins_points"] = [30.0]
    sha256 = digest(row["policy"]["document"])
    row["policy"]["sha256"] = row["decision"]["policy_sha256"] = sha256


def _swap_folders(copy: Copy) -> None:
    for old, new in ((CANDIDATE, "x"), (OTHER, CANDIDATE), ("x", OTHER)):
        (copy.folder / old).rename(copy.folder / new)


def _spoof_key_id(copy: Copy) -> None:
    mine = json.loads((copy.folder / ENVELOPE).read_text("utf-8"))["signatures"][0]["keyid"]
    copy.sign_again(copy.signed.stranger)
    copy.envelope(lambda row: row["signatures"][0].update(keyid=mine))


def _signed_lie(copy: Copy) -> None:
    copy.certificate(_certify_the_rejected)
    copy.sign_again()


def _signed_statement_of_another_verdict(copy: Copy) -> None:
    copy.statement(_set("predicate/evalkit/outcomes/worse", "CERTIFIED"), copy.signed.key)


def _signed_gentler_policy(copy: Copy) -> None:
    copy.certificate(_wider_margin)
    copy.sign_again()


def _signed_better_records(copy: Copy) -> None:
    """The signer makes lost items right in the candidate's records, and leaves the certificate as it was."""
    copy.text(f"{OTHER}/records/mmlu.jsonl", lambda text: text.replace('"acc":0.0', '"acc":1.0'))
    copy.sign_again()


def _signed_report_of_another_verdict(copy: Copy) -> None:
    copy.text("report.html", lambda text: text.replace("worse is rejected", "worse is certified"))
    copy.sign_again()


RECORDS, JUDGMENTS = f"{CANDIDATE}/records/mmlu.jsonl", f"{CANDIDATE}/judgments/mt-bench.jsonl"

TAMPERED: Mapping[str, tuple[Callable[[Copy], None], set[str], str]] = {
    "one digit of a log-probability": (
        lambda c: c.text(RECORDS, lambda t: re.sub(r"(-\d\.\d{5})(\d)", _next_digit, t, count=1)),
        {"file-changed", "records-differ"},
        RECORDS,
    ),
    "a record is removed": (
        lambda c: c.lines(RECORDS, lambda lines: lines[1:]),
        {"file-changed", "records-differ"},
        RECORDS,
    ),
    "a record is there twice": (
        lambda c: c.lines(RECORDS, lambda lines: [*lines, lines[0]]),
        {"file-changed", "run-unreadable"},
        RECORDS,
    ),
    "records are in another order": (
        lambda c: c.lines(RECORDS, lambda lines: [*lines[1:], lines[0]]),
        {"file-changed"},
        RECORDS,
    ),
    "a rating is better": (
        lambda c: c.text(JUDGMENTS, lambda t: re.sub(r'"score":\d+\.\d+', '"score":9.5', t, count=1)),
        {"file-changed", "records-differ", "number-differs"},
        JUDGMENTS,
    ),
    "a judgment is removed": (
        lambda c: c.lines(JUDGMENTS, lambda lines: lines[:-1]),
        {"file-changed", "records-differ"},
        JUDGMENTS,
    ),
    "the manifest names another model": (
        lambda c: c.text(f"{CANDIDATE}/manifest.json", lambda t: t.replace("small-model", "large-model")),
        {"file-changed", "number-differs"},
        f"{CANDIDATE}/manifest.json",
    ),
    "the manifest names another policy": (
        lambda c: c.text(
            f"{OTHER}/manifest.json", lambda t: re.sub(r'("policy_sha256": ")[0-9a-f]{8}', r"\g<1>00000000", t)
        ),
        {"file-changed", "verdict-differs"},
        f"{OTHER}/manifest.json",
    ),
    "the text of a question": (
        lambda c: c.text("official/items/mmlu.jsonl", lambda t: t.replace("Question 7:", "Question 8:", 1)),
        {"file-changed"},
        "official/items/mmlu.jsonl",
    ),
    "a verdict in the certificate": (
        lambda c: c.certificate(_certify_the_rejected),
        {"file-changed", "verdict-differs", "statement-differs"},
        "decision.verdicts",
    ),
    "a p-value in the certificate": (
        lambda c: c.certificate(_set("decision/verdicts/0/p", 1e-12)),
        {"file-changed", "number-differs"},
        "decision.verdicts[0].p",
    ),
    "a margin of the policy, its digest left": (
        lambda c: c.certificate(_set("policy/document/endpoints/mmlu/margins_points", [30.0])),
        {"file-changed", "policy-digest"},
        "policy.document",
    ),
    "a margin of the policy and its digest": (
        lambda c: c.certificate(_wider_margin),
        {"file-changed", "statement-differs", "verdict-differs"},
        "predicate.configuration",
    ),
    "a number as text": (
        lambda c: c.certificate(_set("decision/verdicts/0/holm_p", "0")),
        {"file-changed", "number-differs"},
        "decision.verdicts[0].holm_p",
    ),
    "the certificate is cut off": (
        lambda c: c.text("certificate.json", lambda t: t[: len(t) // 2]),
        {"file-changed", "certificate-format"},
        "certificate.json",
    ),
    "a key of the certificate is there twice": (
        lambda c: c.text("certificate.json", lambda t: t.replace('{\n "cert', '{\n "title": "",\n "cert', 1)),
        {"file-changed", "certificate-format"},
        "certificate.json",
    ),
    "the verdict in report.md": (
        lambda c: c.text("report.md", lambda t: t.replace("REJECTED", "CERTIFIED")),
        {"file-changed", "report-differs"},
        "report.md",
    ),
    "the verdict in report.html": (
        lambda c: c.text("report.html", lambda t: t.replace("worse is rejected", "worse is certified")),
        {"file-changed", "report-differs"},
        "report.html",
    ),
    "a report is removed": (lambda c: (c.folder / "report.md").unlink(), {"file-missing"}, "report.md"),
    "a run folder is removed": (
        lambda c: shutil.rmtree(c.folder / OTHER),
        {"file-missing", "run-missing"},
        OTHER,
    ),
    "two run folders change places": (_swap_folders, {"file-changed", "verdict-differs"}, "decision.verdicts"),
    "a file is added to a run": (
        lambda c: (c.folder / CANDIDATE / "items" / "more.jsonl").write_text("{}\n", "utf-8"),
        {"file-added"},
        f"{CANDIDATE}/items/more.jsonl",
    ),
    "throughput is added beside the certificate": (
        lambda c: (c.folder / "throughput.json").write_text('{"throughput_version": 1, "measurements": []}', "utf-8"),
        {"not-covered"},
        "throughput.json",
    ),
    "the signature is removed": (lambda c: (c.folder / ENVELOPE).unlink(), {"envelope-missing"}, ENVELOPE),
    "a bit of the signature": (
        lambda c: c.envelope(
            lambda row: row["signatures"][0].update(
                sig=base64.b64encode(
                    bytes([base64.b64decode(row["signatures"][0]["sig"])[0] ^ 1])
                    + base64.b64decode(row["signatures"][0]["sig"])[1:]
                ).decode()
            )
        ),
        {"signature-invalid"},
        ENVELOPE,
    ),
    "the signed statement": (
        lambda c: c.statement(_set("predicate/result", "PASSED")),
        {"signature-invalid"},
        ENVELOPE,
    ),
    "the type of the envelope": (
        lambda c: c.envelope(_set("payloadType", "text/plain")),
        {"envelope-format"},
        ENVELOPE,
    ),
    "no signature in the envelope": (lambda c: c.envelope(_set("signatures", [])), {"stranger-key"}, ENVELOPE),
    "a stranger signs": (lambda c: c.sign_again(c.signed.stranger), {"stranger-key"}, ENVELOPE),
    "a stranger signs in the signer's name": (_spoof_key_id, {"signature-invalid"}, ENVELOPE),
    "the signer signs a lie": (_signed_lie, {"verdict-differs", "report-differs"}, "decision.verdicts"),
    "the signer's statement is not the certificate's": (
        _signed_statement_of_another_verdict,
        {"statement-differs"},
        "predicate.evalkit",
    ),
    "the signer signs a gentler policy": (_signed_gentler_policy, {"verdict-differs"}, "decision.verdicts"),
    "the signer signs better records": (_signed_better_records, {"records-differ"}, "runs.worse.records_sha256"),
    "the signer signs another report": (_signed_report_of_another_verdict, {"report-differs"}, "report.html"),
    "the signer leaves a run out": (lambda c: c.sign_again(leave_out=OTHER), {"not-covered"}, OTHER),
    "the statement names a file outside": (
        lambda c: c.statement(_set("subject/0/name", "../certificate.json"), c.signed.key),
        {"statement-format"},
        ENVELOPE,
    ),
    "the statement is of another type": (
        lambda c: c.statement(_set("predicateType", "https://example.org/other"), c.signed.key),
        {"statement-format"},
        ENVELOPE,
    ),
    "a folder of the certificate leaves its place": (
        lambda c: c.certificate(_set("runs/equal/folder", "../equal")),
        {"file-changed", "certificate-format"},
        "certificate.json",
    ),
}


@pytest.fixture
def copy(signed: Any, tmp_path: Path) -> Copy:
    shutil.copytree(signed.folder, tmp_path / "release")
    return Copy(tmp_path / "release", signed)


def test_there_are_at_least_twenty_kinds() -> None:
    assert len(TAMPERED) >= 20


def test_an_untouched_copy_holds_on_another_path(copy: Copy) -> None:
    check = check_folder(copy.folder, [copy.signed.key.public_key()])
    assert check.findings == ()
    assert check.files > 30
    assert check.signers


@pytest.mark.parametrize("what", TAMPERED)
def test_every_kind_of_tampering_is_caught_and_named(copy: Copy, what: str) -> None:
    tamper, codes, where = TAMPERED[what]
    tamper(copy)
    check = check_folder(copy.folder, [copy.signed.key.public_key()])
    found = {finding.code for finding in check.findings}
    assert codes <= found, [f"{f.code}: {f.where}: {f.message}" for f in check.findings]
    assert any(where in finding.where for finding in check.findings)
    assert not check.sound


def test_every_signed_file_is_caught_when_one_byte_of_it_changes(copy: Copy) -> None:
    """The digests alone: each covered file in turn."""
    from evalkit.attestation.checking import _files  # noqa: PLC0415
    from evalkit.attestation.statement import parse_statement  # noqa: PLC0415

    envelope = parse_envelope((copy.folder / ENVELOPE).read_text("utf-8"), ENVELOPE)
    statement = parse_statement(envelope.payload, ENVELOPE)
    for name in statement.files:
        path = copy.folder / name
        before = path.read_bytes()
        path.write_bytes(bytes([before[0] ^ 1]) + before[1:] if before else b"x")
        assert [(f.code, f.where) for f in _files(copy.folder, statement)] == [("file-changed", name)]
        path.write_bytes(before)
    assert list(_files(copy.folder, statement)) == []
