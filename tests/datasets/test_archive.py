"""Archives: the same pictures as the folder, unpacked once, and nothing outside."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdnb.datasets import archive as archive_module
from kdnb.datasets import image_folder
from kdnb.datasets.archive import unpacked
from kdnb.errors import InputError


@pytest.fixture
def pictures(tmp_path) -> Path:
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "source" / "animals" / part / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "source"


def packed(source: Path, archive: Path) -> Path:
    files = sorted(file for file in source.rglob("*") if file.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in files:
                file.write(path, path.relative_to(source))
    else:
        with tarfile.open(archive, "w:gz") as file:
            for path in files:
                file.add(path, str(path.relative_to(source)))
    return archive


def tar_of(archive: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(archive, "w:gz") as file:
        for member in (tarfile.TarInfo("good/0.png"), *members, tarfile.TarInfo("good/1.png")):
            content = b"content" if member.isreg() else b""
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return archive


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "home" / "cache"


class TestContents:
    @pytest.mark.parametrize("name", ["pets.tar.gz", "pets.tgz", "pets.zip", "Pets.v2.TAR.GZ"])
    def test_an_archive_gives_the_same_tensors_as_the_folder(self, pictures, tmp_path, cache, name):
        archive = packed(pictures, tmp_path / name)
        found = image_folder(archive, cache=cache)
        expected = image_folder(pictures, cache=cache)
        assert found.classes == expected.classes
        for part in ("train", "validation", "test"):
            assert torch.equal(getattr(found, part).images, getattr(expected, part).images)
            assert torch.equal(getattr(found, part).labels, getattr(expected, part).labels)

    def test_folders_and_files_are_whole(self, pictures, tmp_path, cache):
        folder = unpacked(packed(pictures, tmp_path / "pets.tar.gz"), cache=cache)
        assert folder.parent == cache
        assert folder.name.startswith("pets-")
        for file in pictures.rglob("*.png"):
            assert (folder / file.relative_to(pictures)).read_bytes() == file.read_bytes()

    def test_a_second_call_does_not_unpack_again(self, pictures, tmp_path, cache, monkeypatch):
        archive = packed(pictures, tmp_path / "pets.zip")
        first = unpacked(archive, cache=cache)
        monkeypatch.setattr(archive_module, "_extract", lambda *_: pytest.fail("unpacked again"))
        assert unpacked(archive, cache=cache) == first

    @pytest.mark.parametrize("how", ["content", "time"])
    def test_a_changed_archive_is_unpacked_anew(self, pictures, tmp_path, cache, how):
        archive = packed(pictures, tmp_path / "pets.tar.gz")
        first = unpacked(archive, cache=cache)
        if how == "content":
            (pictures / "animals" / "train" / "cat" / "0.png").write_bytes(b"another")
            packed(pictures, archive)
        else:
            os.utime(archive, ns=(0, 10**18))
        second = unpacked(archive, cache=cache)
        assert second != first
        if how == "content":
            assert (second / "animals/train/cat/0.png").read_bytes() == b"another"


class TestMalice:
    """Refused with the reason, and not a file written anywhere."""

    @pytest.mark.parametrize(
        "name",
        [
            "../evil.png",
            "good/../../evil.png",
            "/evil-from-a-kdnb-test.png",
            "..\\evil.png",
            "good\\..\\..\\evil.png",
            "\\evil.png",
        ],
    )
    @pytest.mark.parametrize("kind", [".tar.gz", ".zip"])
    def test_members_that_leave_the_folder(self, tmp_path, cache, name, kind):
        archive = tmp_path / f"pets{kind}"
        if kind == ".zip":
            with zipfile.ZipFile(archive, "w") as file:
                file.writestr("good/0.png", b"content")
                file.writestr(name, b"content")
        else:
            tar_of(archive, member(name))
        self.refused(archive, cache, "would be written outside its folder")

    @pytest.mark.parametrize(
        ("kind", "target"),
        [
            (tarfile.SYMTYPE, "/etc/passwd"),
            (tarfile.SYMTYPE, "0.png"),
            (tarfile.LNKTYPE, "good/0.png"),
            (tarfile.LNKTYPE, "../../other"),
            (tarfile.CHRTYPE, ""),
            (tarfile.BLKTYPE, ""),
            (tarfile.FIFOTYPE, ""),
        ],
    )
    def test_links_and_devices(self, tmp_path, cache, kind, target):
        archive = tar_of(tmp_path / "pets.tar.gz", member("good/strange.png", kind, target))
        self.refused(archive, cache, "'good/strange.png', which is a link or device")

    def test_a_link_is_not_hidden_by_a_later_file_of_its_name(self, tmp_path, cache):
        link = member("good/twice.png", tarfile.SYMTYPE, "/etc/passwd")
        archive = tar_of(tmp_path / "pets.tar.gz", link, member("good/twice.png"))
        self.refused(archive, cache, "is a link or device")

    def test_a_symbolic_link_in_a_zip(self, tmp_path, cache):
        with zipfile.ZipFile(tmp_path / "pets.zip", "w") as file:
            info = zipfile.ZipInfo("good/strange.png")
            info.create_system, info.external_attr = 3, 0o120777 << 16
            file.writestr(info, "/etc/passwd")
        self.refused(tmp_path / "pets.zip", cache, "is a link or device")

    @staticmethod
    def refused(archive: Path, cache: Path, reason: str) -> None:
        before = everything(archive.parent)
        with pytest.raises(InputError) as caught:
            unpacked(archive, cache=cache)
        assert reason in str(caught.value)
        assert "Pack plain files and folders only" in str(caught.value)
        assert everything(archive.parent) - before <= {cache.parent, cache}
        assert not Path("/evil-from-a-kdnb-test.png").exists()


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


class TestDamage:
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
    @pytest.mark.parametrize("name", ["pets.tar.gz", "pets.zip"])
    def test_a_truncated_archive(self, pictures, tmp_path, cache, name, share):
        archive = packed(pictures, tmp_path / name)
        whole = archive.read_bytes()
        archive.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match="is damaged or not what its name says"):
            unpacked(archive, cache=cache)
        assert list(cache.iterdir()) == []

    def test_a_missing_checksum(self, pictures, tmp_path, cache):
        archive = packed(pictures, tmp_path / "pets.tar.gz")
        archive.write_bytes(archive.read_bytes()[:-4])
        with pytest.raises(InputError, match="is damaged or not what its name says"):
            unpacked(archive, cache=cache)

    @pytest.mark.parametrize("name", ["pets.tar.gz", "pets.zip"])
    def test_damaged_bytes(self, pictures, tmp_path, cache, name):
        archive = packed(pictures, tmp_path / name)
        whole = bytearray(archive.read_bytes())
        whole[len(whole) // 3 : len(whole) // 3 + 40] = b"\xff" * 40
        archive.write_bytes(whole)
        with pytest.raises(InputError, match="is damaged or not what its name says"):
            unpacked(archive, cache=cache)
        assert list(cache.iterdir()) == []

    def test_a_zip_with_a_password(self, tmp_path, cache):
        archive = tmp_path / "pets.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("good/0.png", b"content")
        content = bytearray(archive.read_bytes())
        content[6] |= 1  # the flag of encryption, in the file's header and in the directory
        content[content.find(b"PK\x01\x02") + 8] |= 1
        archive.write_bytes(content)
        with pytest.raises(InputError, match=r"is damaged or not what its name says \(.*password"):
            unpacked(archive, cache=cache)

    def test_another_suffix(self, tmp_path, cache):
        (tmp_path / "pets.rar").write_bytes(b"Rar!")
        with pytest.raises(InputError, match=r"pets.rar is a file but not an archive of pictures"):
            unpacked(tmp_path / "pets.rar", cache=cache)
        assert not cache.exists()

    def test_a_cache_that_cannot_be_written(self, pictures, tmp_path):
        archive = packed(pictures, tmp_path / "pets.zip")
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="choose another folder with --data-root"):
            unpacked(archive, cache=tmp_path / "file" / "cache")


class TestInterruption:
    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")])
    def test_half_an_archive_is_not_taken_for_a_whole_one(
        self, pictures, tmp_path, cache, monkeypatch, error
    ):
        archive = packed(pictures, tmp_path / "pets.tar.gz")
        copy, calls = archive_module.shutil.copyfileobj, []

        def interrupted(*args):
            calls.append(args)
            if len(calls) == 3:
                raise error
            copy(*args)

        with monkeypatch.context() as patch:
            patch.setattr(archive_module.shutil, "copyfileobj", interrupted)
            with pytest.raises((KeyboardInterrupt, InputError)):
                unpacked(archive, cache=cache)
        assert list(cache.iterdir()) == []
        assert len(list(unpacked(archive, cache=cache).rglob("*.png"))) == 16

    def test_killed_without_a_word(self, pictures, tmp_path, cache):
        """No chance to clean up: what is left behind is not taken for whole."""
        archive = packed(pictures, tmp_path / "pets.tar.gz")
        program = (
            "import os, sys; from pathlib import Path; from kdnb.datasets import archive\n"
            "copy, calls = archive.shutil.copyfileobj, []\n"
            "def killed(*args):\n"
            "    calls.append(args)\n"
            "    os._exit(9) if len(calls) == 3 else copy(*args)\n"
            "archive.shutil.copyfileobj = killed\n"
            "archive.unpacked(Path(sys.argv[1]), cache=Path(sys.argv[2]))\n"
        )
        command = [sys.executable, "-c", program, str(archive), str(cache)]
        assert subprocess.run(command, check=False).returncode == 9
        assert len(list(cache.rglob("*.png"))) == 3
        assert len(list(unpacked(archive, cache=cache).rglob("*.png"))) == 16

    @pytest.mark.parametrize("name", ["pets.tar.gz", "pets.zip"])
    def test_two_at_once_both_succeed(self, pictures, tmp_path, cache, monkeypatch, name):
        """The other one finishes while this one is still unpacking."""
        archive = packed(pictures, tmp_path / name)
        extract = archive_module._extract

        def slow(*args):
            monkeypatch.setattr(archive_module, "_extract", extract)
            others.append(unpacked(archive, cache=cache))
            extract(*args)

        others: list[Path] = []
        monkeypatch.setattr(archive_module, "_extract", slow)
        folder = unpacked(archive, cache=cache)
        assert others == [folder]
        assert list(cache.iterdir()) == [folder]
        assert len(list(folder.rglob("*.png"))) == 16

    def test_a_folder_that_cannot_be_moved_is_an_error(self, pictures, tmp_path, cache, monkeypatch):
        def refuse(*_):
            raise PermissionError("not allowed")

        archive = packed(pictures, tmp_path / "pets.zip")
        monkeypatch.setattr(Path, "rename", refuse)
        with pytest.raises(InputError, match=r"could not be unpacked.*not allowed"):
            unpacked(archive, cache=cache)
        assert list(cache.iterdir()) == []
