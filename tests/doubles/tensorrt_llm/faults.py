"""What is wrong with this installation; a test sets these, all are off at first."""

from typing import Any

layout: str | None = None
"""Another layout than the version's own."""

not_a_number = False
"""Every log-probability of generated tokens is NaN."""

short_prompt = False
"""The engine drops the first tokens of a prompt without a word."""

hidden: frozenset[int] = frozenset()
"""Token ids that are never among the log-probabilities of a generated token, unless generated."""

hide_logits = False
"""No generation logits come back, although they were asked for."""

shifted = 0.0
"""Added to every prompt log-probability: a wrong number in the right place."""

salts_ignored = False
"""Blocks are reused whatever the salt is."""

loaded_quantization: dict[str, Any] | None = None
"""Fields of the loaded quantization that differ from what the checkpoint declares."""

kv_cache_type: str | None = None
"""Type of the key-value cache that is made whatever was asked for."""

refused: frozenset[int] = frozenset()
"""Numbers of requests, from 0, that the engine refuses."""

dies_at: int | None = None
"""Number of the request at which the executor dies."""

silent_at: int | None = None
"""Number of the request from which on nothing ever comes back: a worker died, and nobody looks (1.2.1 and before)."""

timeout_ignored = True
"""`result` does not look at its timeout, as in several versions."""

health: bool | Exception | None = None
"""What `_check_health` says or raises; None for a version that has no such method."""

fails_all_at: int | None = None
"""Number of the request from which on every one that is under way fails with `fails_with`."""

fails_with = "Error in event loop: CUDA error: an illegal memory access was encountered"
"""The text of those failures: the executor hands its own exception on as the refusal of each request."""

shutdown_hangs = False
"""`shutdown` waits for workers that are no more."""
