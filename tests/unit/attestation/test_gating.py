"""What `verify --gate` must be told, and what it says when the certificate is another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("cryptography")

from evalkit import cli
from evalkit.adapters.source import stored_weights
from evalkit.attestation import ENVELOPE
from evalkit.attestation.demands import Demands, unmet
from evalkit.attestation.statement import terms
from evalkit.errors import ExitCode
from evalkit.policy import load_policy, rules_sha256
from evalkit.records import digest

OTHER = "0123456789abcdef" * 4


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A signed release of one equal recipe, and a way to gate on it."""

    folder: Path
    key: Path
    document: dict[str, Any]
    policy_file: Path
    run: Callable[..., int]


@pytest.fixture(scope="module")
def made(folders, tmp_path_factory) -> Gate:
    place = tmp_path_factory.mktemp("gated")
    release = folders.make_release(place / "release", items=500, candidates={"equal": (3, 4)})
    assert release.certify() == 0
    assert cli.main(["sign", "keygen", str(place / "me.pem")]) == 0
    assert cli.main(["sign", str(release.folder), "--key", str(place / "me.pem")]) == 0

    def run(*argv: Any, key: Path = place / "me.pub.pem") -> int:
        return cli.main(["verify", str(release.folder), "--key", str(key), *map(str, argv)])

    document = json.loads((release.folder / "certificate.json").read_text("utf-8"))
    return Gate(
        folder=release.folder,
        key=place / "me.pem",
        document=document,
        policy_file=release.policy_file,
        run=run,
    )


def weights(document: dict[str, Any], run: str) -> str:
    return document["runs"][run]["engine"]["weights_sha256"]


def test_a_gate_that_is_told_nothing_refuses_before_it_reads_anything(made: Gate, capsys) -> None:
    assert made.run("--gate") == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "must be told what it gates" in said
    assert "--policy release --weights RECIPE=SHA256" in said
    assert cli.main(["verify", str(made.folder), "--unsigned", "--gate"]) == ExitCode.USAGE


def test_any_certificate_opens_only_a_gate_that_says_so_loudly(made: Gate, capsys) -> None:
    assert made.run("--gate", "--gate-any") == 0
    assert capsys.readouterr().out.startswith("CAUTION: --gate-any: any certificate opens this gate")
    assert made.run("--gate-any") == ExitCode.USAGE
    assert made.run("--gate", "--gate-any", "--tier", "demo") == ExitCode.USAGE


def test_every_demand_that_is_met_opens_the_gate_and_is_printed(made: Gate, capsys) -> None:
    sha = terms(made.document)["rules_sha256"]
    argv = ["--gate", "--policy", sha, "--tier", "demo", "--source", f"equal={weights(made.document, 'equal')}"]
    argv += ["--baseline", weights(made.document, "baseline"), "--max-margin", "3"]
    assert made.run(*argv) == 0
    out = capsys.readouterr().out
    for part in (sha, "tier 'demo'", weights(made.document, "equal"), "margin 3 points", "one-sided alpha 0.025"):
        assert part in out, part
    assert "n: equal 500" in out
    checks = next(line for line in out.splitlines() if "PASSED: " in line and "NOT MADE: " in line)
    passed, _, not_made = checks.partition("NOT MADE: ")
    assert all(name in passed for name in ("aa (mmlu)", "above_chance (mmlu)", "control (broken)"))
    assert "anchor (mmlu)" in not_made
    assert "tolerances: none" in out
    assert "gate: asked for policy" in out
    assert "not asked" not in out


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--policy", "release"], "other-policy"),
        (["--policy", "demo"], "other-policy"),
        (["--policy", OTHER], "other-policy"),
        (["--tier", "release"], "other-tier"),
        (["--tier", "Demo"], "other-tier"),
        (["--weights", f"equal={OTHER}"], "other-weights"),
        (["--weights", f"int4={OTHER}"], "other-weights"),
        (["--baseline", OTHER], "other-baseline"),
        (["--max-margin", "2.9"], "margin-too-wide"),
        (["--max-rating-margin", "1"], "margin-too-wide"),
        (["--max-margin", "5", "--max-alpha", "0.01"], "alpha-too-large"),
    ],
)
def test_a_demand_that_is_not_met_is_a_finding_by_name(made: Gate, argv: list[str], code: str, capsys) -> None:
    assert made.run("--gate", *argv) == ExitCode.INVALID
    out = capsys.readouterr().out
    assert f"{code}: " in out
    assert "DOES NOT HOLD" in out


def test_what_is_asked_is_checked_without_a_gate_too(made: Gate, capsys) -> None:
    assert made.run("--tier", "release") == ExitCode.INVALID
    assert "other-tier: " in capsys.readouterr().out


def test_the_name_inside_the_certificate_opens_nothing(made: Gate, capsys) -> None:
    """The release factory calls its changed policy 'demo'; the shipped demo policy is another."""
    assert made.document["decision"]["policy"] == "demo"
    assert made.run("--gate", "--policy", "demo") == ExitCode.INVALID
    out = capsys.readouterr().out
    assert "which calls itself 'demo'" in out
    assert rules_sha256(load_policy("demo")) in out


def test_a_policy_is_found_by_its_file_and_by_both_digests(made: Gate, tmp_path) -> None:
    told = terms(made.document)
    assert told["rules_sha256"] != told["policy_sha256"] == made.document["policy"]["sha256"]
    for asked in (made.policy_file, told["rules_sha256"], told["policy_sha256"]):
        assert made.run("--gate", "--policy", asked) == 0
    changed = yaml.safe_load(made.policy_file.read_text("utf-8"))
    changed["guards"]["gain_points"] = 2.5
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(changed))
    assert made.run("--gate", "--policy", tmp_path / "policy.yaml") == ExitCode.INVALID


def test_a_policy_file_that_names_its_runs_is_met_by_these_alone(made: Gate, tmp_path) -> None:
    document = yaml.safe_load(made.policy_file.read_text("utf-8"))
    mine, other = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    names = {"baseline": "official", "recipes": ["equal"], "controls": ["broken"]}
    mine.write_text(yaml.safe_dump({**document, "release": names}))
    other.write_text(yaml.safe_dump({**document, "release": {**names, "recipes": ["equal", "another"]}}))
    assert made.run("--gate", "--policy", mine) == 0
    assert made.run("--gate", "--policy", other) == ExitCode.INVALID


def engine(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a certificate whose recipe 'equal' was run by another engine."""
    runs = {**document["runs"], "equal": {**document["runs"]["equal"]}}
    runs["equal"]["engine"] = {**runs["equal"]["engine"], **changes}
    return {**document, "runs": runs}


def codes(document: dict[str, Any], **asked: str) -> list[str]:
    demands = Demands(**{name: {"equal": sha} for name, sha in asked.items()})
    return [f"{found.code}: {found.message}" for found in unmet(document, demands)]


def test_weights_that_were_quantized_in_memory_are_no_checkpoint_that_ships(made: Gate, capsys) -> None:
    sha = weights(made.document, "equal")
    assert made.run("--gate", "--weights", f"equal={sha}") == ExitCode.INVALID
    said = capsys.readouterr().out
    assert "no checkpoint was measured" in said
    assert "--source" in said
    assert codes(made.document, source=sha) == []
    assert "other-weights" in codes(made.document, source=OTHER)[0]


def test_a_packed_checkpoint_has_a_digest_after_and_one_before_its_recipe(made: Gate) -> None:
    before, after = "1" * 64, "2" * 64
    trace = {"source": "tiny", "source_weights_sha256": before}
    packed = engine(made.document, fidelity="engine", weights_sha256=after, quantization={"trace": trace})
    assert codes(packed, weights=after) == codes(packed, source=before) == []
    assert codes(packed, weights=before) != []
    assert codes(packed, source=after) != []
    unknown = engine(made.document, fidelity="engine", weights_sha256=after, quantization={})
    assert "says nothing of them" in codes(unknown, source=before)[0]


def test_a_folder_stands_for_the_digest_of_what_lies_in_it(made: Gate, tmp_path: Path, capsys) -> None:
    ships = tmp_path / "ships"
    ships.mkdir()
    assert made.run("--gate", "--source", f"equal={ships}") == ExitCode.USAGE
    assert "no *.safetensors file" in capsys.readouterr().err
    for name in ("model-2.safetensors", "model-1.safetensors"):
        (ships / name).write_bytes(name.encode())
    shards = [[name, sha256(name.encode()).hexdigest()] for name in ("model-1.safetensors", "model-2.safetensors")]
    expected = digest(shards)
    assert made.run("--gate", "--source", f"equal={ships}") == ExitCode.INVALID
    assert f"weights {expected} before the recipe are asked for" in capsys.readouterr().out
    packed = engine(made.document, fidelity="engine", weights_sha256=expected)
    assert codes(packed, weights=stored_weights(ships)) == []


def test_the_baseline_is_no_candidate_of_its_own_release(made: Gate) -> None:
    assert made.run("--gate", "--weights", f"baseline={weights(made.document, 'baseline')}") == ExitCode.INVALID
    assert made.run("--gate", "--weights", f"broken={weights(made.document, 'broken')}") == ExitCode.INVALID


@pytest.mark.parametrize(
    "argv",
    [
        ["--policy", "relese"],
        ["--policy", "no/such.yaml"],
        ["--weights", "equal"],
        ["--weights", "equal=abc"],
        ["--weights", f"={OTHER}"],
        ["--weights", f"equal={OTHER}", "--weights", f"equal={'a' * 64}"],
        ["--baseline", "abc"],
        ["--max-margin", "0"],
        ["--max-alpha", "0.5"],
        ["--require", "0"],
    ],
)
def test_what_cannot_be_asked_is_refused(made: Gate, argv: list[str], capsys) -> None:
    assert made.run("--gate", *argv) == ExitCode.USAGE
    assert argv[0] in capsys.readouterr().err


def test_two_signers_are_two_keys_and_not_one_twice(made: Gate, tmp_path, capsys) -> None:
    mine, copy = made.key.with_name("me.pub.pem"), tmp_path / "again.pub.pem"
    copy.write_text(mine.read_text())
    folder = tmp_path / "release"
    shutil.copytree(made.folder, folder)

    def verify(*keys: Path, require: int = 2) -> int:
        argv = [word for key in keys for word in ("--key", str(key))]
        return cli.main(["verify", str(folder), *argv, "--require", str(require)])

    assert verify(mine, copy) == ExitCode.USAGE, "the same key in two files is one key"
    assert verify(mine, mine) == ExitCode.USAGE
    assert "names 1 different key" in capsys.readouterr().err
    assert cli.main(["sign", "keygen", str(tmp_path / "second.pem")]) == 0
    second = tmp_path / "second.pub.pem"
    capsys.readouterr()
    assert verify(mine, second) == ExitCode.INVALID
    assert (
        "too-few-signers: certificate.dsse.json: 2 of your keys must have signed it, 1 did" in capsys.readouterr().out
    )
    envelope = json.loads((folder / ENVELOPE).read_text())
    doubled = {**envelope, "signatures": envelope["signatures"] * 2}
    (folder / ENVELOPE).write_text(json.dumps(doubled))
    assert verify(mine, second) == ExitCode.INVALID, "one signature written twice is one signer"
    renamed = {**envelope["signatures"][0], "keyid": _key_id(second)}
    (folder / ENVELOPE).write_text(json.dumps({**envelope, "signatures": [*envelope["signatures"], renamed]}))
    assert verify(mine, second) == ExitCode.INVALID, "a signature under another's name is nobody's"
    (folder / ENVELOPE).write_text(json.dumps(envelope))
    assert cli.main(["sign", str(folder), "--key", str(tmp_path / "second.pem")]) == 0
    capsys.readouterr()
    assert verify(mine, second) == 0
    assert "signed by key" in capsys.readouterr().out
    assert verify(mine, second, require=3) == ExitCode.USAGE
    assert cli.main(["verify", str(folder), "--unsigned", "--require", "2"]) == ExitCode.USAGE


def _key_id(public: Path) -> str:
    from evalkit.attestation.envelope import key_id, read_public  # noqa: PLC0415

    return key_id(read_public(public.read_text(), "x"))


def test_a_rejected_release_is_still_rejected_by_a_gate_that_is_met(folders, tmp_path) -> None:
    release = folders.make_release(tmp_path / "release", items=400, candidates={"worse": (80, 5)})
    assert release.certify() == ExitCode.REJECTED
    argv = ["verify", str(release.folder), "--unsigned", "--gate", "--max-margin", "3"]
    assert cli.main(argv) == ExitCode.REJECTED


def test_everything_is_in_the_json_too(made: Gate, capsys) -> None:
    capsys.readouterr()
    assert made.run("--gate", "--tier", "demo", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["gate"] == {
        "gated": True,
        "any": False,
        "asked": {"tier": "demo"},
        "not_asked": ["policy", "weights", "baseline", "max-margin"],
    }
    assert row["terms"] == terms(made.document)
    assert row["signers"] == [row["signer"]]


def test_the_signed_statement_says_under_which_terms(made: Gate) -> None:
    """Read as another tool would: the envelope's payload, nothing of evalkit."""
    import base64  # noqa: PLC0415

    envelope = json.loads((made.folder / ENVELOPE).read_text())
    said = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    assert said["result"] == "PASSED"
    told = said["evalkit"]
    assert (told["tier"], told["family_alpha"], told["tolerances"]) == ("demo", 0.05, [])
    assert told["claims"] == {"equal": "within-demo-margin"}
    mmlu = next(one for one in told["endpoints"] if one["name"] == "mmlu")
    assert (mmlu["decides"], mmlu["margins"], mmlu["unit"], mmlu["alpha"]) == (True, [3.0], "points", 0.025)
    assert mmlu["n"] == mmlu["n_unique"] == {"equal": 500}
    assert told["checks"]["not_made"] == ["anchor (mmlu)"]
    assert {"aa (mmlu)", "above_chance (mmlu)", "control (broken)"} <= set(told["checks"]["passed"])
    assert not set(told["checks"]["passed"]) & set(told["checks"]["not_made"])
    assert told["standard"] is None
