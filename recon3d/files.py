"""Files that are written whole or not at all."""

from __future__ import annotations

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
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
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
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            what = error.strerror or error
            raise UserError(
                f"cannot write {path}: {what} (it cannot be written there; choose another place)"
            ) from error
        raise
    return path
