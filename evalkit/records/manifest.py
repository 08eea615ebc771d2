"""What a run folder says of itself: engine, tasks, judges, requests.

In: plain values, or the text of `manifest.json`. Out: a frozen `Manifest`.
Must not depend on: the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from evalkit.errors import DataError
from evalkit.records.canonical import build, digest, is_version, object_of, parse_object, tuple_of

# What was loaded, read back from the loaded engine.


Fidelity = Literal["simulated", "dequantised", "engine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineIdentity:
    """What was loaded, read back from the loaded engine; never what was asked for.

    Attributes:
        adapter: adapter name.
        model: asset name, hub id or folder name.
        weights_sha256: digest of the weights before the recipe was applied.
        recipe: recipe name; "none" for the model as it is stored.
        recipe_sha256: digest of the resolved recipe; None for "none".
        fidelity: "simulated" (fake quantization), "dequantised" (exported weights expanded), "engine" (real kernels).
        quantization: read back: algorithm, KV-cache type, counts of enabled quantizers by role, calibration digest.
        dtype: floating-point type of the unquantized parts.
        tokenizer_sha256: digest of the tokenizer's serialised form.
        chat_template_sha256: digest of the chat template; None without one.
        versions: package or server name to version.
        device: processor or GPU the engine runs on.
        options: engine options that can change an answer (attention implementation, maximum length, ...).
        processor: of an engine on a CPU of its own: name, vendor, model, instructions, settings that choose kernels.
            None where it computes on a GPU, where nobody says (a server elsewhere), and in runs of before it was kept.
    """

    adapter: str
    model: str
    weights_sha256: str
    recipe: str
    recipe_sha256: str | None
    fidelity: Fidelity
    quantization: Mapping[str, Any]
    dtype: str
    tokenizer_sha256: str
    chat_template_sha256: str | None
    versions: Mapping[str, str]
    device: str
    options: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] | None = None

    @property
    def sha256(self) -> str:
        """Digest of the whole identity: the key of stores, caches and resumes."""
        row = asdict(self)
        if row["processor"] is None:
            del row["processor"]  # so that runs of before it was kept have the digest that is written down of them
        return digest(row)


def processor_line(found: Mapping[str, Any]) -> str:
    """Return a processor in one line.

    >>> processor_line({"name": "AMD EPYC", "vendor": "AuthenticAMD", "model": "family 25 model 1",
    ...                 "instructions": "avx2", "settings": {"MKL_CBWR": "COMPATIBLE"}})
    'AMD EPYC (AuthenticAMD, family 25 model 1), avx2, MKL_CBWR=COMPATIBLE'
    """
    told = ", ".join(f"{name}={value}" for name, value in found.get("settings", {}).items())
    parts = [f"{found['name']} ({found['vendor']}, {found['model']})", found["instructions"], told]
    return ", ".join(part for part in parts if part)


# Where an engine's weights come from: the model that somebody quantized, not the file that was loaded.


_FORMATS = re.compile(
    r"^(fp|int|mxfp|mxint|nvfp|bf|e4m|w\d+a)\d+$"
    r"|^(\d+bit|awq|gptq|kv|cast|dynamic|static|block|modelopt|official|quantized|quant|hf|gguf|bnb|rtn|sq|"
    r"compressed|tensors|quantized\.w\d+a\d+|trtllm|vllm|exported|checkpoint)$"
)
_GGUF = re.compile(r"[-._](i?q\d(_\w+)?|b?f(16|32))$")
"""Parts of a name that say how a model is stored, not which model it is."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The model before quantization.

    Attributes:
        model: name: that of the source which an exported checkpoint records, else that of what was loaded.
        weights_sha256: digest of the original weights; None where nobody recorded it.
    """

    model: str
    weights_sha256: str | None

    def same_as(self, other: Origin) -> bool | None:
        """Say whether two models come from the same weights; None where only their names agree.

        Two digests decide. Without them two different names are two models: nothing shows the contrary.
        """
        if self.weights_sha256 is not None and other.weights_sha256 is not None:
            return self.weights_sha256 == other.weights_sha256
        return None if model_key(self.model) == model_key(other.model) else False


def origin_of(identity: EngineIdentity) -> Origin:
    """Return where an engine's weights come from.

    A checkpoint that evalkit exported says it (`evalkit.json`); weights that were quantized in memory are the original
    ones. Any other checkpoint is known by its name alone.
    """
    trace = identity.quantization.get("trace")
    if isinstance(trace, Mapping) and isinstance(trace.get("source"), str):
        sha = trace.get("source_weights_sha256")
        return Origin(model=trace["source"], weights_sha256=sha if isinstance(sha, str) else None)
    in_memory = identity.fidelity == "simulated" and identity.quantization.get("algorithm") != "scripted"
    return Origin(model=identity.model, weights_sha256=identity.weights_sha256 if in_memory else None)


def model_key(name: str) -> str:
    """Return a model's name without its owner, letter case, and words that say how it is stored.

    >>> model_key("meta-llama/Meta-Llama-3.1-8B-Instruct"), model_key("RedHatAI/Llama-3.1-8B-Instruct-FP8-dynamic")
    ('llama-3.1-8b-instruct', 'llama-3.1-8b-instruct')
    >>> model_key("llama-3.1-405b-pruned") == model_key("llama-3.1-405b")
    False
    """
    plain = name.rstrip("/").rsplit("/", 1)[-1].casefold().removesuffix(".gguf")
    words = re.split(r"[-_\s]+", _GGUF.sub("", plain))
    kept = [word for at, word in enumerate(words) if word and not (at and _FORMATS.match(word))]
    if len(kept) > 1 and kept[0] == "meta" and kept[1].startswith("llama"):
        kept = kept[1:]
    return "-".join(kept)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

FORMAT = 1
"""Version of the run-folder format; a folder with another number is refused."""


SHARES = ("acc", "acc_norm", "acc_mutual_info", "exact_match", "pass@1", "rating", "reward")
"""Metrics of which more is better wherever they are called so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRun:
    """What a run was asked for one task; two runs are comparable only if these agree.

    Attributes:
        definition_sha256: digest of the task definition.
        kind: "choice" (continuations scored), "text" (one generated answer) or "conversation" (several turns).
        protocol: name of the protocol (`ll-5shot`, `cloze-0shot`, `mt-bench-greedy`, ...).
        shots: worked examples before each item.
        metric: name of the mark that decides ("acc", "acc_norm", "rating").
        chance: accuracy of guessing, proportion; None where it has no meaning.
        planned: number of records a complete run holds (items times samples).
        item_set_sha256: digest of the sorted item keys.
        prompts_sha256: digest of the sorted (item key, prompt digest) pairs.
        dataset: where the items came from: asset, source, revision, sha256.
        settings: decoding and marking settings that can change a reply or a mark.
        higher_is_better: metric to whether more of it is better, as the task or its tool says; more is better of a
            metric of `SHARES` that is not in it, and of any other nothing is known.
        score_range: lowest and highest value the metric can have; None where the task declares none (a rating's range
            is its judge's scale), and then no verdict may rest on the metric's mean.
    """

    definition_sha256: str
    kind: Literal["choice", "text", "conversation"]
    protocol: str
    shots: int
    metric: str
    chance: float | None
    planned: int
    item_set_sha256: str
    prompts_sha256: str
    dataset: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    score_range: tuple[float, float] | None = None

    def direction(self, metric: str) -> bool | None:
        """Return whether more of a metric is better; None if nobody said.

        A mark may be named `metric,filter`, as lm-eval does where a task has several filters.
        """
        for name in (metric, metric.partition(",")[0]):
            if name in self.higher_is_better:
                return self.higher_is_better[name]
            if name in SHARES:
                return True
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeRun:
    """Who judged a run's answers, with which words.

    Attributes:
        profile: name of the judge profile.
        profile_sha256: digest of the profile definition and of the prompt texts it loaded.
        references_sha256: digest of the reference answers used; None without references.
        identity: identity of the judge engine.
        repeats: judgments of each answer.
        planned: number of judgments a complete run holds.
        scale: lowest and highest rating; -1 and 1 for pairwise.
        requested: what was asked for of the judge engine, as in `Manifest.requested`.
        mode: "single" (one answer is rated at a time) or "pairwise" (two answers are compared, in both orders).
        opponent_sha256: of a pairwise judging, digest of the identity that gave the other answers; else None.
    """

    profile: str
    profile_sha256: str
    references_sha256: str | None
    identity: EngineIdentity
    repeats: int
    planned: int
    scale: tuple[float, float]
    requested: Mapping[str, Any] = field(default_factory=dict)
    mode: Literal["single", "pairwise"] = "single"
    opponent_sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a run folder says of itself, written before its first record.

    Attributes:
        format: `FORMAT`.
        evalkit: version of evalkit.
        engine: identity read back from the loaded engine.
        tasks: task name to what was asked.
        judges: judging name (`judging_name`) to who judged.
        requested: what was asked for (specification, recipe digest, model digest, package versions); a finished run
            with an equal request is reused without loading the engine again.
        policy_sha256: digest of the policy in force when the run began; None for a run outside a suite.
        smaller_batches: how a lack of memory made batches smaller than model, device and options ask for, one sentence
            each; such a run rounds otherwise than one with memory enough.
        created_at: UTC time, ISO 8601; never part of a record.
        command: the command line that made the run, for people.
        run_id: drawn at random when the run began, so that a copy of a run is known for one; "" where nobody drew one.
    """

    format: int = FORMAT
    evalkit: str
    engine: EngineIdentity
    tasks: Mapping[str, TaskRun]
    judges: Mapping[str, JudgeRun] = field(default_factory=dict)
    requested: Mapping[str, Any] = field(default_factory=dict)
    policy_sha256: str | None = None
    smaller_batches: tuple[str, ...] = ()
    created_at: str
    command: str = ""
    run_id: str = ""

    def to_json(self) -> str:
        """Return `manifest.json`: sorted keys, indented for people."""
        return json.dumps(asdict(self), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read `manifest.json`; the inverse of `to_json`.

        Raises:
            DataError: not JSON, another format, or an unknown or missing field.
        """
        row = parse_object(text, "a manifest")
        if not is_version(row.get("format"), FORMAT):
            raise DataError(f"run format {row.get('format')!r} is not {FORMAT}; read it with the evalkit that wrote it")
        _refuse_paths(row)
        row["engine"] = build(EngineIdentity, row.get("engine", {}))
        row["tasks"] = {name: _task_run(task) for name, task in object_of(row, "tasks").items()}
        row["judges"] = {name: _judge_run(judge) for name, judge in object_of(row, "judges").items()}
        if "smaller_batches" in row:
            row["smaller_batches"] = tuple_of(row, "smaller_batches")
        return build(cls, row)


def _task_run(row: Any) -> TaskRun:
    fixed = dict(row) if isinstance(row, Mapping) else row
    if isinstance(fixed, dict) and fixed.get("score_range") is not None:
        fixed["score_range"] = tuple_of(fixed, "score_range")
    return build(TaskRun, fixed)


def _refuse_paths(row: Mapping[str, Any]) -> None:
    """Refuse a name that an export would make a file name of, if it could lead out of a folder."""
    asked = row.get("requested")
    engine = asked.get("engine") if isinstance(asked, Mapping) else None
    name = engine.get("name") if isinstance(engine, Mapping) else None
    if isinstance(name, str) and (len(name) > 100 or not _NAME.fullmatch(name)):
        raise DataError(f"requested.engine.name: {name!r:.120} is no name of an engine: letters, digits and '._-'")


def _judge_run(row: Any) -> JudgeRun:
    if not isinstance(row, Mapping):
        return build(JudgeRun, row)
    identity = build(EngineIdentity, row.get("identity", {}))
    return build(JudgeRun, {**row, "identity": identity, "scale": tuple_of(row, "scale")})
