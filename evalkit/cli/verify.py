"""`evalkit verify`: believe nothing, compute everything again.

In: the folder of a certificate, public keys one trusts. Out: what holds and what does not, an exit code.
May not know: how anything is checked.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.options import existing_file, json_option, out, print_json
from evalkit.cli.remote import read_folder, with_places
from evalkit.errors import ExitCode

if TYPE_CHECKING:
    from evalkit.attestation import Check


@click.command(epilog="Example: evalkit verify outputs/cpu-demo --key release-manager.pub.pem")
@click.argument("folder", type=read_folder)
@click.option("--key", "keys", multiple=True, type=existing_file, help="Public key of a signer you trust; repeatable.")
@click.option("--unsigned", is_flag=True, help="Check everything but the signature.")
@click.option("--gate", is_flag=True, help="If everything holds, exit with the certificate's own exit code.")
@click.option(
    "--other-version",
    is_flag=True,
    help="Accept a certificate of another evalkit, whose reports cannot be checked here; they are named as unchecked.",
)
@json_option
@with_places
def command(
    folder: Path, keys: tuple[Path, ...], unsigned: bool, gate: bool, other_version: bool, as_json: bool
) -> int:
    """Check a signed certificate: signature, digests, and every number and verdict computed again from the records.

    It needs no engine, no torch and no network, and runs on any machine that has the folder. Exit code 0 if everything
    holds, whatever the verdict; 4 if anything does not, or could not be checked, with each place by name. With --gate
    the exit code of a certificate that holds is its verdict's: 0 only if every recipe is CERTIFIED.
    """
    from evalkit.attestation import check_folder
    from evalkit.attestation.keys import read_public

    if bool(keys) == unsigned:
        raise click.UsageError("name the signer's public key with --key, or say --unsigned")
    trusted = [read_public(path.read_text(encoding="utf-8", errors="replace"), str(path)) for path in keys]
    check = check_folder(folder, None if unsigned else trusted, other_version=other_version)
    if as_json:
        print_json(
            {
                "sound": check.sound,
                "signer": check.signer,
                "files": check.files,
                "outcomes": _outcomes(check),
                "findings": [asdict(found) for found in check.findings],
                "notes": list(check.notes),
                "unchecked": list(check.unchecked),
            }
        )
    else:
        _show(check)
    if not check.sound:
        return ExitCode.INVALID
    return _exit_code(check) if gate else ExitCode.CERTIFIED


def _show(check: Check) -> None:
    for found in check.findings:
        out(f"{found.code}: {found.where}: {found.message}")
    for note in check.notes:
        out(f"note: {note}")
    for what in check.unchecked:
        out(f"not checked: {what}")
    if check.signer:
        out(f"signed by key {check.signer}; {check.files} files compared with the signed digests")
    for recipe, outcome in _outcomes(check).items():
        out(f"the certificate says of {recipe}: {outcome}")
    if not check.sound:
        out(f"DOES NOT HOLD: {len(check.findings)} finding(s)")
    elif check.unchecked:
        out(f"HOLDS IN WHAT WAS CHECKED: computed again and agrees, but for {len(check.unchecked)} part(s) named above")
    else:
        out("HOLDS: everything was computed again from the records and agrees")


def _outcomes(check: Check) -> dict[str, str]:
    document: Any = check.document or {}
    try:
        decision = document["decision"]
        verdicts = [decision] if document.get("kind") == "unpaired" else decision["verdicts"]
        return {str(one["recipe"]): str(one["outcome"]) for one in verdicts}
    except (KeyError, TypeError):
        return {}


def _exit_code(check: Check) -> ExitCode:
    from evalkit.verdict.outcome import Outcome, exit_code

    return exit_code(Outcome(outcome) for outcome in _outcomes(check).values())
