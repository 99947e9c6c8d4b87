"""A packed run as one zip file, and unpacking one that anyone may have made."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

from worldmodel.errors import DataError, RunError
from worldmodel.packing import file_list
from worldmodel.system.files import open_input, open_regular

MOST_RATIO, SLACK = 50, 1 << 20  # of the size unpacked to that of the archive
BLOCK = 1 << 20
EVAL = "eval"  # where `wm eval` writes in a run
# What reading a damaged archive raises; EINVAL at a place before its beginning.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(ValueError, OverflowError, RuntimeError),
)
DATE = (1980, 1, 1, 0, 0, 0)  # the same files make the same archive


def find_cache() -> Path:
    """The folder for unpacked and downloaded runs, by the XDG specification."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else Path.home() / ".cache") / "worldmodel"


def write_archive(folder: Path, target: Path) -> None:
    """Write a packed run's files into a zip, uncompressed: weights and replay hardly shrink."""
    names = [file_list.NAME, *file_list.read_file_list(folder).files]
    with open(target, "xb", opener=open_regular) as file, zipfile.ZipFile(file, "w") as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, DATE)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            with (
                open(folder / name, "rb", opener=open_regular) as source,
                archive.open(entry, "w", force_zip64=True) as goal,
            ):
                shutil.copyfileobj(source, goal, BLOCK)


def unpack(path: Path) -> Path:
    """Unpack a zip into the cache, or find it sound there; DataError if it is not a packed run."""
    with open(path, "rb", opener=open_input) as file:
        digest = hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
        folder = find_cache() / "unpacked" / digest.hexdigest()[:32]
        if file_list.is_complete(folder):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
        try:
            with zipfile.ZipFile(file) as archive:
                _extract(archive, partial, size=os.fstat(file.fileno()).st_size)
            file_list.verify_files(partial, with_replay=True)
            if not file_list.is_complete(folder):  # another process may have been faster
                _replace(folder, partial)
        except UNREADABLE as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise  # of the disk
            raise DataError(f"{path} is not a packed run: {str(error)[:200]}") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _replace(folder: Path, new: Path) -> None:
    """Put a new folder in the place of a damaged or missing one, whose evaluations are kept."""
    if (folder / EVAL).is_dir() and not os.path.lexists(new / EVAL):
        (folder / EVAL).rename(new / EVAL)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def check_space(folder: Path, needed: int) -> None:
    """RunError unless the disk of a folder has room for `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunError(f"{folder.parent} has {free:,} bytes free, and {needed:,} are needed", 74)


def _extract(archive: zipfile.ZipFile, folder: Path, size: int) -> None:
    """Write every file of an archive of `size` bytes; ValueError if it holds anything else."""
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    names = [entry.filename for entry in entries]
    if len(names) > file_list.MOST_FILES or len(set(names)) < len(names):
        raise ValueError("it holds too many files, or one twice")
    for entry in entries:
        file_list.check_name(entry.filename)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or entry.flag_bits & 1:
            raise ValueError(f"{entry.filename} is a link, encrypted or no plain file")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{entry.filename} is compressed in another way than zip usually is")
    needed = sum(entry.file_size for entry in entries)
    if needed > MOST_RATIO * size + SLACK:
        raise ValueError(f"it claims to unpack from {size:,} to {needed:,} bytes")
    check_space(folder, needed)
    for entry in entries:
        target = folder / entry.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, open(target, "xb", opener=open_regular) as goal:
            shutil.copyfileobj(source, goal, BLOCK)  # at most the size that the entry claims
