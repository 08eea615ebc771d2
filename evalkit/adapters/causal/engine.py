"""The engine that a loaded model makes.

In: a loaded model, its identity, limits. Out: an `Engine` (`evalkit.adapters.base`).
May not know: recipes, tasks.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import torch

from evalkit.adapters.base import SMALLER, Failure, GenerateRequest, Generation, ScoreReply, ScoreRequest
from evalkit.adapters.causal.budget import kept_tokens, scoring_limit
from evalkit.adapters.causal.decoding import Answer
from evalkit.adapters.causal.forward import Path, Scorer
from evalkit.adapters.causal.generation import Generator
from evalkit.adapters.causal.identity import end_tokens, model_limit
from evalkit.adapters.causal.loading import LoadedModel
from evalkit.adapters.causal.options import CausalOptions
from evalkit.adapters.causal.scoring import score_requests
from evalkit.adapters.causal.stepping import choose_way
from evalkit.adapters.causal.tokens import chat_options, encode_prompt
from evalkit.errors import EngineError
from evalkit.records import EngineIdentity

_WAYS = {
    "batched": "many answers at once, keys and values kept",
    "alone": "one answer at a time, keys and values kept: this model's layers forget, or cannot be padded",
    "recomputed": "one answer at a time, each token from the whole text: this model keeps its state in another way",
}


class CausalEngine:
    """A transformers causal model that scores and generates.

    Args:
        loaded: model and tokenizer.
        identity: what was loaded.
        options: limits; those left open are chosen by the kind of device, and lowered where memory does not suffice.
        path: scoring path.
    """

    def __init__(self, loaded: LoadedModel, identity: EngineIdentity, options: CausalOptions, path: Path) -> None:
        self.identity = identity
        self._loaded: LoadedModel | None = loaded
        self._told: tuple[str, ...] = ()
        self._max_length = options.max_length or model_limit(loaded.model)
        self._limit = scoring_limit(loaded.model, path, options.max_batch_tokens)
        self._scorer = Scorer(loaded.model, path)
        kept, enough = kept_tokens(loaded.model, options.generate_tokens)
        self._generator = Generator(
            loaded.model,
            loaded.tokenizer,
            ends=end_tokens(loaded),
            rows=options.generate_rows,
            tokens=kept,
            way=choose_way(loaded.model, path),
            enough=enough,
        )

    @property
    def findings(self) -> dict[str, str]:
        """How this model scores and generates, and how much at once."""
        self._model()
        return {
            "generation": _WAYS[self._generator.way],
            "tokens fed at once": f"{self._limit.tokens:,}",
            "tokens kept while generating": f"{self._generator.tokens:,}",
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """Which batches a lack of memory has made smaller than model, device and options ask for."""
        if self._loaded is None:
            return self._told
        work = {"scoring": self._limit.cramped, "generating": self._generator.cramped}
        return tuple(
            f"{name}: {SMALLER}: memory did not suffice for those that this model, device and options ask for; next "
            "step: free some memory, or set max_batch_tokens and generate_tokens to what fits every run"
            for name, cramped in work.items()
            if cramped
        )

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        """Yield (index, reply or failure) as soon as each batch is done."""
        tokenizer = self._model().tokenizer
        yield from score_requests(self._scorer, tokenizer, requests, max_length=self._max_length, limit=self._limit)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation | Failure]]:
        """Yield (index, answer or failure) as soon as each answer ends.

        Raises:
            UsageError: chat messages were given and there is no chat template.
        """
        tokenizer, answers = self._model().tokenizer, []
        for index, request in enumerate(requests):
            prompt = encode_prompt(tokenizer, request.prompt)
            if isinstance(prompt, Failure):
                yield index, prompt
            elif len(prompt) + request.max_tokens > self._max_length:
                message = f"prompt {len(prompt)} + answer {request.max_tokens} tokens; the limit is {self._max_length}"
                yield index, Failure(kind="too-long", message=message)
            else:
                answers.append(Answer(index=index, request=request, prompt=prompt))
        yield from self._generator.run(answers)

    def close(self) -> None:
        """Free the model; calling it twice is harmless."""
        if self._loaded is None:
            return
        self._told = self.warnings
        self._loaded = None
        del self._scorer, self._generator
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _model(self) -> LoadedModel:
        if self._loaded is None:
            raise EngineError("the engine was closed; load it again")
        return self._loaded


def answer_options(loaded: LoadedModel, options: CausalOptions, path: Path) -> dict[str, object]:
    """Return the options that can change an answer, as they took effect, for the identity.

    Threads, batch sizes and row limits are left out: they move rounding only, which the rerun of a baseline measures.
    """
    return {
        "scoring": path,
        "max_length": options.max_length or model_limit(loaded.model),
        "end_tokens": list(end_tokens(loaded)),
        "trust_remote_code": options.trust_remote_code,
        "weights_format": "gguf" if loaded.files.gguf else "safetensors",
        **chat_options(loaded.tokenizer),
    }
