"""FastChat's conversation templates, by their own names, for parity with published answers.

In: a template's name. Out: how a conversation becomes one text, and where an answer ends.
May not know: models; FastChat chooses a template by a piece of the model's name, evalkit only by an explicit one.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from evalkit.errors import MissingExtraError, UsageError, suggestion


class FastChatTemplate:
    """One of FastChat's conversation templates.

    Attributes:
        name: FastChat's name of it.
        stop: texts before which an answer ends.
    """

    def __init__(self, name: str) -> None:
        """Look the template up.

        Raises:
            MissingExtraError: FastChat is not installed.
            UsageError: it has no such template.
        """
        try:
            self._module: Any = import_module("fastchat.conversation")
        except ImportError as error:
            raise MissingExtraError(f"template 'fastchat:{name}'", "fastchat", "fastchat") from error
        known = self._module.conv_templates
        if name not in known:
            raise UsageError(f"FastChat has no conversation template '{name}'{suggestion(name, list(known))}")
        self.name = name
        stops = known[name].stop_str
        self.stop: tuple[str, ...] = (stops,) if isinstance(stops, str) else tuple(stops or ())

    def render(self, questions: Sequence[str], answers: Sequence[str]) -> str:
        """Return the text of a conversation up to where the next answer begins.

        Args:
            questions: user messages, one more than answers.
            answers: the answers so far.
        """
        talk = self._module.get_conv_template(self.name)
        for place, question in enumerate(questions):
            talk.append_message(talk.roles[0], question)
            talk.append_message(talk.roles[1], answers[place] if place < len(answers) else None)
        return str(talk.get_prompt())
