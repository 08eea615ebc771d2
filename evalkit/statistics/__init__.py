"""Estimates and tests on plain numbers.

In: counts, arrays, a numpy Generator. Out: frozen results, or `EstimateError` for every estimate that cannot be made.
Must not depend on: records, runs, tasks, policies, verdicts.

Conventions, the same in every module: a difference is candidate minus baseline; accuracies are proportions (0.01 is
one point); `level` is a two-sided confidence level; `alpha` is one-sided. Submodules are imported by name, so that a
command that needs one formula does not load them all.
"""
