"""What this version can do."""

from packaging.version import Version

from . import __version__

VERSION = Version(__version__)


def since(version: str) -> bool:
    return Version(version) <= VERSION


def layout() -> str:
    """Which layout `prompt_logprobs` has."""
    return "C" if since("1.3.0rc11") else "B" if since("1.3.0rc3") else "A"


def logprobs_limit() -> int | None:
    """Most log-probabilities a request may ask for; None for no limit."""
    return 100 if since("1.3.0") else 20 if since("1.3.0rc11") else None
