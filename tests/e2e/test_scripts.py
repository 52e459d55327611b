"""The scripts that people and CI run are whole: bash reads them to the end."""

import os
import runpy
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def shell_scripts():
    files = [*(REPOSITORY / "scripts").iterdir(), REPOSITORY / ".ci" / "run"]
    return [
        path
        for path in files
        if path.is_file() and path.read_bytes()[:2] == b"#!" and b"bash" in path.read_bytes()[:40]
    ]


@pytest.mark.parametrize("script", shell_scripts(), ids=lambda path: path.name)
def test_bash_reads_it(script):
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert os.access(script, os.X_OK), f"{script} cannot be executed"


def test_the_promised_scripts_are_there():
    assert {"demo", "test", "setup"} <= {path.name for path in shell_scripts()}


def test_the_tables_on_scaling_are_what_the_script_says(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scaling.py"])
    runpy.run_path(str(REPOSITORY / "scripts" / "scaling.py"), run_name="__main__")
    tables = capsys.readouterr().out.strip().split("\n\n<!-- ")
    page = (REPOSITORY / "docs" / "scaling.md").read_text()
    assert len(tables) == 5
    for table in tables:
        assert table.removeprefix("<!-- ") in page
