"""The words a judge is asked with.

In: a judge profile, and FastChat's prompts where it names them. Out: system and user message for one answer, or two.
May not know: who answered, who judges.

A template is filled once with `str.format`: braces in an answer are then plain text. Nothing in an answer is changed,
however much it looks like an order to the judge or a rating. Delimiters may carry a code word that follows from all the
material, the answers too, so that no answer can hold it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalkit.assets import AssetStore, read_mt_bench
from evalkit.definitions import JudgeProfile
from evalkit.definitions.judge import MARKER
from evalkit.errors import AssetError, UsageError, suggestion
from evalkit.records import digest

_FIRST, _SECOND = "turn_1", "turn_2"
_MARKER_DIGITS = 16
_WITH_REFERENCE = "_with_reference"


@dataclass(frozen=True, kw_only=True)
class Words:
    """One template: the system message (None for none) and the user message to be filled in."""

    system: str | None
    template: str

    @property
    def needs_marker(self) -> bool:
        """Whether the delimiters carry a code word."""
        return f"{{{MARKER}}}" in self.template


@dataclass(frozen=True, kw_only=True)
class JudgeWords:
    """All templates of a profile.

    Attributes:
        profile: the profile.
        templates: "turn_1", "turn_1_with_reference", "turn_2", "turn_2_with_reference" to words.
    """

    profile: JudgeProfile
    templates: Mapping[str, Words]

    @property
    def sha256(self) -> str:
        """Digest of the profile and of every text it loaded: two instruments never share it."""
        texts = {name: [words.system, words.template] for name, words in self.templates.items()}
        return digest([self.profile.sha256, texts])

    def fill(
        self, questions: Sequence[str], answers: Sequence[str], references: Sequence[str] | None
    ) -> tuple[str | None, str]:
        """Return (system message, user message) about the last of the answers.

        Args:
            questions: user messages up to the judged turn, one or two.
            answers: the answers to them.
            references: reference answers to them, or None.

        Raises:
            UsageError: more than two turns, or a template with a placeholder nobody fills.
        """
        return self._fill(questions, {"answer": answers}, references)

    def fill_pair(
        self,
        questions: Sequence[str],
        answers_a: Sequence[str],
        answers_b: Sequence[str],
        references: Sequence[str] | None,
    ) -> tuple[str | None, str]:
        """Return (system message, user message) about the last answers of two systems, A shown first.

        Raises:
            UsageError: as `fill`.
        """
        return self._fill(questions, {"answer_a": answers_a, "answer_b": answers_b}, references)

    def _fill(
        self, questions: Sequence[str], answers: Mapping[str, Sequence[str]], references: Sequence[str] | None
    ) -> tuple[str | None, str]:
        turns = len(questions)
        if not 1 <= turns <= 2 or any(len(texts) != turns for texts in answers.values()):
            given = max(turns, *map(len, answers.values()))
            raise UsageError(f"judge '{self.profile.name}' rates conversations of one or two turns, not {given}")
        name = (_FIRST if turns == 1 else _SECOND) + (_WITH_REFERENCE if references is not None else "")
        values = {f"question_{place}": text for place, text in enumerate(questions, start=1)}
        for side, texts in answers.items():
            values |= {f"{side}_{place}": text for place, text in enumerate(texts, start=1)}
        for place, text in enumerate(references or (), start=1):
            values[f"reference_{place}"] = values[f"ref_answer_{place}"] = text
        if turns == 1:
            values |= {"question": questions[0], **{side: texts[0] for side, texts in answers.items()}}
        words = self.templates[name]
        if words.needs_marker:
            values[MARKER] = digest([self.profile.sha256, name, values])[:_MARKER_DIGITS]
        try:
            return words.system, words.template.format(**values)
        except (KeyError, IndexError, ValueError) as error:
            raise UsageError(
                f"judge '{self.profile.name}': template '{name}' cannot be filled ({type(error).__name__}: {error}); "
                f"allowed placeholders: {', '.join(sorted(values))}"
            ) from error


def load_words(profile: JudgeProfile, assets: AssetStore | None) -> JudgeWords:
    """Return a profile's templates: its own, or those of the asset it names.

    Raises:
        UsageError: the asset has no prompt of a name the profile uses.
        AssetError: the asset cannot be fetched.
    """
    names = [_FIRST, _FIRST + _WITH_REFERENCE, _SECOND, _SECOND + _WITH_REFERENCE]
    texts = {name: str(getattr(profile.prompts, name)) for name in names}
    if profile.prompts.asset is None:
        system = profile.prompts.system
        return JudgeWords(
            profile=profile, templates={name: Words(system=system, template=text) for name, text in texts.items()}
        )
    if assets is None:
        raise AssetError(
            f"judge '{profile.name}' takes its prompts from asset '{profile.prompts.asset}'; none is at hand"
        )
    prompts = read_mt_bench(assets.fetch(profile.prompts.asset)).judge_prompts
    for name in texts.values():
        if name not in prompts or prompts[name].type != profile.mode:
            fitting = [prompt.name for prompt in prompts.values() if prompt.type == profile.mode]
            kind = "single-answer" if profile.mode == "single" else "pairwise"
            raise UsageError(
                f"judge '{profile.name}': asset '{profile.prompts.asset}' has no {kind} prompt "
                f"'{name}'{suggestion(name, fitting)}"
            )
    found = {name: prompts[text] for name, text in texts.items()}
    return JudgeWords(
        profile=profile,
        templates={
            name: Words(system=prompt.system_prompt or None, template=prompt.prompt_template)
            for name, prompt in found.items()
        },
    )
