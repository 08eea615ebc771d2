"""Models that lm-eval registers, behind evalkit's contract: identity, limits, failures.

In: an engine specification with the name of an lm-eval model. Out: an `Engine`.
Must not depend on: tasks; lm-eval's tasks are the benchmarks' part.
"""
