from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[2] / "release_folders.py"


@pytest.fixture(scope="session")
def folders() -> ModuleType:
    """The factory of decided releases."""
    return importlib.import_module("release_folders")


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A signed release, the signer's key and a stranger's."""

    folder: Path
    key: Any
    stranger: Any


@pytest.fixture(scope="session")
def signed(folders: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """A small release, certified through the program and signed; tests copy it before they change anything."""
    pytest.importorskip("cryptography")
    from evalkit.attestation import ENVELOPE, sign_folder  # noqa: PLC0415
    from evalkit.attestation.envelope import make_keys, read_private  # noqa: PLC0415

    release = folders.make_release(tmp_path_factory.mktemp("signed") / "release", items=400)
    release.certify()
    keys = [read_private(make_keys()[0], "made") for _ in range(2)]
    envelope, check = sign_folder(release.folder, keys[0])
    assert check.sound
    (release.folder / ENVELOPE).write_text(envelope.to_json(), "utf-8")
    return Signed(folder=release.folder, key=keys[0], stranger=keys[1])
