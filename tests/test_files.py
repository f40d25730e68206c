"""write_whole: the whole file or the old one, and nothing else in the folder."""

import os
import stat
from pathlib import Path

import pytest

from kdnb.errors import InputError
from kdnb.files import new_folder, write_whole


@pytest.mark.parametrize("content", [b"\x00\xff bytes", "words, é and ✓\n", b"", ""])
def test_content_arrives(tmp_path, content):
    path = tmp_path / "new" / "folder" / "file.txt"
    write_whole(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


def test_an_old_file_is_replaced(tmp_path):
    path = tmp_path / "file"
    path.write_text("a much longer old text")
    write_whole(path, "new")
    assert path.read_text() == "new"


def test_others_may_read_the_file(tmp_path):
    write_whole(tmp_path / "file", "new")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize("step", ["fsync", "replace", "write"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_anywhere_the_old_file_stays(tmp_path, monkeypatch, step, error):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_args, **_named):
        raise error

    if step == "write":
        monkeypatch.setattr(os, "fdopen", lambda handle, mode: _Full(handle, error))
    else:
        monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    expected = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_whole(path, "new")
    if expected is InputError:
        assert "No space left on device" in str(caught.value)
        assert "choose another folder with --out" in str(caught.value)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


class _Full:
    """A file on a full disk."""

    def __init__(self, handle: int, error: BaseException) -> None:
        self.handle, self.error = handle, error

    def __enter__(self) -> "_Full":
        return self

    def __exit__(self, *_) -> None:
        os.close(self.handle)

    def write(self, _data: bytes) -> None:
        raise self.error


def test_readers_never_see_half_a_file(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    path.write_text("old")
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append(path.read_text()), sync(handle)))
    write_whole(path, "new")
    assert seen == ["old"]


@pytest.mark.parametrize("name", ["file/below", "file/below/deeper", "folder"])
def test_a_place_that_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("a file where a folder is needed")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(InputError, match=f"Could not write {tmp_path / name}: "):
        write_whole(tmp_path / name, "new")
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder"}
    assert (tmp_path / "file").read_text() == "a file where a folder is needed"


def test_a_new_folder_is_empty(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "old").touch()
    assert new_folder(tmp_path / "a") == tmp_path / "a"
    assert list((tmp_path / "a").iterdir()) == []


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match=r"Could not make the folder .*a: Not a directory"):
        new_folder(tmp_path / "a")
