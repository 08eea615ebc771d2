"""Options of the adapter `lm_eval`.

In: the `options` mapping of an engine specification. Out: checked options.
Must not depend on: lm-eval.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from evalkit.configuration import Section

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_SECRET_NAMES = ("api_key", "auth_token", "token", "hf_token", "header", "headers", "password", "secret")


class HarnessOptions(Section):
    """How lm-eval builds and runs a model.

    Attributes:
        model_args: arguments of lm-eval's model, as in its `--model_args`; they are part of the identity, so no key
            may be among them.
        asset: asset name of the weights; fills `pretrained` (and `gguf_file`) of `model_args`.
        batch_size: requests lm-eval runs at once. Not part of the identity: it moves rounding only.
        block: requests given to lm-eval at a time; a run that stops loses one block at most.
        max_length: tokens a request may need; None is the model's own limit. lm-eval cuts longer prompts, so a longer
            request fails here before it gets there.
        threads: processor threads of torch; None leaves its choice. Not part of the identity.
        weights_sha256: digest of the weights, declared where they cannot be read.
    """

    model_args: dict[str, Any] = Field(default_factory=dict)
    asset: str | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    block: int = Field(default=64, ge=1)
    max_length: Annotated[int, Field(ge=2)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    weights_sha256: Sha256 | None = None

    @field_validator("model_args")
    @classmethod
    def _no_secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        secret = sorted(name for name in value if name.lower() in _SECRET_NAMES)
        if secret:
            # The values are not repeated: this error is about keeping them out of files.
            raise ValueError(
                f"{', '.join(secret)}: keys are never part of a configuration; lm-eval reads them from environment "
                "variables (OPENAI_API_KEY, HF_TOKEN, ...)"
            )
        return value
