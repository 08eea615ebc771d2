"""Task and judge definitions: found, read and checked.

In: a folder with `tasks/` and `judges/`. Out: frozen `TaskDefinition` and `JudgeProfile`, each with its digest.
Must not depend on: how a task is loaded, who answers it, or where data sets come from.
"""

from __future__ import annotations

from evalkit.definitions.folder import Definitions, find_definitions
from evalkit.definitions.judge import JudgeProfile, JudgePrompts
from evalkit.definitions.task import LmEvalTask, MtBenchTask, TaskDefinition

__all__ = [
    "Definitions",
    "JudgeProfile",
    "JudgePrompts",
    "LmEvalTask",
    "MtBenchTask",
    "TaskDefinition",
    "find_definitions",
]
