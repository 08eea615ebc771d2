"""Names of the files in a run folder.

In: a folder and a task name. Out: paths.
May not know: what the files hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

Kind = Literal["items", "records", "judgments"]

MANIFEST = "manifest.json"
TIMINGS = "timings.jsonl"
LOCK = "lock"
SUMS = "SHA256SUMS"


def task_file(root: Path, kind: Kind, task: str) -> Path:
    """Return the file of a task; characters that are special in a file name are percent-encoded.

    >>> task_file(Path("run"), "records", "lm_eval:arc_easy").as_posix()
    'run/records/lm_eval%3Aarc_easy.jsonl'
    """
    return root / kind / f"{quote(task, safe='')}.jsonl"


def task_of(path: Path) -> str:
    """Return the task whose file this is; the inverse of `task_file`.

    >>> task_of(Path("run/records/lm_eval%3Aarc_easy.jsonl"))
    'lm_eval:arc_easy'
    """
    return unquote(path.name.removesuffix(".jsonl"))
