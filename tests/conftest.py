"""Shared by all tests: shapes and types are checked at run time, and real data is found or its absence told."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("recon3d", "beartype.beartype")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is not here: {folder}")
    return folder
