"""`evalkit` and `python -m evalkit`: one program. Exit code 1 means REJECTED, and a broken installation is 5."""

import sys


def start() -> int:
    """Run the program; where it cannot even be imported, say so and return 5.

    Returns:
        An exit code of `evalkit.errors.ExitCode`.
    """
    try:
        from evalkit.cli import main  # noqa: PLC0415 - importing it is what may fail
    except Exception as error:  # noqa: BLE001 - what is broken raises anything; 1 would be a verdict
        step = "next step: install evalkit again (pip install --force-reinstall evalkit-quant)"
        print(f"evalkit: error: cannot start: {type(error).__name__}: {error}; {step}", file=sys.stderr)
        return 5
    return main()


if __name__ == "__main__":
    sys.exit(start())
