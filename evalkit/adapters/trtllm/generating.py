"""Generates answers with every decoding setting said, and reads them.

In: generation requests. Out: (index, answer or failure).
May not know: tasks.

The library looks for stop texts as sequences of tokens, and misses one that is tokenised otherwise in the flow of an
answer. So the answer is decoded here and cut here; what the library finds only saves time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from evalkit.adapters.base import Failure, GenerateRequest, Generation
from evalkit.adapters.causal.tokens import encode_prompt
from evalkit.adapters.trtllm.asking import Question, ask
from evalkit.adapters.trtllm.loading import Session
from evalkit.adapters.trtllm.options import TensorRTOptions


class Generator:
    """Generates through one session."""

    def __init__(self, session: Session, options: TensorRTOptions, tokenizer: Any, ends: tuple[int, ...]) -> None:
        self._session, self._options, self._tokenizer, self._ends = session, options, tokenizer, ends

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation | Failure]]:
        """Yield (index, answer or failure) for each request once, neighbours in token order.

        Raises:
            UsageError: chat messages were given and there is no chat template.
            EngineError: the library broke.
        """
        questions = []
        for index, request in enumerate(requests):
            ids = encode_prompt(self._tokenizer, request.prompt)
            if isinstance(ids, Failure):
                yield index, ids
            elif len(ids) + request.max_tokens > self._session.max_length:
                limit = self._session.max_length
                message = f"prompt {len(ids)} + answer {request.max_tokens} tokens; the limit is {limit}"
                yield index, Failure(kind="too-long", message=message)
            else:
                questions.append(Question(about=(index, request), ids=list(ids), params=self._params(request)))
        questions.sort(key=lambda question: (question.ids, question.about[0]))
        for question, output in ask(self._session, questions, self._options.in_flight):
            index, request = question.about
            yield index, output if isinstance(output, Failure) else self._read(request, len(question.ids), output)

    def _params(self, request: GenerateRequest) -> Any:
        """Greedy is temperature 0 and nothing else; a temperature alone may still be greedy, so top_p goes with it."""
        library = self._session.library
        wanted: dict[str, Any] = {"max_tokens": request.max_tokens, "temperature": request.temperature}
        if request.temperature > 0.0:
            wanted |= {"top_p": request.top_p, "seed": request.seed}
        if request.stop:
            wanted |= {"stop": list(request.stop), "include_stop_str_in_output": True}  # counted and cut here
        if self._ends:
            wanted["stop_token_ids"] = list(self._ends)
        if request.json_schema is not None and self._options.guided_decoding is not None:
            schema = json.loads(request.json_schema)
            wanted["guided_decoding"] = library.make("GuidedDecodingParams", json=schema)
        return library.sampling(**wanted)

    def _read(self, request: GenerateRequest, prompt_tokens: int, output: Any) -> Generation | Failure:
        reason = output.finish_reason
        if reason not in ("stop", "length"):
            return Failure(kind="engine", message=f"the answer ended with {reason!r}")
        tokens = [int(token) for token in output.token_ids]
        while tokens and tokens[-1] in self._ends:
            tokens.pop()
        cut = self._first_with(request.stop, tokens)
        if cut is not None:
            tokens, reason = tokens[:cut], "stop"
        elif len(tokens) < request.max_tokens and reason == "length":
            message = (
                f"{len(tokens)} tokens came back although {request.max_tokens} were asked for and nothing ended them"
            )
            return Failure(kind="engine", message=message)
        text = self._decode(tokens)
        places = [text.find(stop) for stop in request.stop]
        return Generation(
            text=text[: min([place for place in places if place >= 0], default=len(text))],
            finish=reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(tokens),
        )

    def _first_with(self, stops: tuple[str, ...], tokens: list[int]) -> int | None:
        """Return the smallest number of tokens whose text holds a stop text; None if it never comes."""
        if not stops or not self._holds(stops, tokens):
            return None
        low, high = 1, len(tokens)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._holds(stops, tokens[:middle]) else (middle + 1, high)
        return low

    def _holds(self, stops: tuple[str, ...], tokens: list[int]) -> bool:
        text = self._decode(tokens)
        return any(stop in text for stop in stops)

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
