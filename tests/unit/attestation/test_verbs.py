"""keygen, sign and verify as a person types them."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from evalkit import cli
from evalkit.attestation import ENVELOPE
from evalkit.errors import ExitCode

BLOCKED = ("torch", "lm_eval", "transformers", "modelopt", "matplotlib", "httpx", "datasets")


@pytest.fixture
def release(signed, tmp_path) -> Path:
    shutil.copytree(signed.folder, tmp_path / "elsewhere" / "release")
    return tmp_path / "elsewhere" / "release"


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    assert cli.main(["sign", "keygen", str(tmp_path / "me.pem")]) == 0
    return tmp_path / "me.pem", tmp_path / "me.pub.pem"


def test_a_private_key_is_readable_by_its_owner_alone_and_never_replaced(pair, capsys) -> None:
    private, public = pair
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes()
    assert cli.main(["sign", "keygen", str(private)]) == ExitCode.USAGE
    assert private.read_bytes() == before
    private.unlink()
    assert cli.main(["sign", "keygen", str(private)]) == ExitCode.USAGE, "the public key alone is enough to refuse"
    assert "PRIVATE" not in capsys.readouterr().out + public.read_text()


def test_signed_and_verified_from_the_command_line(release, pair, capsys) -> None:
    private, public = pair
    assert cli.main(["sign", str(release), "--key", str(private)]) == 0
    capsys.readouterr()
    assert cli.main(["verify", str(release), "--key", str(public)]) == 0
    out = capsys.readouterr().out
    assert "HOLDS" in out
    assert "equal: CERTIFIED" in out
    assert "worse: REJECTED" in out


def test_the_key_may_come_from_the_environment_and_be_encrypted(release, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("EVALKIT_SIGNING_KEY_PASSWORD", "a password")
    assert cli.main(["sign", "keygen", str(tmp_path / "safe.pem")]) == 0
    monkeypatch.setenv("EVALKIT_SIGNING_KEY", (tmp_path / "safe.pem").read_text())
    assert cli.main(["sign", str(release)]) == 0
    assert cli.main(["verify", str(release), "--key", str(tmp_path / "safe.pub.pem")]) == 0
    monkeypatch.setenv("EVALKIT_SIGNING_KEY_PASSWORD", "another")
    assert cli.main(["sign", str(release)]) == ExitCode.USAGE
    monkeypatch.delenv("EVALKIT_SIGNING_KEY")
    assert cli.main(["sign", str(release)]) == ExitCode.USAGE
    assert "a password" not in "".join(capsys.readouterr())


def test_a_second_person_signs_beside_the_first_and_a_stale_signature_is_dropped(release, signed, pair, capsys) -> None:
    private, _ = pair
    assert cli.main(["sign", str(release), "--key", str(private)]) == 0
    assert len(json.loads((release / ENVELOPE).read_text())["signatures"]) == 2
    (release / "report.md").unlink()
    assert cli.main(["sign", str(release), "--key", str(private)]) == 0
    assert len(json.loads((release / ENVELOPE).read_text())["signatures"]) == 1


def test_what_does_not_hold_is_not_signed(release, pair, capsys) -> None:
    (release / ENVELOPE).unlink()
    file = release / "certificate.json"
    file.write_text(file.read_text().replace('"outcome": "REJECTED"', '"outcome": "CERTIFIED"'))
    assert cli.main(["sign", str(release), "--key", str(pair[0])]) == ExitCode.INVALID
    assert "verdict-differs" in capsys.readouterr().err
    assert not (release / ENVELOPE).exists()


def test_verify_says_everything_as_json(release, signed, tmp_path, capsys) -> None:
    from evalkit.attestation.envelope import public_pem  # noqa: PLC0415

    key = tmp_path / "signer.pub.pem"
    key.write_text(public_pem(signed.key.public_key()))
    (release / "equal" / "records" / "mmlu.jsonl").write_text("")
    assert cli.main(["verify", str(release), "--key", str(key), "--json"]) == ExitCode.INVALID
    row = json.loads(capsys.readouterr().out)
    assert row["sound"] is False
    assert {"file-changed", "records-differ"} <= {found["code"] for found in row["findings"]}
    assert row["outcomes"]["worse"] == "REJECTED"


def test_without_a_key_one_must_say_so(release, pair, capsys) -> None:
    assert cli.main(["verify", str(release)]) == ExitCode.USAGE
    assert cli.main(["verify", str(release), "--unsigned", "--key", str(pair[1])]) == ExitCode.USAGE
    capsys.readouterr()
    assert cli.main(["verify", str(release), "--unsigned"]) == 0
    assert "no signature was checked" in capsys.readouterr().out
    assert cli.main(["verify", str(release), "--key", str(pair[0])]) == ExitCode.USAGE, "a private key is no public one"


def test_verify_needs_no_engine_no_plots_and_no_network(release, signed, tmp_path) -> None:
    """On a machine that has none of the packages, in another process, in another folder."""
    from evalkit.attestation.envelope import public_pem  # noqa: PLC0415

    key = tmp_path / "signer.pub.pem"
    key.write_text(public_pem(signed.key.public_key()))
    program = (
        "import sys\nclass Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {BLOCKED!r}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import socket\ndef no(*a, **k): raise OSError('no network')\nsocket.socket.connect = no\n"
        "from evalkit import cli\n"
        f"sys.exit(cli.main(['verify', '.', '--key', {str(key)!r}]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=release, capture_output=True, text=True, check=False, timeout=600
    )
    assert out.returncode == 0, out.stdout + out.stderr
    assert "HOLDS" in out.stdout


def test_a_run_against_published_numbers_is_verified_too(folders, tmp_path, capsys) -> None:
    made = folders.make_release(tmp_path / "release", items=200)
    argv = ["certify", "--published", "mmlu", "0.71", "600", "a model card", "--candidate", made.folder / "equal"]
    argv += ["--policy", made.policy_file, "--output", made.folder]
    assert cli.main([str(word) for word in argv]) == ExitCode.INCONCLUSIVE
    assert cli.main(["verify", str(made.folder), "--unsigned"]) == 0
    page = (made.folder / "report.html").read_text("utf-8")
    assert "This is no certificate and cannot become one." in page
    assert "Unpaired comparison" in page
    file = made.folder / "certificate.json"
    file.write_text(file.read_text().replace('"state": "OPEN"', '"state": "PASS"'))
    capsys.readouterr()
    assert cli.main(["verify", str(made.folder), "--unsigned"]) == ExitCode.INVALID
    assert "decision.results[0].state: the certificate says PASS, the records give OPEN" in capsys.readouterr().out


def test_a_certificate_and_runs_of_before_the_ledger_are_checked_and_no_ledger_speaks_for_them(release, capsys) -> None:
    for file in (release / "certificate.ledger.jsonl", *release.glob("*/ledger.json")):
        file.unlink(missing_ok=True)
    file = release / "certificate.json"
    document = json.loads(file.read_text("utf-8"))
    decision = document["decision"]
    old = {**document, "evalkit": "0.0.9"}
    del old["ledger"], old["content_sha256"]
    kept = [one for one in decision["cautions"] if not one["code"].startswith("ledger")]
    old["decision"] = {**decision, "cautions": kept}
    file.write_text(json.dumps(old, sort_keys=True, indent=1) + "\n", "utf-8")
    argv = ["verify", str(release), "--unsigned", "--other-version"]
    assert cli.main(argv) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "the certificate cites no ledger: earlier runs and certificates cannot be excluded" in said
    assert "HOLDS IN WHAT WAS CHECKED" in said
    file.write_text(file.read_text("utf-8").replace('"outcome": "REJECTED"', '"outcome": "CERTIFIED"'), "utf-8")
    assert cli.main(argv) == ExitCode.INVALID
    assert "verdict-differs" in capsys.readouterr().out
    # A certificate of today cannot be made to look like one: it holds a ledger, or this evalkit misses it.
    file.write_text(json.dumps({**old, "evalkit": document["evalkit"]}, sort_keys=True, indent=1) + "\n", "utf-8")
    assert cli.main(["verify", str(release), "--unsigned"]) == ExitCode.INVALID


@pytest.mark.parametrize("kind", ["demo", "rejected", "invalid"])
def test_a_certificate_without_its_runs_is_read_and_each_is_missed_by_name(kind, tmp_path, capsys) -> None:
    example = Path(__file__).parents[3] / "docs/examples" / f"{kind}.json"
    shutil.copy(example, tmp_path / "certificate.json")
    assert cli.main(["verify", str(tmp_path), "--unsigned", "--other-version"]) == ExitCode.INVALID
    said = capsys.readouterr().out
    assert "run-missing: official-fp8" in said
    assert "ledger" in said
