"""The flow with compiled engines, which later versions no longer have."""

from .eras import since

if since("1.4.0rc0"):
    raise ImportError("cannot import name 'LLM' from 'tensorrt_llm._tensorrt_engine'")

from .llmapi import llm

LLM = llm.EngineLLM

__all__ = ["LLM"]
