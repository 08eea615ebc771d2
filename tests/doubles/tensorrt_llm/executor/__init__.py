"""Errors of the executor."""


class RequestError(RuntimeError):
    """One request is refused; the engine goes on."""
