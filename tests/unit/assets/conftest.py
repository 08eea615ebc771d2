from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from evalkit.assets import AssetStore, Downloads

MakeWheel = Callable[[str, Mapping[str, bytes]], Path]
MakeStore = Callable[..., AssetStore]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder of wheels that stands in for the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    return folder


@pytest.fixture
def make_wheel(index: Path) -> MakeWheel:
    def make(distribution: str, members: Mapping[str, bytes], version: str = "1.0") -> Path:
        name = distribution.replace("-", "_")
        info = f"{name}-{version}.dist-info"
        path = index / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        return path

    return make


@pytest.fixture
def make_store(tmp_path: Path, index: Path) -> MakeStore:
    """A store with one declared asset, `sample`, a cache of its own, and no network."""

    def make(declaration: Mapping[str, Any], **options: Any) -> AssetStore:
        folder = tmp_path / "definitions" / "tasks" / "sample"
        folder.mkdir(parents=True, exist_ok=True)
        data = {"name": "sample", "kind": "text", "title": "A sample", "licence": "MIT", **declaration}
        (folder / "source.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
        downloads = Downloads(
            pip_args=["--no-index", "--find-links", str(index)],
            **{"hub_endpoint": "http://127.0.0.1:9", "hub_cache": tmp_path / "hub", **options.pop("downloads", {})},
        )
        return AssetStore(tmp_path / "definitions", cache=tmp_path / "cache", downloads=downloads, **options)

    return make
