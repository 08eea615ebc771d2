"""A chat template that looks at the clock: two days ask the same prompt, and the identity says which date it got."""

from __future__ import annotations

from datetime import datetime

import pytest

from evalkit.adapters.base import Message
from evalkit.adapters.tokens import chat_options, render_chat

pytest.importorskip("transformers")
utils = pytest.importorskip("transformers.utils.chat_template_utils")
pytest.importorskip("jinja2")

LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}'
    "{%- endif %}{%- endif %}Today Date: {{ date_string }}\n{{ messages[0].content }}"
)


class Tokenizer:
    """As transformers renders: a template, and what is given to it."""

    def __init__(self, template: str) -> None:
        self.chat_template = template

    def apply_chat_template(self, rows, *, tokenize, add_generation_prompt, **given):
        assert not tokenize
        compiled = utils._compile_jinja_template(self.chat_template)
        return compiled.render(messages=rows, add_generation_prompt=add_generation_prompt, **given)


def on(monkeypatch, year: int):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(year, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr(utils, "datetime", Clock)


@pytest.mark.parametrize("template", [LLAMA, "{{ strftime_now('%A %H:%M') }} {{ messages[0].content }}"])
def test_two_days_render_one_prompt_and_say_so(monkeypatch, template):
    seen = []
    for year in (2031, 2032):
        on(monkeypatch, year)
        plain = utils._compile_jinja_template(template).render(messages=[{"role": "user", "content": "Hi"}])
        seen.append((plain, render_chat(Tokenizer(template), [Message(role="user", content="Hi")]), year))
    assert seen[0][1] == seen[1][1]
    assert chat_options(Tokenizer(template))["chat_date"] == "2024-07-26"
    if template == LLAMA:
        assert seen[0][0] != seen[1][0]  # what the clock does without being held
        assert seen[0][1] == "Today Date: 26 Jul 2024\nHi"


def test_the_digest_of_what_is_rendered_differs_where_the_text_does():
    first, second = (chat_options(Tokenizer(text)) for text in (LLAMA, LLAMA.replace("Today", "The")))
    assert first["chat_rendered_sha256"] != second["chat_rendered_sha256"]


def test_a_template_without_a_clock_adds_nothing_to_an_identity():
    assert chat_options(Tokenizer("{{ messages[0].content }}")) == {}
