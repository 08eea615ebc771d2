"""Language models for the doubles of servers: a toy with known numbers, and the real small model.

Tests import it by its name: pytest has this folder on its path.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

PLAIN = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "Paris", "Rome", "hot", "cold"),
    *("yes", "no", "very", "large", "town", "house", "the", "a", "and", "it", "is", "of", "sky", "Say", "again"),
    *("Hello", "Question", "Answer"),
)
NUMBERS = PLAIN[:10]
WORDS = (
    *(f" {letter}" for letter in "ABCDEFGHIJ"),
    *(f" {number}" for number in range(1, 11)),
    *(f" {word}" for word in PLAIN),
    *PLAIN,
    *("Answer:", "Question:", "Count on:", "The", "\n\n"),
)
START, END = "<|start|>", "<|end|>"


class ToyBrain:
    """A vocabulary of a few hundred pieces and numbers that follow from the last 64 tokens and their count.

    It counts: after "five," the likeliest token is " six". Everything else is drawn from a digest.
    """

    max_length = 512

    def __init__(self, seed: int = 0) -> None:
        characters = [chr(code) for code in range(32, 127)] + ["\n"]
        raw = [f"<0x{byte:02X}>" for byte in range(256)]
        self.pieces = list(dict.fromkeys([START, END, *characters, *WORDS, *raw]))
        self._ids = {piece: token for token, piece in enumerate(self.pieces)}
        self._longest = max(map(len, WORDS))
        self._seed = seed
        self.start, self.ends = self._ids[START], frozenset({self._ids[END]})

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Take the longest piece at every place; bytes where there is none. A start token comes first."""
        found = [self.start] if special and not text.startswith(START) else []
        place = 0
        while place < len(text):
            if text.startswith((START, END), place):
                size = len(START) if text.startswith(START, place) else len(END)
            else:
                size = next((n for n in range(self._longest, 0, -1) if text[place : place + n] in self._ids and n), 0)
            if size:
                found.append(self._ids[text[place : place + size]])
                place += size
            else:
                found += [self._ids[f"<0x{byte:02X}>"] for byte in text[place].encode()]
                place += 1
        return found

    def spelling(self, token: int) -> str:
        """Return the text of one token, special ones too."""
        return self.pieces[token]

    def piece(self, token: int) -> str:
        """Return the text of one token; special ones have none."""
        return "" if token in (self.start, *self.ends) else self.pieces[token]

    def next(self, ids: Sequence[int]) -> np.ndarray[Any, Any]:
        """Return the log-probability of every token after these ones, shape (vocabulary,)."""
        key = hashlib.sha256(f"{self._seed}:{len(ids)}:{list(ids[-64:])}".encode()).digest()
        logits = np.random.default_rng(np.frombuffer(key[:8], dtype=np.uint32)).normal(0.0, 1.0, len(self.pieces))
        logits[[self._ids[piece] for piece in WORDS]] += 4.0
        tail = "".join(self.pieces[token] for token in ids[-2:])
        for word, following in pairwise(NUMBERS):
            if tail.endswith(f"{word},"):
                logits[self._ids[f" {following}"]] += 9.0
        if len(ids) > 24 and sum(ids[-24:]) % 7 == 0:
            logits[next(iter(self.ends))] += 12.0
        return logits - np.logaddexp.reduce(logits)

    def rows(self, ids: Sequence[int]) -> list[Any]:
        """Return what `next` says after each beginning of these tokens."""
        return [self.next(ids[:end]) for end in range(1, len(ids) + 1)]

    def chat(self, messages: Sequence[Any]) -> str:
        """Return the prompt of a conversation."""
        said = "".join(f"{START}{one['role']}\n{one['content']}{END}\n" for one in messages)
        return f"{said}{START}assistant\n"


class RealBrain:
    """The model inside a loaded engine of the adapter `hf`."""

    max_length = 512

    def __init__(self, engine: Any) -> None:
        self._model, self._tokenizer = engine._loaded.model, engine._loaded.tokenizer
        self._lock = threading.Lock()
        self._known: dict[tuple[int, ...], Any] = {}
        self.start = int(self._tokenizer.bos_token_id)
        self.ends = frozenset({int(self._tokenizer.eos_token_id)})

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Encode as the model's own tokenizer does."""
        with self._lock:
            return [int(token) for token in self._tokenizer(text, add_special_tokens=special)["input_ids"]]

    def spelling(self, token: int) -> str:
        """Return the text of one token, special ones too."""
        with self._lock:
            return str(self._tokenizer.decode([token]))

    def piece(self, token: int) -> str:
        """Return the text of one token; special ones have none."""
        with self._lock:
            return str(self._tokenizer.decode([token], skip_special_tokens=True))

    def next(self, ids: Sequence[int]) -> np.ndarray[Any, Any]:
        """Return the log-probability of every token after these ones, shape (vocabulary,)."""
        key = tuple(ids)
        if key not in self._known:
            if len(self._known) >= 256:
                self._known.clear()
            self._known[key] = self.rows(ids)[-1]
        return self._known[key]

    def rows(self, ids: Sequence[int]) -> list[Any]:
        """Return what `next` says after each beginning of these tokens, in one pass."""
        import torch  # noqa: PLC0415 - the toy needs none

        with self._lock, torch.inference_mode():
            logits = self._model(torch.tensor([list(ids)])).logits[0].float()
            return list(torch.log_softmax(logits, dim=-1).numpy())

    def chat(self, messages: Sequence[Any]) -> str:
        """Return the prompt of a conversation."""
        with self._lock:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
