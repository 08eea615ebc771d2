"""Engines behind an OpenAI-compatible HTTP endpoint: probing, scoring, generation, identity.

In: an engine specification with an address. Out: an `Engine`.
Must not depend on: torch, recipes' contents, tasks.
"""
