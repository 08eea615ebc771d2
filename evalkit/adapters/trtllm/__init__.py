"""TensorRT-LLM's LLM API in this process: loading, read-back, probe, scoring, generation, identity.

In: an engine specification. Out: a `TensorRTEngine`.
Must not depend on: tasks; why anything is asked.
"""
