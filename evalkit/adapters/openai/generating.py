"""Generate one answer.

In: a request made of text or messages. Out: an answer, or a failure that says what was wrong.
May not know: threads, other requests, scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from evalkit.adapters.base import Failure, GenerateRequest, Generation, no_chat_template
from evalkit.adapters.causal.tokens import encode_prompt
from evalkit.adapters.openai.asking import CHAT, COMPLETIONS, Asker
from evalkit.adapters.openai.capabilities import Capabilities
from evalkit.adapters.openai.reply import Usage, read_choice, read_usage, text_of
from evalkit.adapters.openai.tokenizing import Tokenizer
from evalkit.adapters.openai.wire import Json, MalformedError, RejectedError, UnusableError
from evalkit.errors import UsageError


class Generator:
    """Generates answers, one at a time, from any thread.

    Args:
        asker: the server and its model.
        can: what it can do.
        tokenizer: gives token ids where `can.ids`; None otherwise.
        max_length: tokens a request may need; None where nobody says.
    """

    def __init__(self, asker: Asker, can: Capabilities, tokenizer: Tokenizer | None, max_length: int | None) -> None:
        self._asker, self._can, self._max_length = asker, can, max_length
        self._tokenizer = tokenizer if can.ids else None

    def generate(self, request: GenerateRequest) -> Generation | Failure:
        """Generate one answer.

        Raises:
            EngineError: the server is not to be used any more (key refused, budget spent, another model).
            UsageError: the server lacks the endpoint this prompt needs, or the model a chat template.
        """
        path = COMPLETIONS if isinstance(request.prompt, str) else CHAT
        if path == CHAT and not self._can.templated:
            raise no_chat_template("the served model")
        if not (self._can.completions if path == COMPLETIONS else self._can.chat):
            raise UsageError(
                f"{self._asker.transport} does not answer at {path}: {self._can.seen.get(path, 'not tried')}; "
                f"next step: {_STEPS[path]}"
            )
        try:
            prompt = self._prompt(request)
            if isinstance(prompt, Failure):
                return prompt
            body = self._asker.body(**prompt, **self._settings(request))
            return self._asker.transport.post(path, body, lambda reply: self._read(reply, request, prompt))
        except UnusableError as error:
            return error.failure
        except RejectedError as error:
            return error.failure

    def _prompt(self, request: GenerateRequest) -> Json | Failure:
        if not isinstance(request.prompt, str):
            return {"messages": [{"role": one.role, "content": one.content} for one in request.prompt]}
        if self._tokenizer is None:
            return {"prompt": request.prompt}
        ids = encode_prompt(self._tokenizer, request.prompt)
        if isinstance(ids, Failure):
            return ids
        return self._too_long(len(ids), request.max_tokens) or {"prompt": ids}

    def _settings(self, request: GenerateRequest) -> Json:
        settings: Json = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            **self._can.fixed,
        }
        if request.stop:
            settings["stop"] = list(request.stop)
        if request.temperature > 0:
            settings |= {**self._can.sampled, **({"seed": request.seed} if self._can.seed else {})}
        return settings

    def _read(self, reply: Json, request: GenerateRequest, sent: Json) -> Generation:
        self._asker.name.check(reply)
        choice, usage = read_choice(reply), read_usage(reply)
        ids = sent.get("prompt")
        if isinstance(ids, list) and usage.prompt != len(ids):
            raise UnusableError("engine", f"{len(ids)} token ids were sent and the server fed {usage.prompt}")
        (text, reasoning), finish = text_of(choice), _finish(choice)
        cut = min((place for stop in request.stop if (place := text.find(stop)) >= 0), default=None)
        if cut is not None:
            text, finish = text[:cut], "stop"
        self._check_length(usage, finish, request)
        return Generation(
            text=text,
            finish=finish,
            prompt_tokens=usage.prompt,
            completion_tokens=min(usage.completion, request.max_tokens),
            reasoning=reasoning,
        )

    def _check_length(self, usage: Usage, finish: str, request: GenerateRequest) -> None:
        """Refuse an answer that had less room than it was promised.

        Raises:
            UnusableError: the context ended before the answer did, or the answer is longer than allowed.
        """
        long = self._too_long(usage.prompt, request.max_tokens)
        if long is not None:
            raise UnusableError(long.kind, long.message)
        if finish == "length" and usage.completion < request.max_tokens:
            message = f"the server's context ended after {usage.completion} of {request.max_tokens} answer tokens"
            raise UnusableError("too-long", message)
        if usage.completion > request.max_tokens + 1:  # some servers count the end token, some do not
            message = f"{usage.completion} tokens came where {request.max_tokens} were allowed"
            raise UnusableError("engine", message)

    def _too_long(self, prompt: int, answer: int) -> Failure | None:
        if self._max_length is None or prompt + answer <= self._max_length:
            return None
        return Failure(
            kind="too-long", message=f"prompt {prompt} + answer {answer} tokens; the limit is {self._max_length}"
        )


_STEPS = {
    CHAT: "start the server with the model's chat template, or name one of FastChat's, --template fastchat:<name> or "
    "template: fastchat:<name> in a suite or task file (pip install 'evalkit-quant[fastchat]')",
    COMPLETIONS: "serve the model behind an endpoint for text, or use tasks with messages",
}


def _finish(choice: Mapping[str, Any]) -> Literal["stop", "length"]:
    reason = choice.get("finish_reason")
    if not isinstance(reason, str) or reason in _BROKEN:
        raise MalformedError(f"the answer did not end: finish_reason is {reason!r}")
    return "length" if reason == "length" else "stop"


_BROKEN: Sequence[str] = ("abort", "cancelled", "error", "timeout")
"""Reasons of an answer that was cut off by something else than its own end or limit."""
