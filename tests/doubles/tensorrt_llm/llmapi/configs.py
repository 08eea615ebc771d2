"""Configurations, made from the library's own lists of names: unknown keywords raise, as in the library."""

from __future__ import annotations

from dataclasses import field, make_dataclass
from fnmatch import fnmatch
from typing import Any, Optional

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, create_model

from ..eras import REQUIRED, listed
from ..quantization import QuantAlgo

_OWN: dict[str, Any] = {}
"""Fields whose type is a class of the double."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Excludes(_Strict):
    def is_module_excluded_from_quantization(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self.exclude_modules or ())


class _Quantized(_Strict):
    """The quantization of a loaded model is a private attribute: it can be read, and is no keyword."""

    _quant_config: Any = PrivateAttr(default=None)

    @property
    def quant_config(self) -> Any:
        if self._quant_config is None:
            self._quant_config = QuantConfig()
        return self._quant_config

    @quant_config.setter
    def quant_config(self, value: Any) -> None:
        self._quant_config = value


def _made(name: str, kind: str, base: type) -> Any:
    rows: dict[str, Any] = {}
    for one, (type_, default) in listed(kind).items():
        made = _OWN.get(one)
        if made is not None and isinstance(made, type) and issubclass(made, BaseModel):
            rows[one] = (made, Field(default_factory=made))
        else:
            rows[one] = (made or type_, ... if default == REQUIRED else default)
    return create_model(name, __base__=base, **rows)


_OWN |= {"quant_algo": Optional[QuantAlgo], "kv_cache_quant_algo": Optional[QuantAlgo]}  # noqa: UP045
QuantConfig = _made("QuantConfig", "QuantConfig", _Excludes)
KvCacheConfig = _made("KvCacheConfig", "KvCacheConfig", _Strict)
_OWN["kv_cache_config"] = KvCacheConfig
TorchLlmArgs = _made("TorchLlmArgs", "LLM", _Quantized)

GuidedDecodingParams = make_dataclass(
    "GuidedDecodingParams",
    [(name, type_, field(default=default)) for name, (type_, default) in listed("GuidedDecodingParams").items()],
    kw_only=True,
)
