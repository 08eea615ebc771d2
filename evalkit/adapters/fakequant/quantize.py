"""Applies a recipe to a loaded model, checks what came of it, folds the weights.

In: a model in memory, a resolved recipe, calibration rows. Out: the model changed in place, and what was read back.
Must not depend on: tasks, scoring, generation.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from evalkit.adapters.fakequant import backends as rowwise
from evalkit.adapters.fakequant import backends as tables
from evalkit.adapters.fakequant.readback import (
    algorithm,
    check_recipe,
    counts,
    kv_cache,
    protected_names,
    read_quantizers,
)
from evalkit.adapters.memory import ran_out_of_memory
from evalkit.errors import ConfigError, RecipeError, UsageError
from evalkit.records import digest

if TYPE_CHECKING:
    from evalkit.recipes import ResolvedRecipe


# Calibration: which texts a recipe sees before its scales are fixed.


SHIPPED = Path(__file__).resolve().parents[2] / "recipes" / "library" / "calibration-texts.txt"
"""Texts written for this purpose: prose, dialogue, instructions, code and arithmetic; part of no benchmark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSet:
    """Rows of tokens of equal length.

    Attributes:
        rows: token ids, shape (samples, tokens).
        source: name of the file, or "evalkit" for the shipped texts.
    """

    rows: tuple[tuple[int, ...], ...]
    source: str

    def record(self) -> Mapping[str, Any]:
        """Return what the identity says about it: the digest is of the token ids as they were fed."""
        return {
            "source": self.source,
            "samples": len(self.rows),
            "tokens": len(self.rows[0]),
            "sha256": digest([list(row) for row in self.rows]),
        }


def calibration_rows(tokenizer: Any, *, file: Path | None, samples: int, tokens: int) -> CalibrationSet:
    """Cut texts into rows of equal length, each behind the tokenizer's own start tokens.

    Texts are joined in order and taken from the start; rows never overlap.

    Raises:
        UsageError: the file is unreadable, or too short for the rows asked for.
    """
    path = file or SHIPPED
    start = list(tokenizer("", verbose=False)["input_ids"])
    stream = tokenizer("\n\n".join(read_texts(path)), add_special_tokens=False, verbose=False)["input_ids"]
    body = max(1, tokens - len(start))
    if len(stream) < samples * body:
        raise UsageError(
            f"{path}: {len(stream)} tokens of calibration text; {samples} rows of {tokens} tokens need "
            f"{samples * body}; next step: a longer file (option calibration: {{file: ...}}), or fewer samples"
        )
    rows = tuple(tuple(start + stream[begin : begin + body]) for begin in range(0, samples * body, body))
    return CalibrationSet(rows=rows, source=path.name if file else "evalkit")


def read_texts(path: Path) -> list[str]:
    """Read texts from a `.txt` or `.jsonl` file.

    Raises:
        UsageError: no such file, another kind of file, or a line that holds no text.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: calibration texts cannot be read: {error}") from error
    if path.suffix == ".jsonl":
        return [_text(path, number, line) for number, line in enumerate(content.splitlines(), start=1) if line.strip()]
    if path.suffix != ".txt":
        raise UsageError(f"{path}: calibration texts come as .txt or .jsonl")
    return [text.strip() for text in content.split("\n\n") if text.strip()]


def _text(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{path}, line {number}: not JSON: {error}") from error
    text = row.get("text") if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise UsageError(f"{path}, line {number}: neither a text nor an object with a key 'text'")
    return text


_PROBE = 48
"""Tokens of the forward pass that compares logits before and after."""

_BATCH_TOKENS = 2048
"""Calibration tokens fed at once: AWQ quantizes every weight anew for each batch and each of its eleven scales."""


def apply_recipe(
    model: Any, recipe: ResolvedRecipe, calibration: CalibrationSet | None, *, fold: bool = True
) -> Mapping[str, Any]:
    """Quantize a model in place and return `EngineIdentity.quantization`.

    Args:
        model: causal model in evaluation mode.
        recipe: what to apply.
        calibration: what the recipe must see first; None for a recipe that needs nothing.
        fold: replace weights by what their quantizers make of them, and round 16-bit activations by tables on a CPU;
            both are faster to run and change no bit. A model that will be packed keeps its quantizers.

    Raises:
        ConfigError: ModelOpt refuses the recipe file.
        RecipeError: the model is not what the recipe declares.
    """
    from modelopt.torch import quantization as mtq  # noqa: PLC0415 - slow to import

    rowwise.refuse_unbounded(recipe)
    probe = probe_tokens(model, calibration)
    before = logits_of(model, probe)
    with silent():
        rowwise.register()
        config = _modelopt_config(recipe)
        try:
            mtq.quantize(model, config, forward_loop=_loop(calibration))
        except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
            if ran_out_of_memory(error):
                raise
            raise RecipeError(
                f"recipe '{recipe.name}': ModelOpt cannot apply it: {type(error).__name__}: {error}"
            ) from error
    found = accept(model, recipe, probe, before, fold=fold)
    return {**found, "calibration": calibration.record() if calibration else None}


def accept(model: Any, recipe: ResolvedRecipe, probe: Any, before: Any, *, fold: bool) -> dict[str, Any]:
    """Check every quantizer of a quantized model and what they do, fold the weights, return what was read back.

    Args:
        model: quantized model.
        recipe: what it must be.
        probe: token ids, shape (1, n).
        before: logits of the unquantized model for the probe, fp32.
        fold: as for `apply_recipe`.

    Raises:
        RecipeError: the model is not what the recipe declares.
    """
    from modelopt.torch import quantization as mtq  # noqa: PLC0415 - slow to import

    model.eval()
    states = read_quantizers(model)
    unfolded = logits_of(model, probe)
    padded = sum(state.padded for state in read_quantizers(model))  # known once weights have passed a quantizer
    layers = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    check_recipe(recipe, states, layers=layers, protected=protected_names(model))
    _check_logits(recipe, before, unfolded)
    check_neighbours(recipe, model, probe)
    if fold:
        with silent():
            mtq.fold_weight(model)
            _fold_sequences(model)
            tables.look_up(model)
        if not torch.equal(unfolded, logits_of(model, probe)):
            raise RecipeError(
                f"recipe '{recipe.name}': folding the weights, or tables of activations, changed the logits; "
                "report this with versions"
            )
    return {
        "algorithm": algorithm(states),
        "kv_cache": kv_cache(states),
        "enabled": counts(states),
        "padded_blocks": padded,
    }


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not typed
def _fold_sequences(model: Any) -> None:
    """Fold weights with several quantizers in a row (W4A8), which ModelOpt passes over and rounds at every call."""
    from modelopt.torch.quantization.nn import SequentialQuantizer  # noqa: PLC0415 - slow to import

    for module in model.modules():
        quantizer = getattr(module, "weight_quantizer", None)
        if isinstance(quantizer, SequentialQuantizer):
            module.weight.data.copy_(quantizer(module.weight))
            for part in quantizer:
                part.disable()


def _modelopt_config(recipe: ResolvedRecipe) -> Any:
    """Read the recipe through ModelOpt's own loader, so that `$import` and names such as `e4m3` work."""
    from modelopt.recipe import load_recipe  # noqa: PLC0415 - slow to import

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{recipe.name}.yaml"
        path.write_text(yaml.safe_dump(recipe.document, sort_keys=False), encoding="utf-8")
        try:
            return load_recipe(str(path)).quantize.model_dump(exclude_unset=True)
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            seen = str(error).replace(str(path), path.name)
            raise ConfigError(f"recipe '{recipe.name}'", [f"ModelOpt refuses it: {seen}"]) from error


def _loop(calibration: CalibrationSet | None) -> Any:
    if calibration is None:
        return None
    rows = calibration.rows
    size = max(1, _BATCH_TOKENS // len(rows[0]))

    def feed(model: Any) -> None:
        device = model.get_input_embeddings().weight.device
        with torch.inference_mode():
            for begin in range(0, len(rows), size):
                model(input_ids=torch.tensor(rows[begin : begin + size], device=device), use_cache=False)

    return feed


def probe_tokens(model: Any, calibration: CalibrationSet | None) -> Any:
    """Return tokens for one forward pass: the start of the calibration texts, else numbers spread over the words."""
    embedding = model.get_input_embeddings().weight
    if calibration is not None:
        tokens = torch.tensor([calibration.rows[0][:_PROBE]])
    else:
        tokens = (torch.arange(1, _PROBE + 1) * 7919 % embedding.shape[0])[None]
    return tokens.to(embedding.device)


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not typed
def logits_of(model: Any, tokens: Any) -> Any:
    """Return fp32 logits, shape (rows, tokens, vocabulary)."""
    return model(input_ids=tokens, use_cache=False).logits.float()


def _check_logits(recipe: ResolvedRecipe, before: Any, after: Any) -> None:
    if not bool(torch.isfinite(after).all()):
        bad = int((~torch.isfinite(after)).sum())
        raise RecipeError(f"recipe '{recipe.name}': {bad} of {after.numel()} probe logits are not finite")
    if torch.equal(before, after):
        raise RecipeError(
            f"recipe '{recipe.name}': the logits are those of the unquantized model; nothing is in effect"
        )


def check_neighbours(recipe: ResolvedRecipe, model: Any, probe: Any) -> None:
    """Refuse quantizers whose scale depends on the other rows of a batch; equal shapes make equal rows equal bits."""
    first, second = torch.cat([probe, probe.flip(1)]), torch.cat([probe, probe.roll(1, dims=1)])
    if not torch.equal(logits_of(model, first)[0], logits_of(model, second)[0]):
        raise RecipeError(
            f"recipe '{recipe.name}': an answer depends on what else is in its batch; a quantizer takes its scale from "
            "the whole batch. Next step: static scales, or one dynamic scale a token (block_sizes: {-1: null})"
        )


@contextmanager
def silent() -> Iterator[None]:
    """ModelOpt prints, warns and logs a good deal; stdout belongs to evalkit's data, and failures still raise."""
    logger = logging.getLogger("modelopt")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
