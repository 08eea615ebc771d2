"""Does the server still run the model it was probed with?

In: what it said and what it answered when it was probed. Out: nothing, or an error that says what changed.
May not know: items.
"""

from __future__ import annotations

from evalkit.adapters.openai.asking import Asker
from evalkit.adapters.openai.capabilities import Capabilities
from evalkit.adapters.openai.card import ServerCard, read_card
from evalkit.adapters.openai.logprobs import Candidate
from evalkit.adapters.openai.matching import Matching, key_of
from evalkit.adapters.openai.proofs import SAME, NotProvedError, attempt
from evalkit.errors import EngineError, UsageError

COMPARED = 5
"""Likeliest candidates that are compared; numbers of unlikely ones move more."""

_NEXT = "next step: serve one model and repeat the same command, which resumes"


def check_steady(asker: Asker, card: ServerCard, can: Capabilities) -> None:
    """Compare what the server says and answers with what it said and answered at the start.

    A server that was restarted with other weights under the same name says the same of itself, but goes on differently
    after the known prompt.

    Raises:
        EngineError: it says or answers something else, or nothing.
    """
    try:
        now = read_card(asker.transport, card.model)
    except UsageError as error:
        raise EngineError(f"the server changed its model in between: {error}; {_NEXT}") from error
    if now != card:
        names = [name for name in card.__dataclass_fields__ if getattr(now, name) != getattr(card, name)]
        changed = "; ".join(f"{name} was {getattr(card, name)!r}, is {getattr(now, name)!r}" for name in names)
        raise EngineError(f"the server changed its model in between: {changed}; {_NEXT}")
    if not can.canary:
        return
    prompt = can.known_prompt if isinstance(can.known_prompt, str) else list(can.known_prompt)
    try:
        found = attempt(lambda: asker.next_token(prompt, can.top_k))
    except NotProvedError as error:
        raise EngineError(f"the server no longer answers the known prompt: {error}; {_NEXT}") from error
    moved = furthest(can.canary, found.candidates, can.matching)
    if moved > SAME:
        raise EngineError(
            "the server changed its model in between: after the known prompt a log-probability moved by "
            f"{moved:.3f}; {_NEXT}"
        )


def furthest(before: tuple[Candidate, ...], after: tuple[Candidate, ...], matching: Matching) -> float:
    """Return the largest difference among the likeliest candidates; infinity where one is gone."""
    values = {key_of(one, matching): one.logprob for one in after}
    keys = [(key_of(one, matching), one.logprob) for one in before[:COMPARED]]
    return max(abs(values.get(key, float("-inf")) - value) for key, value in keys)
