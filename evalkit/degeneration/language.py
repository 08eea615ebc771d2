"""In which script and language is a text? Rough, deterministic, good enough to see an answer change over.

In: a text. Out: shares of scripts, the likely language, or None where nothing can be said.
May not know: what the text answers.

Languages are told apart by their commonest words. Only a few are known; a text in another one has no language here and
is never taken for a change.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

FEWEST_WORDS = 20
"""Words below which a language is not guessed."""

LEAST_SHARE = 0.08
"""Share of words that must be common ones of a language."""

LEAD = 1.5
"""How many times as many common words the likeliest language must have as the next one."""

COMMON: Mapping[str, frozenset[str]] = {
    "en": frozenset("the of and to in is that it for was with as are this be on not you have or".split()),  # noqa: SIM905
    "es": frozenset("el la de que y en los se del las un por con no una su para es al lo como más".split()),  # noqa: SIM905
    "fr": frozenset("le la de et les des en un une du que est pour dans qui au ce il sur pas plus ne".split()),  # noqa: SIM905
    "de": frozenset("der die und das ist zu den mit nicht von ein eine sich auf für im dem auch es".split()),  # noqa: SIM905
    "it": frozenset("il di che e la per un una in non sono del con della i le gli si come più anche".split()),  # noqa: SIM905
    "pt": frozenset("o de que e a do da em um para com não uma os no se na por mais as dos como".split()),  # noqa: SIM905
    "nl": frozenset("de het een en van in is dat op te zijn met voor niet aan er ook als bij maar".split()),  # noqa: SIM905
}
"""Commonest words of each language that is told apart."""

_WORD = re.compile(r"[^\W\d_]+")


def scripts(text: str) -> Counter[str]:
    """Count letters by script, as Unicode names it.

    >>> dict(scripts("aя"))
    {'LATIN': 1, 'CYRILLIC': 1}
    """
    return Counter(_script(char) for char in text if char.isalpha())


@lru_cache(maxsize=8192)
def _script(char: str) -> str:
    return unicodedata.name(char, "UNKNOWN").split(" ", 1)[0].split("-", 1)[0]


def language(text: str) -> str | None:
    """Return the likeliest language of a text, or None.

    >>> language("the cat is on the mat and it was not that the dog is in the house with you for this")
    'en'
    """
    words = [word.casefold() for word in _WORD.findall(text)]
    if len(words) < FEWEST_WORDS:
        return None
    hits = sorted(((sum(word in common for word in words), name) for name, common in COMMON.items()), reverse=True)
    (most, name), (second, _) = hits[0], hits[1]
    return name if most >= LEAST_SHARE * len(words) and most >= LEAD * second else None
