"""The README's commands do what they say: blocks marked ``<!-- test -->`` are run as they are written.

A mark is an HTML comment on the line before a fenced ``bash`` block. Blocks run one after another in one copy of the
repository, so that a later one may use what an earlier one made; ``recon3d`` and ``python`` are those of the tests.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .command import environment

README = Path(__file__).parents[2] / "README.md"
MARKED = re.compile(r"<!--\s*test\s*-->\s*\n```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
# What a copy can do without; a checkout's own environment and runs stay behind.
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info")


def marked_blocks(text):
    return MARKED.findall(text)


def test_marks_are_found():
    text = (
        "a\n<!-- test -->\n```bash\nrecon3d --help\n```\n\n```bash\nnot this\n```\n<!--test-->\n\n```bash\nb\nc\n```\n"
    )
    assert marked_blocks(text) == ["recon3d --help\n", "b\nc\n"]


@pytest.mark.slow
def test_readme_commands(tmp_path):
    blocks = marked_blocks(README.read_text())
    if not blocks:
        pytest.skip("README.md has no block marked <!-- test -->")
    repository = tmp_path / "recon3d"
    shutil.copytree(README.parent, repository, ignore=LEFT_OUT)
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=repository,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=300,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
