"""`evalkit` and `python -m evalkit`: one program. Exit code 1 means REJECTED, and a broken installation is 5."""

import contextlib
import sys


def start() -> int:
    """Run the program; where it cannot even be imported, or is stopped while it is, say so and return 5.

    Returns:
        An exit code of `evalkit.errors.ExitCode`.
    """
    try:
        from evalkit.cli import main  # noqa: PLC0415 - importing it is what may fail
        from evalkit.cli.options import guard_process  # noqa: PLC0415

        guard_process()
        return main()
    except BaseException as error:  # noqa: BLE001 - what is broken raises anything; 1 would be a verdict
        told = " ".join(f"{type(error).__name__}: {error}".split())[:2000].encode("ascii", "backslashreplace").decode()
        step = "next step: install evalkit again (pip install --force-reinstall evalkit-quant)"
        with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed
            print(f"evalkit: error: cannot start: {told}; {step}", file=sys.stderr)
    return 5


if __name__ == "__main__":
    sys.exit(start())
