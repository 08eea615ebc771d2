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

SUMMARY = "a fake engine that replies by rule or from a recording; for trying and testing"
