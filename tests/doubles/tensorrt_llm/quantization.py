"""Names of quantization algorithms."""

from enum import Enum


class QuantAlgo(str, Enum):
    FP8 = "FP8"
    FP8_PER_CHANNEL_PER_TOKEN = "FP8_PER_CHANNEL_PER_TOKEN"
    W4A16_AWQ = "W4A16_AWQ"
    W4A8_AWQ = "W4A8_AWQ"
    W8A8_SQ_PER_CHANNEL = "W8A8_SQ_PER_CHANNEL"
    NVFP4 = "NVFP4"
    INT8 = "INT8"
    NO_QUANT = "NO_QUANT"
