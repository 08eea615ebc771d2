"""GGUF models in llama.cpp, in a server process of our own.

In: an engine specification with a GGUF file. Out: a `ServerEngine`.
Must not depend on: torch, recipes, tasks.
"""
