"""The LLM API."""

from ..executor import RequestError
from ..quantization import QuantAlgo
from ..sampling_params import SamplingParams
from .configs import GuidedDecodingParams, KvCacheConfig, QuantConfig, TorchLlmArgs
from .llm import LLM
from .results import CompletionOutput, RequestOutput

__all__ = [
    "LLM",
    "CompletionOutput",
    "GuidedDecodingParams",
    "KvCacheConfig",
    "QuantAlgo",
    "QuantConfig",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "TorchLlmArgs",
]
