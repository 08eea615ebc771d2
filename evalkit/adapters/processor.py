"""The processor that an engine computes on, as far as it moves an answer.

In: what the operating system says of the processor, environment variables that choose kernels. Out: plain values for
`EngineIdentity.processor`. Must not depend on: engines, torch.

Kernels of another instruction set add in another order and round between other steps. That changes a few answers in a
hundred of a model in bf16, which is as much as some recipes do: two runs on different processors differ by more than
their recipes. Instruction sets have the names that oneDNN gives them (its manual, "CPU Dispatcher Control").
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

SETTINGS = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
)
"""Environment variables that make a processor compute otherwise, oneDNN's and MKL's and torch's."""

_AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
_LEVELS: tuple[tuple[str, Collection[str]], ...] = (
    ("sse41", {"sse4_1"}),
    ("avx", {"avx"}),
    ("avx2", {"avx2"}),
    ("avx2_vnni", {"avx2", "avx_vnni"}),
    ("avx2_vnni_2", {"avx2", "avx_vnni_int8", "avx_ne_convert"}),
    ("avx512_core", _AVX512),
    ("avx512_core_vnni", {*_AVX512, "avx512_vnni"}),
    ("avx512_core_bf16", {*_AVX512, "avx512_vnni", "avx512_bf16"}),
    ("avx512_core_fp16", {*_AVX512, "avx512_vnni", "avx512_bf16", "avx512_fp16"}),
    ("avx512_core_amx", {*_AVX512, "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"}),
    ("avx512_core_amx_fp16", {*_AVX512, "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"}),
)
"""Levels of instructions of x86, each with the flags of Linux that it needs, the lowest first."""

LEVELS = tuple(name for name, _ in _LEVELS)
"""Their names, the lowest first."""

_ARM = ("asimd", "bf16", "i8mm", "sve", "sve2", "svebf16", "svei8mm", "sme", "sme2")
"""Features of ARM that choose kernels."""


def processor(
    *,
    torch_capability: str | None = None,
    cpuinfo: Path = Path("/proc/cpuinfo"),
    environ: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return what is known of the processor: name, vendor, model, instructions, settings.

    Args:
        torch_capability: the level that torch reads back for its own kernels; None where the engine is not torch.
        cpuinfo: the operating system's file.
        environ: environment variables; None for this process's own.
    """
    environ = os.environ if environ is None else environ
    facts = _facts(cpuinfo)
    settings = {name: environ[name] for name in SETTINGS if environ.get(name)}
    limit = settings.get("ONEDNN_MAX_CPU_ISA") or settings.get("DNNL_MAX_CPU_ISA") or ""
    found: dict[str, Any] = {
        "name": facts.get("model name") or platform.processor() or "unknown",
        "vendor": facts.get("vendor_id") or facts.get("cpu implementer") or "unknown",
        "model": _model(facts),
        "instructions": instructions(facts.get("flags") or facts.get("features") or "", limit),
        "settings": settings,
    }
    return found if torch_capability is None else {**found, "torch": torch_capability}


def instructions(flags: str, limit: str = "") -> str:
    """Return the highest level of instructions, at most the one that `ONEDNN_MAX_CPU_ISA` allows.

    >>> instructions("fma sse4_1 avx avx2"), instructions("sse4_1 avx avx2", "SSE41"), instructions("asimd bf16 fp")
    ('avx2', 'sse41', 'asimd bf16')
    """
    has = set(flags.split())
    most = LEVELS.index(limit.lower()) if limit.lower() in LEVELS else len(LEVELS)
    known = [name for place, (name, needs) in enumerate(_LEVELS) if place <= most and has.issuperset(needs)]
    return known[-1] if known else " ".join(name for name in _ARM if name in has) or "unknown"


def _facts(cpuinfo: Path) -> dict[str, str]:
    """Return the first processor's lines, names in small letters; nothing where there is no such file."""
    try:
        text = cpuinfo.read_text("utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _model(facts: Mapping[str, str]) -> str:
    if "cpu part" in facts:
        return f"part {facts['cpu part']} variant {facts.get('cpu variant', 'unknown')}"
    if "cpu family" in facts:
        return f"family {facts['cpu family']} model {facts.get('model', 'unknown')}"
    return "unknown"


def processor_of(model: Any) -> dict[str, Any] | None:
    """Return the processor that computes a torch model, or a part of it; None where GPUs compute all of it."""
    import torch  # noqa: PLC0415 - only engines that have it ask

    if all(weight.device.type != "cpu" for weight in model.parameters()):
        return None
    return processor(torch_capability=torch.backends.cpu.get_cpu_capability())


def device_name(device: str) -> str:
    """Name the processor kind with its vector instructions, or the GPU."""
    import torch  # noqa: PLC0415

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
