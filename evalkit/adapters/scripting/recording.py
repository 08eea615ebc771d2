"""Recorded replies and answer keys: one JSON object a line, found by the digest of the request.

In: requests and what an engine replied, or such a file. Out: such a file, or replies by digest.
May not know: which engine replied, or why it was asked.

    {"request": "<sha256>", "reply": {"logprobs": [-1.5, -2.0], "greedy": [true, false], "tokens": [1, 1]}}
    {"request": "<sha256>", "reply": {"text": "Yes.", "finish": "stop", "prompt_tokens": 9, "completion_tokens": 1}}
    {"request": "<sha256>", "reply": {"kind": "too-long", "message": "9000 tokens"}}
    {"request": "<sha256>", "right": 2}                                                  (a key)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from evalkit.adapters.base import Failure, GenerateRequest, Generation, ScoreReply, ScoreRequest
from evalkit.configuration import Section, validate
from evalkit.errors import ConfigError, DataError
from evalkit.records import canonical_json, digest, parse_object

Request = ScoreRequest | GenerateRequest
Reply = ScoreReply | Generation | Failure
Count = Annotated[int, Field(ge=0)]

_SHOWN_FAULTS, _SHOWN_CHARACTERS = 10, 60


class _Line(Section):
    request: str = Field(pattern=r"^[0-9a-f]{64}$")


class _ReplyLine(_Line):
    reply: dict[str, Any]


class _KeyLine(_Line):
    right: Count


class _Scores(Section):
    logprobs: Annotated[tuple[float, ...], Field(min_length=1)]
    greedy: tuple[bool, ...]
    tokens: tuple[Annotated[int, Field(ge=1)], ...]

    @model_validator(mode="after")
    def _equal_lengths(self) -> _Scores:
        lengths = [len(self.logprobs), len(self.greedy), len(self.tokens)]
        if len(set(lengths)) > 1:
            raise ValueError(f"logprobs, greedy and tokens have {lengths} values; one for each continuation is needed")
        return self


class _Answer(Section):
    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: Count
    completion_tokens: Count
    reasoning: str = ""


class _Failed(Section):
    kind: str
    message: str


L = TypeVar("L", bound=_Line)


def request_digest(request: Request) -> str:
    """Return the digest of everything that a reply may depend on; a greedy request has no seed and no nucleus."""
    row = asdict(request)
    if isinstance(request, GenerateRequest):
        if request.temperature == 0.0:
            del row["seed"], row["top_p"]
        if request.json_schema is None:
            del row["json_schema"]
    return digest(row)


def record(path: Path, requests: Sequence[Request], replies: Iterable[tuple[int, Reply]]) -> int:
    """Write what an engine replied as a file for the option `replies`; return the number of its lines.

    Equal requests make one line, that of the first; lines are sorted, so that the order of replies changes no byte.

    Args:
        path: file to write.
        requests: what was asked.
        replies: what `Engine.score(requests)` or `Engine.generate(requests)` yields.

    Raises:
        DataError: a reply holds a NaN or an infinity; nothing is written.
    """
    rows: dict[str, Any] = {}
    for index, reply in sorted(replies, key=lambda pair: pair[0]):
        rows.setdefault(request_digest(requests[index]), _row(reply))
    return _write(path, [{"request": key, "reply": rows[key]} for key in sorted(rows)])


def _row(reply: Reply) -> dict[str, Any]:
    row = asdict(reply)
    row.pop("counted", None)  # who was told what a failure cost is no part of it
    if not row.get("reasoning", True):
        del row["reasoning"]
    return row


def write_key(path: Path, rights: Iterable[tuple[ScoreRequest, int]]) -> int:
    """Write which continuation is right as a file for the option `key`; return the number of its lines."""
    rows = {request_digest(request): right for request, right in rights}
    return _write(path, [{"request": key, "right": rows[key]} for key in sorted(rows)])


def read_replies(path: Path) -> dict[str, Reply]:
    """Read recorded replies: request digest to reply.

    Raises:
        ConfigError: unreadable, or lines with faults, each with its number.
    """
    replies, faults = {}, []
    for number, line in _read(path, _ReplyLine).items():
        try:
            replies[line.request] = _reply(line.reply)
        except ConfigError as error:
            faults += [f"line {number}, reply: {fault}" for fault in error.faults]
    _refuse(path, faults)
    return replies


def read_key(path: Path) -> dict[str, int]:
    """Read a key: request digest to index of the right continuation.

    Raises:
        ConfigError: unreadable, or lines with faults, each with its number.
    """
    return {line.request: line.right for line in _read(path, _KeyLine).values()}


def _reply(row: dict[str, Any]) -> Reply:
    if "text" in row:
        return Generation(**validate(_Answer, row, "").model_dump())
    if "kind" in row:
        return Failure(**validate(_Failed, row, "").model_dump())
    return ScoreReply(**validate(_Scores, row, "").model_dump())


def _read(path: Path, model: type[L]) -> dict[int, L]:
    """Return line number to line; empty lines are passed over."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from error
    lines: dict[int, L] = {}
    seen: dict[str, int] = {}
    faults = []
    for number, row in enumerate(text.split("\n"), start=1):
        if not row.strip():
            continue
        try:
            line = validate(model, parse_object(row, repr(row[:_SHOWN_CHARACTERS])), "")
        except DataError as error:
            faults.append(f"line {number}: {error}")
        except ConfigError as error:
            faults += [f"line {number}: {fault}" for fault in error.faults]
        else:
            if seen.setdefault(line.request, number) != number:
                faults.append(f"line {number}: request '{line.request}' is on line {seen[line.request]} already")
            lines[number] = line
    _refuse(path, faults)
    return lines


def _refuse(path: Path, faults: Sequence[str]) -> None:
    if faults:
        more = [f"{len(faults) - _SHOWN_FAULTS} more faults"] if len(faults) > _SHOWN_FAULTS else []
        raise ConfigError(str(path), [*faults[:_SHOWN_FAULTS], *more])


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> int:
    path.write_text("".join(f"{canonical_json(row)}\n" for row in rows), encoding="utf-8")
    return len(rows)
