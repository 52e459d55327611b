"""open3d, which casts rays and measures distances, imported where it is needed."""

from __future__ import annotations

from typing import Any

from recon3d.errors import UserError


def import_open3d(purpose: str) -> Any:
    """The module open3d; ``purpose`` begins the message, as in "distances to a mesh are measured".

    Raises:
        UserError: it is not installed, or the system library that it loads is not.
    """
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise UserError(
            f"{purpose} with open3d, which cannot be imported ({' '.join(str(error).split())}); "
            "run: pip install open3d (and on Debian or Ubuntu: apt-get install libusb-1.0-0)"
        ) from error
    return open3d
