"""The tokenizer with which every prompt is encoded here, and which the library must share.

In: a model folder. Out: a transformers tokenizer, its digests, the tokens that end an answer.
May not know: requests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.adapters.causal.tokens import tokenizer_text
from evalkit.adapters.trtllm.files import Target
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.errors import EngineError, UsageError
from evalkit.records import text_digest

if TYPE_CHECKING:
    from evalkit.adapters.trtllm.loading import Session

_PROBES = (
    "The quick brown fox: 3.14159, and 1,000,000\n\nAnswer: A",
    "Grüße, naïve café: 東京 🙂",
    "def f(x):\n    return x\n",
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LocalTokenizer:
    """A tokenizer on this machine.

    Attributes:
        tokenizer: transformers' own.
        sha256: digest of its serialised form.
        template_sha256: digest of its chat template; None without one.
        ends: tokens that end an answer.
    """

    tokenizer: Any
    sha256: str
    template_sha256: str | None
    ends: tuple[int, ...]


def load_local(target: Target, options: TensorRTOptions) -> LocalTokenizer:
    """Load the tokenizer of a model.

    Raises:
        UsageError: a compiled engine, which has none, and no option `tokenizer`.
        EngineError: transformers cannot load it.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

    if target.compiled and options.tokenizer is None and not (target.files.folder / "tokenizer_config.json").exists():
        raise UsageError(f"{target.files.name}: a compiled engine has no tokenizer; next step: the option tokenizer")
    place = options.tokenizer or str(target.files.folder)
    try:
        found: Any = AutoTokenizer.from_pretrained(place, trust_remote_code=options.trust_remote_code)
    except (ImportError, KeyError, OSError, TypeError, ValueError) as error:
        raise EngineError(f"{target.files.name}: no tokenizer: {type(error).__name__}: {error}") from error
    template = getattr(found, "chat_template", None)
    return LocalTokenizer(
        tokenizer=found,
        sha256=text_digest(tokenizer_text(found)),
        template_sha256=text_digest(str(template)) if template else None,
        ends=_ends(target.files.folder, found),
    )


def check_shared(session: Session, local: LocalTokenizer) -> None:
    """Check that the library turns text into the same tokens, as it does with stop texts.

    Raises:
        EngineError: it does not.
    """
    theirs = getattr(session.llm, "tokenizer", None)
    if theirs is None:
        return
    for text in _PROBES:
        ours = list(local.tokenizer.encode(text, add_special_tokens=False))
        if list(theirs.encode(text, add_special_tokens=False)) != ours:
            raise EngineError(
                f"{session.target.files.name}: TensorRT-LLM loaded another tokenizer than the one in the model's "
                "folder; next step: the option tokenizer"
            )


def _ends(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.exists() else None
        if value is not None:
            return tuple(sorted(map(int, value))) if isinstance(value, list) else (int(value),)
    return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
