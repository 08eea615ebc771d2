"""Fake quantization of a loaded model by ModelOpt, checked before it may be used.

In: a loaded model and a resolved recipe. Out: the model with the recipe applied and folded, and what was read back.
Must not depend on: tasks, scoring, generation.
"""
