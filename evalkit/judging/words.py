"""The words a judge is asked with.

In: a judge profile, and FastChat's prompts where it names them. Out: system and user message for one answer.
May not know: who answered, who judges.

A template is filled once with `str.format`: braces in an answer are then plain text. Nothing in an answer is changed,
however much it looks like an order to the judge or a rating.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalkit.assets import AssetStore, read_mt_bench
from evalkit.definitions import JudgeProfile
from evalkit.errors import AssetError, UsageError, suggestion
from evalkit.records import digest

_FIRST, _SECOND = "turn_1", "turn_2"
_WITH_REFERENCE = "_with_reference"


@dataclass(frozen=True, kw_only=True)
class Words:
    """One template: the system message (None for none) and the user message to be filled in."""

    system: str | None
    template: str


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
        if not 1 <= len(answers) == len(questions) <= 2:
            raise UsageError(f"judge '{self.profile.name}' rates conversations of one or two turns, not {len(answers)}")
        name = (_FIRST if len(answers) == 1 else _SECOND) + (_WITH_REFERENCE if references is not None else "")
        values = {f"question_{place}": text for place, text in enumerate(questions, start=1)}
        values |= {f"answer_{place}": text for place, text in enumerate(answers, start=1)}
        for place, text in enumerate(references or (), start=1):
            values[f"reference_{place}"] = values[f"ref_answer_{place}"] = text
        if len(answers) == 1:
            values |= {"question": questions[0], "answer": answers[0]}
        words = self.templates[name]
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
        if name not in prompts or prompts[name].type != "single":
            single = [prompt.name for prompt in prompts.values() if prompt.type == "single"]
            raise UsageError(
                f"judge '{profile.name}': asset '{profile.prompts.asset}' has no single-answer prompt "
                f"'{name}'{suggestion(name, single)}"
            )
    found = {name: prompts[text] for name, text in texts.items()}
    return JudgeWords(
        profile=profile,
        templates={
            name: Words(system=prompt.system_prompt or None, template=prompt.prompt_template)
            for name, prompt in found.items()
        },
    )
