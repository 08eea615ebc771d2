"""The house keeps its figures: no limit of `docs/measure.py` is passed, and none lags far behind what was reached."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

MEASURE = runpy.run_path(str(Path(__file__).resolve().parents[3] / "docs" / "measure.py"))
LIMITS, SLACK = MEASURE["LIMITS"], MEASURE["SLACK"]


@pytest.fixture(scope="module")
def figures() -> Any:
    return MEASURE["figures"]()  # raises on an import cycle


def faults(figures: Any) -> list[str]:
    found = []
    for name, limit in LIMITS.items():
        value = getattr(figures, name)
        if value > limit:
            shown = ": " + " -> ".join(figures.chain) if name == "longest_chain" else ""
            found.append(f"{name} is {value}, the limit {limit}{shown}; extend what is there instead of adding to it")
        elif value < limit - SLACK[name]:
            found.append(f"{name} has fallen to {value}; lower its limit of {limit} in docs/measure.py")
    return found


@pytest.fixture
def at_the_limit(figures: Any) -> Any:
    values = {"chain" if name == "longest_chain" else name: LIMITS[name] for name in LIMITS}
    return replace(figures, **{**values, "chain": ("evalkit.x",) * LIMITS["longest_chain"]})


def test_the_house_keeps_its_figures(figures: Any) -> None:
    assert not faults(figures)


@pytest.mark.parametrize("name", LIMITS)
def test_a_figure_above_its_limit_is_named(at_the_limit: Any, name: str) -> None:
    worse = ("evalkit.x",) * (LIMITS[name] + 1) if name == "longest_chain" else LIMITS[name] + 1
    (fault,) = faults(replace(at_the_limit, **{"chain" if name == "longest_chain" else name: worse}))
    assert fault.startswith(f"{name} is {LIMITS[name] + 1}, the limit {LIMITS[name]}")


@pytest.mark.parametrize("name", [name for name in LIMITS if SLACK[name] < LIMITS[name]])
def test_a_limit_that_lags_behind_is_named(at_the_limit: Any, name: str) -> None:
    reached = LIMITS[name] - SLACK[name] - 1
    better = ("evalkit.x",) * reached if name == "longest_chain" else reached
    (fault,) = faults(replace(at_the_limit, **{"chain" if name == "longest_chain" else name: better}))
    assert fault.startswith(f"{name} has fallen to {reached}; lower its limit of {LIMITS[name]}")


def test_a_cycle_anywhere_is_named() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}
    with pytest.raises(ValueError, match="import cycle: b -> c -> d -> b"):
        MEASURE["longest_chain"](sorted(arrows), arrows.__getitem__)


def test_lines_functions_and_imports_are_counted(tmp_path: Path) -> None:
    package = tmp_path / MEASURE["PACKAGE"]
    package.mkdir()
    (package / "__init__.py").write_text('"""Face."""\n')
    (package / "short.py").write_text("async def one():\n    return 1\n")
    (package / "long.py").write_text("class A:\n    def two(self):\n" + "        x = 1\n" * 70)
    source = MEASURE["figures"]
    chain = {"imports": lambda _root: (["m"], {"m": set()}.__getitem__)}
    kept = {name: source.__globals__[name] for name in chain}
    source.__globals__.update(chain)
    try:
        found = source(tmp_path)
    finally:
        source.__globals__.update(kept)
    assert (found.modules, found.faces, found.lines) == (2, 1, 75)
    assert (found.largest_file, found.functions, found.longest_function, found.long_functions) == (72, 2, 71, 1)
    assert found.chain == ("m",)
