"""What a run produces: items, replies, records, judgments, identities, manifests.

In: plain values. Out: frozen values with one canonical JSON form and one digest each.
May not know: where they are stored, who measured them, or which run is the baseline.

A record holds what one engine did with one item; every number in a report is derived from records, later and again.
A failure (transport, crash, non-finite number) is neither right nor wrong: `status` is "failed" and `marks` is empty.
No record holds a clock reading, so equal runs are equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar, cast, get_args

from evalkit.errors import DataError

FORMAT = 1
"""Version of the run-folder format; a folder with another number is refused."""

Fidelity = Literal["simulated", "dequantised", "engine"]
Status = Literal["ok", "failed"]
T = TypeVar("T")

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

JudgmentStatus = Literal["ok", "unparsed", "refused", "api_error", "truncated", "out_of_range", "rule"]


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8, NaN and infinity refused.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    '{"a":[1.5,null],"b":1}'

    Raises:
        DataError: the value holds a NaN or an infinity.
    """
    try:
        return _ENCODER.encode(value)
    except ValueError as error:
        raise DataError(f"a value cannot be written as JSON: {error}") from error


def digest(value: Any) -> str:
    """Return the sha256 (64 hex digits) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def text_digest(text: str) -> str:
    """Return the sha256 (64 hex digits) of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def content_digest(value: Any) -> str:
    r"""Return the digest of a source row with the white space of every text in it folded.

    >>> content_digest({"question": " one\n two "}) == content_digest({"question": "one two"})
    True
    """
    return digest(_folded(value))


def _folded(value: Any) -> Any:
    if isinstance(value, str):
        return fold(value)
    if isinstance(value, Mapping):
        return {key: _folded(inner) for key, inner in value.items()}
    return [_folded(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def fold(text: str) -> str:
    r"""Fold every run of white space to one space, so that the same item from two sources is recognised.

    >>> fold(" two\n lines ")
    'two lines'
    """
    return " ".join(text.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question of a task, with everything an engine is asked.

    Attributes:
        task: name of the task definition.
        subject: stratum within the task (MMLU subject, MT-Bench category, lm-eval sub-task).
        item_sha256: digest of the content (question, options, key), white space folded; never of a position.
        occurrence: 0 for the first item with this digest in this subject, 1 for the next, ...
        prompt_sha256: digest of what is sent to the engine (context and continuations, or user turns).
        target_sha256: digest of what counts as right.
        doc: the source row, for exports and for people.
        context: text before the continuations; None for a conversation.
        continuations: texts to be scored after the context, shape (k,); empty for a conversation.
        target: index of the right continuation; None where there is none.
        turns: user messages in order; empty for a scored item.
        details: what the benchmark needs to mark the reply (categories, reference keys, lm-eval hashes).
    """

    task: str
    subject: str
    item_sha256: str
    occurrence: int
    prompt_sha256: str
    target_sha256: str
    doc: Mapping[str, Any]
    context: str | None = None
    continuations: tuple[str, ...] = ()
    target: int | None = None
    turns: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Pair key: task, subject, content and occurrence; never a row number."""
        return f"{self.task}/{self.subject}/{self.item_sha256}/{self.occurrence}"

    def to_json(self) -> str:
        """Return the item's one line in `items/<task>.jsonl`, without a line feed."""
        return canonical_json(_flat(self))

    @classmethod
    def from_json(cls, line: str) -> Item:
        """Read one line; the inverse of `to_json`.

        Raises:
            DataError: not JSON, or an unknown or missing field.
        """
        row = parse_object(line, "an item")
        for name in ("continuations", "turns"):
            row[name] = _tuple(row, name)
        return build(cls, row)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceReply:
    """Log-probabilities of an item's continuations.

    Attributes:
        logprobs: sum of token log-probabilities of each continuation, natural logarithm, shape (k,), all finite.
        greedy: whether each continuation is what greedy decoding would produce, shape (k,).
        target: index of the right continuation.
        lengths: characters of each option (the continuation without the delimiter before it), shape (k,), which
            length-normalised metrics divide by.
    """

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]
    target: int | None
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self.logprobs):
            raise DataError(f"non-finite log-probability among {list(self.logprobs)}: record a failure, never a score")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One generated answer.

    Attributes:
        text: decoded text without special tokens.
        finish: "stop" (end token or stop string) or "length" (token limit reached).
        prompt_tokens: length of the prompt, tokens.
        completion_tokens: length of the answer, tokens.
    """

    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TextReply:
    """Generated answers of an item, one for each turn."""

    turns: tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What one engine did with one item.

    Attributes:
        task, subject, item_sha256, occurrence, prompt_sha256, target_sha256: as in `Item`.
        sample: 0-based index of the generation; always 0 for a scored item.
        status: "ok", or "failed": no usable reply after all retries.
        failure: `kind: what was seen` of a failed record, else None.
        reply: the reply; None exactly when failed.
        marks: metric name to value (proportions in [0, 1]); empty when failed or where a judge decides.
        invalid: why a reply that arrived cannot be read ("unparsable", "empty", "truncated", "degenerate"), else None.
    """

    task: str
    subject: str
    item_sha256: str
    occurrence: int
    prompt_sha256: str
    target_sha256: str
    sample: int = 0
    status: Status
    failure: str | None = None
    reply: ChoiceReply | TextReply | None = None
    marks: Mapping[str, float] = field(default_factory=dict)
    invalid: str | None = None

    def __post_init__(self) -> None:
        if self.status not in ("ok", "failed"):
            raise DataError(f"{self.key}: unknown status {self.status!r}; allowed: ok, failed")
        if (self.status == "failed") != (self.reply is None) or (self.status == "failed") != (self.failure is not None):
            raise DataError(f"{self.key}: a failed record has a failure and no reply; an ok record the reverse")
        bad = {name: value for name, value in self.marks.items() if not math.isfinite(value)}
        if bad:
            raise DataError(f"{self.key}: non-finite mark {bad}")

    @property
    def key(self) -> str:
        """Pair key: `Item.key` and the index of the generation."""
        return f"{self.task}/{self.subject}/{self.item_sha256}/{self.occurrence}/{self.sample}"

    def to_json(self) -> str:
        """Return the record's one line in `records/<task>.jsonl`, without a line feed."""
        row = _flat(self)
        if isinstance(self.reply, TextReply):
            row["reply"] = {"turns": [_flat(turn) for turn in self.reply.turns]}
        elif self.reply is not None:
            row["reply"] = _flat(self.reply)
        return canonical_json(row)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read one line; the inverse of `to_json`.

        Raises:
            DataError: not JSON, an unknown or missing field, or a value that breaks an invariant.
        """
        row = parse_object(line, "a record")
        reply = row.get("reply")
        if reply is not None:
            row["reply"] = _reply(reply)
        return build(cls, row)


def _reply(row: Any) -> ChoiceReply | TextReply:
    if not isinstance(row, dict):
        raise DataError(f"a reply must be a JSON object, not {type(row).__name__}")
    if "turns" in row:
        return build(TextReply, {**row, "turns": tuple(build(Turn, turn) for turn in _tuple(row, "turns"))})
    for name in ("logprobs", "greedy", "lengths"):
        row[name] = _tuple(row, name)
    return build(ChoiceReply, row)


def _tuple(row: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    value = row.get(name)
    if not isinstance(value, list):
        raise DataError(f"{name!r} must be a list, not {value!r}")
    return tuple(value)


def _flat(value: Any) -> dict[str, Any]:
    """Return a dataclass as a mapping without copying what is in it: `asdict` costs more than writing the line."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgment:
    """What a judge said about one turn of one answer.

    Attributes:
        key: digest of judge identity, sampling parameters, profile, references, full messages and repeat index.
        task, subject, item_sha256, occurrence, sample: the judged record.
        turn: 1-based turn.
        repeat: 0-based repeat of the same question to the judge; of a pairwise judgment 2 repeat + order, where order
            0 showed the judged answer first and order 1 second.
        answer_sha256: digest of all answer text the judge saw.
        status: "ok", or why there is no rating of the judge's own ("rule": scored by policy without asking).
        score: rating on the profile's scale; of a pairwise judgment 1 (the judged answer is better), 0 or -1. None
            unless status is "ok" or "rule".
        text: the judge's own words ("" where it only gave log-probabilities).
        details: distribution over ratings, ambiguity flags, token counts.
    """

    key: str
    task: str
    subject: str
    item_sha256: str
    occurrence: int
    sample: int
    turn: int
    repeat: int
    answer_sha256: str
    status: JudgmentStatus
    score: float | None
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in get_args(JudgmentStatus):
            raise DataError(f"judgment {self.key}: unknown status {self.status!r}")
        if (self.score is not None) != (self.status in ("ok", "rule")):
            raise DataError(f"judgment {self.key}: status {self.status!r} with score {self.score!r}")
        if self.score is not None and not math.isfinite(self.score):
            raise DataError(f"judgment {self.key}: non-finite score")

    def to_json(self) -> str:
        """Return the judgment's one line in `judgments/<profile>.jsonl`, without a line feed."""
        return canonical_json(_flat(self))

    @classmethod
    def from_json(cls, line: str) -> Judgment:
        """Read one line; the inverse of `to_json`.

        Raises:
            DataError: not JSON, an unknown or missing field, or a value that breaks an invariant.
        """
        return build(cls, parse_object(line, "a judgment"))


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

    @property
    def sha256(self) -> str:
        """Digest of the whole identity: the key of stores, caches and resumes."""
        return digest(asdict(self))


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


def judging_name(task: str, by: str | None = None) -> str:
    """Return the name of one judging of a task: the task's own for its judge, `task@by` for any other.

    >>> judging_name("mt-bench"), judging_name("mt-bench", "second")
    ('mt-bench', 'mt-bench@second')
    """
    return task if by is None else f"{task}@{by}"


def judged_task(judging: str) -> str:
    """Return the task of a judging; the inverse of `judging_name`.

    >>> judged_task("mt-bench@second")
    'mt-bench'
    """
    return judging.split("@", 1)[0]


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
        created_at: UTC time, ISO 8601; never part of a record.
        command: the command line that made the run, for people.
    """

    format: int = FORMAT
    evalkit: str
    engine: EngineIdentity
    tasks: Mapping[str, TaskRun]
    judges: Mapping[str, JudgeRun] = field(default_factory=dict)
    requested: Mapping[str, Any] = field(default_factory=dict)
    policy_sha256: str | None = None
    created_at: str
    command: str = ""

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
        if row.get("format") != FORMAT:
            raise DataError(f"run format {row.get('format')!r} is not {FORMAT}; read it with the evalkit that wrote it")
        row["engine"] = build(EngineIdentity, row.get("engine", {}))
        row["tasks"] = {name: build(TaskRun, task) for name, task in row.get("tasks", {}).items()}
        row["judges"] = {name: _judge_run(judge) for name, judge in row.get("judges", {}).items()}
        return build(cls, row)


def _judge_run(row: Mapping[str, Any]) -> JudgeRun:
    fixed = dict(row)
    fixed["identity"] = build(EngineIdentity, fixed.get("identity", {}))
    fixed["scale"] = tuple(fixed.get("scale", ()))
    return build(JudgeRun, fixed)


def _constant(token: str) -> Any:
    raise ValueError(f"the bare word {token}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a repeated key")
    return row


_DECODER = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_unique)


def parse_object(text: str, what: str) -> dict[str, Any]:
    """Parse one strict JSON object; NaN, Infinity and repeated keys are refused.

    Raises:
        DataError: says what is wrong with `what`.
    """
    try:
        row = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{what} must be a JSON object, not {type(row).__name__}")
    return cast("dict[str, Any]", row)


def build(cls: type[T], row: Mapping[str, Any]) -> T:
    """Build a dataclass from a mapping, refusing unknown and missing fields by name.

    Raises:
        DataError: names every unknown and missing field.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{cls.__name__} must be a JSON object, not {type(row).__name__}")
    known = cast("Any", cls).__dataclass_fields__.keys()
    if not row.keys() <= known:
        raise DataError(f"{cls.__name__}: unknown field(s) {', '.join(sorted(row.keys() - known))}")
    try:
        return cls(**row)
    except TypeError as error:
        raise DataError(f"{cls.__name__}: {error}") from error
