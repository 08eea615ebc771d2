"""The parts of the scripted engine: its options, its rules, its recordings.

In: options and requests. Out: replies without a model.
Must not depend on: tasks; torch.
"""
