"""evalkit: is this quantized recipe accuracy-comparable with the official FP8 baseline?"""

__version__ = "0.1.0"
