"""Quantized checkpoints on disk: what their files declare, what they hold, and where they come from.

In: a folder. Out: declared and stored quantization, the trace that `evalkit quantize` wrote, every contradiction.
Must not depend on: torch, ModelOpt, engines.
"""
