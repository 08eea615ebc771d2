"""Files of neighbouring tools: runs written in their formats, and their files read as runs.

In: run folders, or another tool's output folder. Out: the other one.
May not know: engines, benchmarks, verdicts; lm-eval itself is not imported, only its files are known.
"""

from evalkit.interop.lm_eval_export import Exported, export_lm_eval
from evalkit.interop.lm_eval_import import Imported, import_lm_eval, write_imported

__all__ = ["Exported", "Imported", "export_lm_eval", "import_lm_eval", "write_imported"]
