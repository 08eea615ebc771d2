"""Files of neighbouring tools: runs written in their formats, and their files read as runs.

In: run folders, or another tool's output folder. Out: the other one.
Must not depend on: engines, benchmarks, verdicts; lm-eval itself is not imported, only its files are known.
"""

from evalkit.interop.eee_export import ExportedEee, export_eee
from evalkit.interop.import_any import import_run
from evalkit.interop.junit import append_summary, job_summary, junit_xml
from evalkit.interop.lm_eval_export import Exported, export_lm_eval
from evalkit.interop.lm_eval_import import Imported, import_lm_eval, write_imported
from evalkit.interop.mlflow_export import Benchmark, eval_results_yaml, log_certificate
from evalkit.interop.nel_import import import_nel

__all__ = [
    "Benchmark",
    "Exported",
    "ExportedEee",
    "Imported",
    "append_summary",
    "eval_results_yaml",
    "export_eee",
    "export_lm_eval",
    "import_lm_eval",
    "import_nel",
    "import_run",
    "job_summary",
    "junit_xml",
    "log_certificate",
    "write_imported",
]
