"""TensorRT-LLM's LLM API in this process: loading, read-back, probe, scoring, generation, identity.

In: an engine specification. Out: a `TensorRTEngine`.
May not know: tasks; why anything is asked.
"""
