"""Options of the adapters that run a transformers model in this process.

In: the `options` mapping of an engine specification. Out: checked options and torch values.
Must not depend on: what is loaded with them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from evalkit.configuration import Section


class CausalOptions(Section):
    """Options of `hf`; `modelopt` adds its own.

    Attributes:
        threads: processor threads; None leaves torch's choice. Not part of the identity: it moves rounding only.
        attention: transformers attention implementation.
        max_length: tokens a request may need; None is the model's own limit.
        max_batch_tokens: tokens fed at once when scoring; None takes what device and free memory allow. Halved whenever
            memory runs out.
        generate_rows: answers generated at once.
        generate_tokens: limit of rows times (prompt + answer) tokens while generating; None takes what device and free
            memory allow.
        scoring: scoring path; "auto" takes the fastest one that agrees with "plain" on a probe.
        revision: commit or tag of a hub model.
        device_map: transformers device map for models larger than one GPU, such as "auto".
        trust_remote_code: run Python code that comes with the model; recorded in the identity.
    """

    threads: int | None = Field(default=None, ge=1)
    attention: Literal["sdpa", "eager"] = "sdpa"
    max_length: int | None = Field(default=None, ge=2)
    max_batch_tokens: int | None = Field(default=None, ge=1)
    generate_rows: int = Field(default=32, ge=1)
    generate_tokens: int | None = Field(default=None, ge=1)
    scoring: Literal["auto", "packed", "plain"] = "auto"
    revision: str | None = None
    device_map: str | None = None
    trust_remote_code: bool = False
