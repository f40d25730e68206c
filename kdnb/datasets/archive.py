"""Archives of pictures, which are unpacked once and only into a folder of their own."""

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
    RuntimeError,  # a zip with a password or with an unknown compression
)


def unpacked(archive: Path, *, cache: Path) -> Path:
    """Unpacks an archive, unless an earlier call has done so.

    An archive whose path, size or time has changed is unpacked again. The folder appears as a whole or not at
    all.

    Args:
        archive: A ``.tar.gz``, ``.tgz`` or ``.zip`` file.

        cache: The folder in which the folders of unpacked archives lie.

    Returns:
        The folder that holds the contents of the archive.

    Raises:
        InputError: If the archive has another format or is damaged, if one of its members is a link or would
            be written outside the folder, or if there is no space. Nothing is unpacked then.
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
        if not target.is_dir():  # another process may have unpacked the same archive first
            raise


def _extract(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            _refuse(archive, [(info.filename, _is_link(info)) for info in file.infolist()])
            file.extractall(folder)
        return
    with tarfile.open(archive) as file:
        members = file.getmembers()
        while file.fileobj.read(1 << 20):  # tarfile stops before the checksum, which is at the end
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
    """Raises InputError for members that would leave the folder, or that are neither files nor folders."""
    for name, special in members:
        path = PurePosixPath(name.replace("\\", "/"))
        outside = path.is_absolute() or ".." in path.parts or bool(os.path.splitdrive(name)[0])
        if outside or special:
            reason = "would be written outside its folder" if outside else "is a link or device"
            raise InputError(
                f"{archive} holds {name!r}, which {reason}; such archives are not unpacked. "
                "Pack plain files and folders only."
            )
