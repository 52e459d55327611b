"""Shared by all tests: shapes and types are checked at run time, and real data is found or its absence told."""

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

REPOSITORY = Path(__file__).parents[1]
# Not the kernels: numba, Triton and torch's custom ops read the functions themselves, and cannot take a wrapped one.
CHECKED = [
    f"recon3d.{entry.stem}" for entry in (REPOSITORY / "recon3d").iterdir() if entry.stem not in ("kernels", "__init__")
]
install_import_hook(CHECKED, "beartype.beartype")


@pytest.fixture(autouse=True)
def denormals():
    """Runs flush them in their process, and here all run in one."""
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def one_thread():
    """For trainings whose figures are to be those of any machine: sums depend on how many threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is not here: {folder}")
    return folder
