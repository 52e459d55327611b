"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from recon3d.errors import UserError


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> Path:
    """What ``write`` puts into the file that it is given, at ``path``; folders are made where they are missing.

    It is written under a temporary name beside its place and renamed, so an older file stays whole until then.

    Raises:
        UserError: the file cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):  # the folder itself may be what is wrong
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise
    return path


def write_bytes(path: Path, payload: bytes) -> Path:
    """:func:`write_whole` of what is there already."""
    return write_whole(path, lambda file: file.write(payload))


def cannot_write(path: Path, error: OSError) -> UserError:
    """What to tell of a write to ``path`` that failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"{path}: the disk is full; what was saved before is intact: free some space and go on"
            " (with a run: recon3d resume)"
        )
    return UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place")
