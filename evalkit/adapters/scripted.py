"""The shipped fake: replies by rule or from a recording, without a model.

In: an engine specification whose options say what to reply. Out: an `Engine` with a complete identity.
May not know: tasks; torch.

Options (all optional): `seed` and `accuracy` make choice replies that favour the first continuation, or the one in
`right`, in that share of requests; `text` is the generated answer (or a list, one picked by the request); `replies` is
a JSONL file of recorded replies, one `{"request": digest, "reply": {...}}` a line; `fail_every`, `fail_kind` and
`break_every` make failures and non-finite numbers. The reply depends on the request and the options alone, never on
its place in the sequence, except for `fail_every` and `break_every`, which count distinct requests by their digest.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from evalkit import __version__
from evalkit.adapters.base import Engine, Failure, GenerateRequest, Generation, Resources, ScoreReply, ScoreRequest
from evalkit.configuration import Section, validate
from evalkit.errors import DataError, EngineError, UsageError
from evalkit.records import EngineIdentity, digest, parse_object, text_digest

if TYPE_CHECKING:
    from evalkit.suite import EngineSpec

SUMMARY = "a fake engine that replies by rule or from a recording; for trying and testing"
