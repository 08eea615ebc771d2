"""Models and data sets: declared with licence and hash, fetched from the first source that works, verified.

In: declaration files and a cache folder. Out: a verified file or folder, and data sets as rows.
Must not depend on: prompts, engines, or what an asset is used for.
"""

from __future__ import annotations

from evalkit.assets.declaration import AssetDeclaration
from evalkit.assets.downloads import Downloads
from evalkit.assets.mmlu import Mmlu, MmluRow, read_mmlu
from evalkit.assets.mt_bench import JudgePrompt, MtBench, MtBenchQuestion, read_mt_bench
from evalkit.assets.store import AssetStore, FetchedAsset

__all__ = [
    "AssetDeclaration",
    "AssetStore",
    "Downloads",
    "FetchedAsset",
    "JudgePrompt",
    "Mmlu",
    "MmluRow",
    "MtBench",
    "MtBenchQuestion",
    "read_mmlu",
    "read_mt_bench",
]
