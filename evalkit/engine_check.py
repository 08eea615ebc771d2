"""One engine, loaded and asked a few questions, before a run is begun with it.

In: an engine specification. Out: what was loaded, how it scores, what it answered, and every warning.
May not know: tasks, run folders, verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evalkit.adapters.base import (
    Engine,
    Failure,
    GenerateRequest,
    Generation,
    Message,
    Resources,
    ScoreReply,
    ScoreRequest,
    warnings_of,
)
from evalkit.adapters.registry import load_engine
from evalkit.collect.variance import batch_variance
from evalkit.errors import EvalkitError
from evalkit.records import EngineIdentity, processor_line
from evalkit.suite import EngineSpec

LETTERS = (" A", " B", " C", " D")
KNOWN = (
    "Question: What is the capital of France?\nA. Rome\nB. Paris\nC. Oslo\nD. Cairo\nAnswer:",
    "Question: How many legs has a spider?\nA. Eight\nB. Two\nC. Ten\nD. Four\nAnswer:",
)
"""Questions in the form of MMLU; the right letters are B and A."""

RIGHT = (1, 0)

COMPANY = tuple(
    ScoreRequest(
        context="".join(f"{one} and {one} make {2 * one}.\n" for one in range(1, n % 7))
        + f"Question: How many are {n + 11} and {3 * n + 7}?\n"
        + "".join(
            f"{letter.strip()}. {4 * n + 18 + off}\n" for letter, off in zip(LETTERS, (1, 0, 10, -2), strict=True)
        )
        + "Answer:",
        continuations=LETTERS,
    )
    for n in range(12)
)
"""Questions of many lengths, to be asked together and then alone."""

ANSWER_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class EngineCheck:
    """What came of checking an engine.

    Attributes:
        name: name of the engine in its suite.
        identity: what was loaded.
        findings: what the loader looked at, and what it saw; empty for adapters that need no probe.
        trials: what was asked, and what came of it.
        warnings: what results may not rest on.
        sound: at least one trial went well; an engine may be for scoring or for generating alone.
    """

    name: str
    identity: EngineIdentity
    findings: Mapping[str, str] = field(default_factory=dict)
    trials: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    sound: bool = True

    @property
    def scoring(self) -> str:
        """How the engine scores, in the adapter's own words."""
        return str(self.identity.options.get("scoring", "not said"))


def check_engine(spec: EngineSpec, resources: Resources) -> EngineCheck:
    """Load an engine, ask it a few questions, and free it.

    Raises:
        UsageError: the specification is wrong.
        EngineError: the engine cannot be loaded.
    """
    engine = load_engine(spec, resources)
    try:
        trials: dict[str, str] = {}
        warnings: list[str] = []
        trials["score four letters"] = _scored(engine, warnings)
        trials["continue a text"] = _generated(engine, "Once upon a time")
        trials["answer a message"] = _generated(engine, (Message(role="user", content="Say hello."),))
        failed = [name for name, seen in trials.items() if seen.startswith(_FAILED)]
        sound = len(failed) < len(trials)
        other = _in_another_company(engine, trials, warnings)
        if other is not None:
            trials["the same, each alone"] = other
        return EngineCheck(
            name=spec.name,
            identity=engine.identity,
            findings=dict(getattr(engine, "findings", {})),
            trials=trials,
            warnings=(*warnings_of(engine), *warnings, *(f"{name}: {trials[name]}" for name in failed)),
            sound=sound,
        )
    finally:
        engine.close()


_FAILED = "FAILED: "


def _in_another_company(engine: Engine, trials: Mapping[str, str], warnings: list[str]) -> str | None:
    """Ask a dozen questions together and then alone, in the ways that work; None where none does."""
    works = {name for name, seen in trials.items() if not seen.startswith(_FAILED)}
    scores = COMPANY if "score four letters" in works else ()
    prompts = [
        GenerateRequest(prompt=request.context, max_tokens=ANSWER_TOKENS)
        for request in (COMPANY[::3] if "continue a text" in works else ())
    ]
    if not scores and not prompts:
        return None
    try:
        found = batch_variance(engine, scores, prompts)
    except EvalkitError as error:
        return f"{_FAILED}{error}"
    if found.choices_changed or found.answers_changed:
        warnings.append(
            f"replies depend on what is asked beside them ({found}): two runs differ by that much with no cause; a "
            "suite's rerun measures it on the task"
        )
    return str(found)


def _scored(engine: Engine, warnings: list[str]) -> str:
    try:
        replies = dict(engine.score([ScoreRequest(context=text, continuations=LETTERS) for text in KNOWN]))
    except EvalkitError as error:
        return f"{_FAILED}{error}"
    shown, right = [], 0
    for index in range(len(KNOWN)):
        reply = replies[index]
        if isinstance(reply, Failure) or not all(map(math.isfinite, reply.logprobs)):
            return f"{_FAILED}{reply}"
        best = reply.logprobs.index(max(reply.logprobs))
        right += best == RIGHT[index]
        shown.append(_numbers(reply))
    if right < len(KNOWN):
        warnings.append(
            f"{right} of {len(KNOWN)} easy questions were answered right: expected of a very small model, "
            "suspicious of any other"
        )
    return f"{'; '.join(shown)}; {right} of {len(KNOWN)} right"


def _numbers(reply: ScoreReply) -> str:
    pairs = zip(LETTERS, reply.logprobs, reply.greedy, strict=True)
    return " ".join(f"{letter.strip()} {value:.3f}{'*' if greedy else ''}" for letter, value, greedy in pairs)


def _generated(engine: Engine, prompt: str | tuple[Message, ...]) -> str:
    try:
        ((_, reply),) = engine.generate([GenerateRequest(prompt=prompt, max_tokens=ANSWER_TOKENS)])
    except EvalkitError as error:
        return f"{_FAILED}{error}"
    if not isinstance(reply, Generation):
        return f"{_FAILED}{reply.kind}: {reply.message}"
    return f"{reply.text!r} ({reply.prompt_tokens} + {reply.completion_tokens} tokens, {reply.finish})"


def as_rows(check: EngineCheck) -> list[tuple[str, str, Any]]:
    """Return a check as (area, what, seen), in the order people read it."""
    identity = check.identity
    told = {
        "adapter": identity.adapter,
        "model": identity.model,
        "recipe": identity.recipe,
        "fidelity": identity.fidelity,
        "scoring": check.scoring,
        "quantization": ", ".join(f"{name} {value}" for name, value in identity.quantization.items()),
        "dtype": identity.dtype,
        "device": identity.device,
        "processor": "not known" if identity.processor is None else processor_line(identity.processor),
        "versions": ", ".join(f"{name} {value}" for name, value in identity.versions.items()),
        "weights sha256": identity.weights_sha256,
        "tokenizer sha256": identity.tokenizer_sha256,
        "chat template sha256": identity.chat_template_sha256 or "none",
        "identity sha256": identity.sha256,
        **{f"option {name}": value for name, value in identity.options.items() if name != "scoring"},
    }
    return [
        *(("identity", name, value) for name, value in told.items()),
        *(("probe", name, value) for name, value in check.findings.items()),
        *(("trial", name, value) for name, value in check.trials.items()),
    ]
