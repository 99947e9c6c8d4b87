"""Whether this user trained a run here, so that the code which its configuration names is theirs.

Importing code executes it, and anyone may have written a saved run. So a training signs what it
imports with a key that only this user can read, and a copy from elsewhere lacks that signature.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import json
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from worldmodel.config.loading import to_plain
from worldmodel.config.schema import Config
from worldmodel.system.files import read_small_file, replace_file, write_all

log = logging.getLogger(__name__)

# Every key that may name code, and the keys whose values that code is called with.
CODE_KEYS = {"env.task": ("env.size",), "env.kwargs": ()}
SIGNATURE = "code.signature"  # in the run directory
KEY, KEY_BYTES = "key", 32  # in the state folder
MAX_SIGNATURE = 100  # bytes: 64 letters and a line break


def sign_code(run: Path, config: Config) -> None:
    """Sign the code that a training imports; without a key, warn and continue."""
    try:
        replace_file(run / SIGNATURE, _compute_signature(_make_key(), config) + "\n")
    except OSError as error:
        log.warning(
            "%s: this run cannot be signed as trained here, so that eval.py will ask for --trust",
            _describe_error(error),
        )


def find_distrust(run: Path, config: Config) -> str:
    """Say why a saved run's code may be anyone's; an empty string if this user trained it here."""
    try:
        key = _read_key()
    except FileNotFoundError:
        return "you did not train this run here"
    except OSError as error:
        return _describe_error(error)
    try:
        found = read_small_file(run / SIGNATURE, MAX_SIGNATURE).strip()
    except OSError:
        found = b""
    is_own = hmac.compare_digest(found, _compute_signature(key, config).encode())
    return "" if is_own else "you did not train this run here"


def _compute_signature(key: bytes, config: Config) -> str:
    """Sign the names of all code and the values that it is called with."""
    plain = to_plain(config)
    keys = {*CODE_KEYS, *(key for called_with in CODE_KEYS.values() for key in called_with)}
    pairs = [(key, plain[key.split(".")[0]][key.split(".")[1]]) for key in sorted(keys)]
    # A run of before env.kwargs keeps its signature.
    pairs = [(key, value) for key, value in pairs if value != {}]
    return hmac.new(key, json.dumps(pairs).encode(), "sha256").hexdigest()


def _find_folder() -> Path:
    """Find the state folder of the XDG specification, by which relative paths are ignored."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".local", "state")
    if not os.path.isabs(base):
        raise FileNotFoundError(errno.ENOENT, "this user has no home folder for a key")
    return Path(base, "worldmodel")


def _read_key() -> bytes:
    """Read this user's key; OSError if there is none, or if it may be known to others."""
    path = _find_folder()
    with (
        _open_private(path, os.O_DIRECTORY) as folder,
        _open_private(path / KEY, 0, folder) as file,
    ):
        key = os.read(file, KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise OSError(errno.EINVAL, "it is damaged: remove it", str(path / KEY))
    return key


@contextlib.contextmanager
def _open_private(path: Path, flags: int, folder: int | None = None) -> Iterator[int]:
    """Open what belongs to this user alone, in `folder` if one is given; never through a link."""
    # O_NONBLOCK: opening a named pipe would otherwise hang before it can be refused.
    flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path if folder is None else path.name, flags, dir_fd=folder)
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            raise OSError(errno.EPERM, "it belongs to another user", str(path))
        if found.st_mode & 0o077:
            raise OSError(errno.EPERM, "others may open it, so it is no secret", str(path))
        yield fd
    finally:
        os.close(fd)


def _make_key() -> bytes:
    """Read this user's key, after making it if there is none; trainings that start at once agree
    on one.
    """
    path = _find_folder()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        return _read_key()
    with _open_private(path, os.O_DIRECTORY) as folder:
        partial = f"{KEY}-{secrets.token_hex(8)}"
        file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        try:
            write_all(file, memoryview(secrets.token_bytes(KEY_BYTES)))
            os.fsync(file)
            with contextlib.suppress(FileExistsError):  # unlike a rename, a link replaces nothing
                os.link(partial, KEY, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        finally:
            os.close(file)
            os.unlink(partial, dir_fd=folder)
    return _read_key()


def _describe_error(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
