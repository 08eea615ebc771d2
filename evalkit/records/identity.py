"""What was loaded, read back from the loaded engine.

In: what an adapter has read back. Out: a frozen `EngineIdentity` with one digest.
May not know: how anything is loaded, or what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from evalkit.records.canonical import digest

Fidelity = Literal["simulated", "dequantised", "engine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineIdentity:
    """What was loaded, read back from the loaded engine; never what was asked for.

    Attributes:
        adapter: adapter name.
        model: asset name, hub id or folder name.
        weights_sha256: digest of the weights before the recipe was applied.
        recipe: recipe name; "none" for the model as it is stored.
        recipe_sha256: digest of the resolved recipe; None for "none".
        fidelity: "simulated" (fake quantization), "dequantised" (exported weights expanded), "engine" (real kernels).
        quantization: read back: algorithm, KV-cache type, counts of enabled quantizers by role, calibration digest.
        dtype: floating-point type of the unquantized parts.
        tokenizer_sha256: digest of the tokenizer's serialised form.
        chat_template_sha256: digest of the chat template; None without one.
        versions: package or server name to version.
        device: processor or GPU the engine runs on.
        options: engine options that can change an answer (attention implementation, maximum length, ...).
        processor: of an engine on a CPU of its own: name, vendor, model, instructions, settings that choose kernels.
            None where it computes on a GPU, where nobody says (a server elsewhere), and in runs of before it was kept.
    """

    adapter: str
    model: str
    weights_sha256: str
    recipe: str
    recipe_sha256: str | None
    fidelity: Fidelity
    quantization: Mapping[str, Any]
    dtype: str
    tokenizer_sha256: str
    chat_template_sha256: str | None
    versions: Mapping[str, str]
    device: str
    options: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] | None = None

    @property
    def sha256(self) -> str:
        """Digest of the whole identity: the key of stores, caches and resumes."""
        row = asdict(self)
        if row["processor"] is None:
            del row["processor"]  # so that runs of before it was kept have the digest that is written down of them
        return digest(row)


def processor_line(found: Mapping[str, Any]) -> str:
    """Return a processor in one line.

    >>> processor_line({"name": "AMD EPYC", "vendor": "AuthenticAMD", "model": "family 25 model 1",
    ...                 "instructions": "avx2", "settings": {"MKL_CBWR": "COMPATIBLE"}})
    'AMD EPYC (AuthenticAMD, family 25 model 1), avx2, MKL_CBWR=COMPATIBLE'
    """
    told = ", ".join(f"{name}={value}" for name, value in found.get("settings", {}).items())
    parts = [f"{found['name']} ({found['vendor']}, {found['model']})", found["instructions"], told]
    return ", ".join(part for part in parts if part)
