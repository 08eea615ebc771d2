"""A double of the LLM API of TensorRT-LLM: its import paths, its strictness, its results, three of its eras.

The model behind it is a real one, run by transformers, so scores are real numbers. What is modelled: keywords that are
refused if unknown, by version; three layouts of `prompt_logprobs`; blocks of the key-value cache that are reused and
then have no logits; prompts that are refused if too long, and answers that are cut silently; quantization read from a
ModelOpt checkpoint; the limit on log-probabilities. The version is read from the environment when the package is
imported, as an installed one has it fixed.
"""

import os

VERSION_VARIABLE = "TENSORRT_LLM_DOUBLE_VERSION"

__version__ = os.environ.get(VERSION_VARIABLE, "1.3.0rc11")

from .llmapi import LLM  # noqa: E402 - the version comes first
from .sampling_params import SamplingParams  # noqa: E402

__all__ = ["LLM", "SamplingParams", "__version__"]
