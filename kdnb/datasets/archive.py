"""Archives of pictures, unpacked once, and only into their own folder."""

import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from gzip import BadGzipFile
from hashlib import sha256
from pathlib import Path, PurePosixPath

from kdnb.errors import InputError

SUFFIXES = (".tar.gz", ".tgz", ".zip")
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    BadGzipFile,
    EOFError,
    UnicodeError,
    RuntimeError,  # a zip with a password, or packed in a way that zipfile does not know
)


def unpacked(archive: Path, *, cache: Path) -> Path:
    """The folder that holds the contents of ``archive``, unpacked now or on an earlier call.

    A changed archive (by path, size or time) is unpacked anew. The folder appears whole or not at
    all. Raises InputError for another format, a damaged archive, or a member that is a link or
    would leave the folder: nothing is unpacked then.
    """
    if not archive.name.lower().endswith(SUFFIXES):
        raise InputError(f"{archive} is a file but not an archive of pictures ({', '.join(SUFFIXES)}).")
    about = archive.stat()
    identity = f"{archive.resolve()} {about.st_size} {about.st_mtime_ns}"
    stem = archive.name.split(".")[0]
    target = cache / f"{stem}-{sha256(identity.encode()).hexdigest()[:12]}"
    if target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".unpacking-") as temporary:
            folder = Path(temporary) / "whole"
            folder.mkdir()
            _extract(archive, folder)
            _move(folder, target)
    except DAMAGED as error:
        raise InputError(
            f"{archive} is damaged or not what its name says ({error}). Fetch or pack it again."
        ) from error
    except OSError as error:
        raise InputError(
            f"{archive} could not be unpacked into {cache} ({error}). Free some space, check the "
            "archive, or choose another folder with --data-root."
        ) from error
    return target


def _move(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():  # it is there when another process was faster: as good as ours
            raise


def _extract(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            _refuse(archive, [(info.filename, _is_link(info)) for info in file.infolist()])
            file.extractall(folder)
        return
    with tarfile.open(archive) as file:
        members = file.getmembers()
        while file.fileobj.read(1 << 20):  # to the end, where the checksum is: tar stops before it
            pass
        _refuse(archive, [(member.name, _is_special(member)) for member in members])
        for member in members:
            place = folder / member.name
            if member.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with file.extractfile(member) as content, place.open("wb") as copy:
                shutil.copyfileobj(content, copy)


def _is_special(member: tarfile.TarInfo) -> bool:
    return not (member.isreg() or member.isdir())


def _is_link(info: zipfile.ZipInfo) -> bool:
    return (info.external_attr >> 28) == 0o12


def _refuse(archive: Path, members: list[tuple[str, bool]]) -> None:
    """Raises for names that leave the folder, and for what is neither a file nor a folder."""
    for name, special in members:
        path = PurePosixPath(name.replace("\\", "/"))
        outside = path.is_absolute() or ".." in path.parts or bool(os.path.splitdrive(name)[0])
        if outside or special:
            reason = "would be written outside its folder" if outside else "is a link or device"
            raise InputError(
                f"{archive} holds {name!r}, which {reason}; such archives are not unpacked. "
                "Pack plain files and folders only."
            )
