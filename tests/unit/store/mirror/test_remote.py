from __future__ import annotations

import subprocess
import sys

import fsspec
import pytest

from evalkit.errors import MissingExtraError, StoreError, UsageError
from evalkit.store.mirror.remote import MissingFileError, RemoteFolder, open_remote, shown_url


@pytest.fixture(params=["memory", "file"])
def folder(request, tmp_path):
    fsspec.filesystem("memory").store.clear()
    fsspec.filesystem("memory").pseudo_dirs[:] = [""]
    return open_remote("memory://bucket/runs" if request.param == "memory" else f"file://{tmp_path}/runs")


def test_files_are_written_listed_read_and_deleted(folder):
    assert folder.find() == {}
    folder.put("a/one.txt", b"1")
    folder.put("a/one.txt", b"12")
    folder.put("b.txt", b"")
    assert {name: entry.size for name, entry in folder.find().items()} == {"a/one.txt": 2, "b.txt": 0}
    assert list(folder.find("a")) == ["a/one.txt"]
    assert folder.read("a/one.txt") == b"12"
    folder.remove(["a/one.txt", "never there"])
    assert list(folder.find()) == ["b.txt"]
    with pytest.raises(MissingFileError, match=r"runs/a/one.txt: cannot be read .* next step"):
        folder.read("a/one.txt")


def test_a_file_is_created_once(folder):
    assert folder.create("x/1.json", b"mine")
    assert folder.create("x/1.json", b"mine"), "the answer to the first try may have been lost"
    assert not folder.create("x/1.json", b"yours")
    assert folder.read("x/1.json") == b"mine"


def test_folders_around_are_found(folder):
    above = folder.above()
    assert above[0].url == folder.url.rpartition("/")[0]
    assert len({each.url for each in above}) == len(above)
    above[0].put("there", b"")
    assert folder.find() == {}


def test_what_a_crash_left_half_written_is_not_listed(tmp_path):
    folder = open_remote(f"file://{tmp_path}/runs")
    folder.put("a", b"1")
    (tmp_path / "runs" / ".a.0123abcd.tmp").write_bytes(b"half")
    assert list(folder.find()) == ["a"]


def test_a_name_that_leads_out_of_the_folder_is_refused():
    class Evil:
        protocol = "s3"

        def find(self, path, detail):
            return {f"{path}/a/../../../etc/passwd": {"size": 1, "type": "file"}}

    with pytest.raises(StoreError, match="leads out of it"):
        RemoteFolder(Evil(), "bucket/runs", "s3://bucket/runs").find()


class Failing:
    protocol = "s3"

    def __init__(self, error, times=10**6):
        self.error, self.times, self.calls = error, times, 0

    def cat_file(self, path):
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return b"at last"


def test_a_fault_that_may_pass_is_tried_again():
    waits = []
    fs = Failing(OSError("503 Slow Down"), times=3)
    assert RemoteFolder(fs, "b/r", "s3://b/r", sleep=waits.append).read("x") == b"at last"
    assert waits == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("error", "calls", "step"),
    [
        (PermissionError("403 Forbidden"), 1, "give this machine credentials"),
        (FileNotFoundError("NoSuchBucket"), 1, "check the name"),
        (ConnectionError("no route to host"), 4, "AWS_ENDPOINT_URL"),
    ],
)
def test_an_error_names_the_url_and_the_next_step_and_no_secret(error, calls, step):
    fs = Failing(type(error)(f"{error} at sftp://me:hunter2pass@host/x?token=abcdefgh12345"))
    with pytest.raises(StoreError, match="next step") as caught:
        RemoteFolder(fs, "b/r", "s3://b/r", sleep=lambda _s: None).read("x")
    text = str(caught.value)
    assert text.startswith("s3://b/r/x: cannot be read")
    assert step in text
    assert "hunter2pass" not in text
    assert "abcdefgh12345" not in text
    assert fs.calls == calls


def test_a_url_that_nothing_knows_is_refused_by_name():
    with pytest.raises(UsageError, match=r"nonsense://bucket/x: .*next step"):
        open_remote("nonsense://bucket/x")
    with pytest.raises(UsageError, match="names no folder"):
        open_remote("memory://")
    with pytest.raises(UsageError, match="chained"):
        open_remote("simplecache::s3://bucket/x")


def test_without_fsspec_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'evalkit-quant\[remote\]'"):
        open_remote("s3://bucket/x")


def test_a_url_is_shown_without_its_secrets():
    assert shown_url("s3://bucket/a/") == "s3://bucket/a"
    assert "pass" not in shown_url("ftp://user:pass@host/a?key=secret")


def test_fsspec_is_imported_for_urls_alone():
    code = (
        "import sys; import evalkit.cli.certify, evalkit.cli.compare, evalkit.cli.verify, evalkit.store.mirror;"
        "sys.exit('fsspec' in sys.modules or 's3fs' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
