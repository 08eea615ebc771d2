"""Engines behind an OpenAI-compatible HTTP endpoint: probing, scoring, generation, identity.

In: an engine specification with an address. Out: an `Engine`.
May not know: torch, recipes' contents, tasks.
"""
