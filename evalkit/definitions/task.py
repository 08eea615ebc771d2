"""The task file: what is asked, of which items, and which number decides.

In: the mapping of one task file. Out: a frozen `TaskDefinition`.
Must not depend on: prompts, data sets or engines; those are named here and live elsewhere.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, SerializerFunctionWrapHandler, model_serializer, model_validator

from evalkit.configuration import Section, Title, content_sha256

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A name that is also a file name."""

LM_EVAL_PREFIX = "lm_eval:"
"""`lm_eval:<task>` is a task of lm-eval for which there is no file here."""


FASTCHAT_PREFIX = "fastchat:"
"""`fastchat:<name>` is one of FastChat's conversation templates."""

TEMPLATE = rf"^{FASTCHAT_PREFIX}[A-Za-z0-9._-]+$"
"""Pattern of a conversation template's name."""


UNIT_METRICS = ("acc", "acc_norm", "acc_mutual_info", "exact_match", "pass@1")
"""Metrics of lm-eval that are shares: from 0 to 1 for every item."""


class LmEvalTask(Section):
    """The part of a task file for tasks that run through lm-eval's own task code.

    Attributes:
        task: name of a task or group in lm-eval.
        shots: worked examples before each item.
    """

    task: Annotated[str, Field(min_length=1)]
    shots: Annotated[int, Field(ge=0)] = 0


class MtBenchTask(Section):
    """The part of a task file for MT-Bench.

    Attributes:
        generation: "greedy" (temperature 0 throughout), "fastchat" (one temperature for each category) or "sampled"
            (temperature 0.7 throughout, so that every further answer averages the luck of one away).
        max_tokens: limit of each answer, tokens.
        generations: answers sampled for each question.
        questions: question numbers to ask; None for all.
        per_category: ask only the first so many questions of each category; None for all.
        references: "cor1" (corrected) or "original" reference answers; None to judge without any.
        template: "fastchat:<name>" to write prompts with FastChat's conversation template of that name, as published
            answers of old models were made; None for the chat template of the model's own tokenizer.
    """

    generation: Literal["greedy", "fastchat", "sampled"] = "greedy"
    max_tokens: Annotated[int, Field(ge=1)] = 1024
    generations: Annotated[int, Field(ge=1)] = 1
    questions: tuple[int, ...] | None = None
    per_category: Annotated[int, Field(ge=1)] | None = None
    references: Literal["original", "cor1"] | None = "cor1"
    template: Annotated[str, Field(pattern=TEMPLATE)] | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_asked(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A task written before there were other templates keeps its digest."""
        data: dict[str, Any] = dump(self)
        if data.get("template") is None:
            data.pop("template", None)
        return data

    @model_validator(mode="after")
    def _one_selection(self) -> MtBenchTask:
        if self.questions is not None and self.per_category is not None:
            raise ValueError("'questions' and 'per_category' are two ways to choose; keep one")
        if self.questions is not None and (not self.questions or len(set(self.questions)) != len(self.questions)):
            raise ValueError("'questions' must be a list of different question numbers; leave it out for all")
        if self.generation == "greedy" and self.generations > 1:
            raise ValueError(f"{self.generations} greedy generations would be {self.generations} equal answers; use 1")
        return self


class TaskDefinition(Section):
    """One task.

    Attributes:
        name: equal to the file name without `.yaml`.
        title: one line for people; the digest leaves it out.
        kind: "choice" (continuations scored), "text" (one generated answer) or "conversation" (several turns).
        benchmark: who loads it: "lm_eval" or "mt_bench".
        protocol: name of how it is asked (`ll-5shot`, `cloze-0shot`, `mt-bench-greedy`, ...).
        metric: name of the mark that decides.
        chance: accuracy of guessing, proportion; None where it has no meaning.
        higher_is_better: whether more of the metric is better; None for what the benchmark itself says.
        score_range: lowest and highest value the metric can have; the digest leaves it out, since it changes no number.
            None: [0, 1] for the metrics of `UNIT_METRICS`, else unknown, and then no verdict may rest on its mean.
        dataset: asset that holds the items; None where the benchmark brings its own.
        subjects: strata to use; None for all.
        items_per_subject: items of each subject; None for all. With a limit the items taken are those with the lowest
            sha256 of `f"{order_seed}:{item_sha256}:{occurrence}"`, so a source's row order never matters.
        order_seed: see `items_per_subject`.
        lm_eval, mt_bench: settings of the benchmark named above; the other one is None.
    """

    name: Annotated[str, Field(pattern=rf"^({LM_EVAL_PREFIX})?[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: Title = ""
    kind: Literal["choice", "text", "conversation"]
    benchmark: Literal["lm_eval", "mt_bench"]
    protocol: Name
    metric: Annotated[str, Field(min_length=1)]
    chance: Annotated[float, Field(ge=0, lt=1)] | None = None
    higher_is_better: bool | None = None
    score_range: tuple[float, float] | None = None
    dataset: Name | None = None
    subjects: tuple[str, ...] | None = None
    items_per_subject: Annotated[int, Field(ge=1)] | None = None
    order_seed: int = 0
    lm_eval: LmEvalTask | None = None
    mt_bench: MtBenchTask | None = None
    _source: str = PrivateAttr(default="")

    @model_serializer(mode="wrap")
    def _without_what_is_not_said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A task written before directions were said keeps its digest."""
        data: dict[str, Any] = dump(self)
        if data.get("higher_is_better") is None:
            data.pop("higher_is_better", None)
        return data

    @model_validator(mode="after")
    def _benchmark_has_its_settings(self) -> TaskDefinition:
        for name in ("lm_eval", "mt_bench"):
            given = getattr(self, name) is not None
            if given != (name == self.benchmark):
                raise ValueError(
                    f"benchmark '{self.benchmark}' {'does not use' if given else 'needs'} the key '{name}'"
                )
        if (self.kind == "conversation") != (self.benchmark == "mt_bench"):
            raise ValueError(f"kind '{self.kind}' does not go with benchmark '{self.benchmark}'")
        if self.score_range is not None and not -math.inf < self.score_range[0] < self.score_range[1] < math.inf:
            raise ValueError(f"score_range {list(self.score_range)} must be [lowest, highest], both finite")
        if self.benchmark == "mt_bench" and self.dataset is None:
            raise ValueError("benchmark 'mt_bench' needs the key 'dataset'")
        if self.subjects is not None and (not self.subjects or len(set(self.subjects)) != len(self.subjects)):
            raise ValueError("'subjects' must be a list of different names; leave it out for all")
        return self

    @property
    def source(self) -> str:
        """The file this came from, as text; `lm-eval` for a task made on the fly."""
        return self._source

    @property
    def sha256(self) -> str:
        """Digest of everything that can change a number; key order, comments, the title and the range do not."""
        return content_sha256(self, exclude=["title", "score_range"])

    @property
    def metric_range(self) -> tuple[float, float] | None:
        """Lowest and highest value the metric can have; None if nobody said."""
        if self.score_range is None and self.metric in UNIT_METRICS:
            return (0.0, 1.0)
        return self.score_range

    def with_template(self, template: str) -> TaskDefinition:
        """Return the task with its conversations written by another template; one without conversations as it is."""
        if self.mt_bench is None:
            return self
        return self.model_copy(update={"mt_bench": self.mt_bench.model_copy(update={"template": template})})

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits of the dataset that are needed: `test`, and `dev` where there are worked examples."""
        return ("test", "dev") if self.lm_eval is not None and self.lm_eval.shots else ("test",)


def lm_eval_task(name: str) -> TaskDefinition:
    """Make the definition of `lm_eval:<task>`: zero shots, metric `acc`, the data set that lm-eval names."""
    task = TaskDefinition(
        name=name,
        title=f"lm-eval task {name.removeprefix(LM_EVAL_PREFIX)}",
        kind="choice",
        benchmark="lm_eval",
        protocol="lm-eval-0shot",
        metric="acc",
        lm_eval=LmEvalTask(task=name.removeprefix(LM_EVAL_PREFIX)),
    )
    task._source = "lm-eval"
    return task
