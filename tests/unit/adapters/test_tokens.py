"""The split of text into context and continuation, by a tokenizer whose tokens can be read off the text."""

from __future__ import annotations

import re

import pytest

from evalkit.adapters.base import Failure, Message, ScoreRequest
from evalkit.adapters.tokens import EncodedRequest, encode_prompt, encode_requests, start_token
from evalkit.errors import UsageError

TALK = (Message(role="user", content="hi"),)


class Words:
    """A word, with the one space before it, is a token; `start` is put before every text, as Llama does."""

    chat_template = None

    def __init__(self, start: str | None = None, end: str | None = "</s>") -> None:
        self.vocabulary: list[str] = [token for token in (start, end) if token]
        self.bos_token, self.eos_token = start, end
        self.bos_token_id = self._id(start) if start else None
        self.eos_token_id = self._id(end) if end else None

    def __call__(self, texts, add_special_tokens=True, verbose=True):
        start = [self.bos_token_id] if add_special_tokens and self.bos_token_id is not None else []
        return {"input_ids": [[*start, *map(self._id, re.findall(r"<s>|</s>| ?\w+|\s|.", text))] for text in texts]}

    def _id(self, token: str) -> int:
        if token not in self.vocabulary:
            self.vocabulary.append(token)
        return self.vocabulary.index(token)

    def decode(self, token, clean_up_tokenization_spaces=False):
        return self.vocabulary[token]

    def apply_chat_template(self, rows, tokenize, add_generation_prompt, **_given):
        assert (tokenize, add_generation_prompt) == (False, True)
        if self.chat_template == "broken":
            raise ValueError("roles must alternate")
        return self.chat_template + "".join(f" {row['role']} {row['content']}" for row in rows)

    def words(self, ids):
        return [self.vocabulary[int(token)] for token in ids]


def split(tokenizer, context, *continuations):
    (encoded,) = encode_requests(tokenizer, [ScoreRequest(context=context, continuations=continuations)])
    assert isinstance(encoded, EncodedRequest)
    return tokenizer.words(encoded.context), [tokenizer.words(tokens) for tokens in encoded.continuations]


def test_text_is_encoded_whole_and_cut_at_the_length_of_the_context():
    assert split(Words(), "one two", " three", " four five") == (["one", " two"], [[" three"], [" four", " five"]])


def test_space_at_the_end_of_the_context_goes_to_the_continuation():
    assert split(Words(), "one two ", "three") == (["one", " two"], [[" three"]])


def test_a_start_token_is_put_before_the_context_once():
    assert split(Words("<s>"), "one", " two") == (["<s>", "one"], [[" two"]])
    assert split(Words("<s>"), "<s>one", " two") == (["<s>", "one"], [[" two"]])


@pytest.mark.parametrize(("start", "stands_in"), [("<s>", "<s>"), (None, "</s>")])
def test_an_empty_context_becomes_the_start_token_or_else_the_end_token(start, stands_in):
    assert split(Words(start), "", "one two") == ([stands_in], [["one", " two"]])


def test_a_context_of_white_space_leaves_the_start_token():
    assert split(Words(), "  ", "one") == (["</s>"], [[" ", " one"]])


def test_a_continuation_without_a_token_of_its_own_fails_and_names_it():
    requests = [
        ScoreRequest(context="one", continuations=(" two", "")),
        ScoreRequest(context="a", continuations=(" b",)),
    ]
    found = list(encode_requests(Words(), requests))
    assert found[0] == (0, Failure(kind="missing-token", message="continuation '' has no token of its own"))
    assert isinstance(found[1], EncodedRequest)


def test_indices_go_on_across_chunks(monkeypatch):
    monkeypatch.setattr("evalkit.adapters.tokens._CHUNK", 2)
    requests = [ScoreRequest(context=f"c{n}", continuations=(" a",)) for n in range(5)]
    assert [encoded.index for encoded in encode_requests(Words(), requests)] == [0, 1, 2, 3, 4]


def test_a_tokenizer_without_start_and_end_cannot_score_an_empty_context():
    with pytest.raises(UsageError, match=r"neither a start nor an end token.*next step"):
        start_token(Words(None, None))


def test_a_prompt_of_text_is_encoded_like_a_context():
    assert Words("<s>").words(encode_prompt(Words("<s>"), "")) == ["<s>"]
    tokenizer = Words("<s>")
    assert tokenizer.words(encode_prompt(tokenizer, "one two")) == ["<s>", "one", " two"]


def test_messages_go_through_the_template_and_get_no_second_start_token():
    tokenizer = Words("<s>")
    tokenizer.chat_template = "<s>"
    assert tokenizer.words(encode_prompt(tokenizer, TALK)) == ["<s>", " user", " hi"]


def test_a_template_that_writes_two_start_tokens_is_a_failure():
    tokenizer = Words("<s>")
    tokenizer.chat_template = "<s><s>"
    reply = encode_prompt(tokenizer, TALK)
    assert reply == Failure(kind="engine", message="the prompt begins with two start tokens '<s>'")


def test_messages_without_a_template_are_refused_with_the_next_step():
    with pytest.raises(UsageError, match=r"the tokenizer has no chat template.*next step.*--template fastchat:<name>"):
        encode_prompt(Words(), TALK)


def test_a_template_that_raises_fails_the_request_alone():
    tokenizer = Words()
    tokenizer.chat_template = "broken"
    reply = encode_prompt(tokenizer, TALK)
    assert isinstance(reply, Failure)
    assert reply.message == "the chat template refused the messages: ValueError: roles must alternate"
