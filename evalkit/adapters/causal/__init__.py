"""A transformers causal language model in this process: loading, scoring, generation, identity.

In: an engine specification. Out: a `CausalEngine`, shared by the adapters `hf` and `modelopt`.
Must not depend on: which recipe was applied to the model, or why anything is asked.
"""
