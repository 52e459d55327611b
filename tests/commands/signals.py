"""Runs on small signals through the command line, in this process."""

import json

from tasks.pictures import write_image

from recon3d import cli

LOOK = ["--device", "cpu", "--threads", "1"]
SMALL = [
    *LOOK,
    *("--field.network", "siren", "--field.width", "16", "--field.depth", "1", "--chunk", "200"),
    *("--optimizer.learning-rate", "1e-3"),
]


def call(capsys, *args):
    """The figures of a command that succeeds, and what it printed."""
    capsys.readouterr()
    code = cli.main([*map(str, args), "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(out.splitlines()[-1], parse_constant=refuse), out


def told(capsys, args, *parts):
    """The command says what is wrong in one line on standard error and returns 2."""
    capsys.readouterr()
    assert cli.main([str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("recon3d: ")]
    assert len(lines) == 1 and "Traceback" not in err, err
    assert out == ""
    for part in parts:
        assert str(part) in lines[0], err


def train(preset, data, out, name, *options, steps=12):
    """The arguments of a small run."""
    return ["train", preset, data, "--out", out, "--name", name, "--steps", steps, *SMALL, *options]


def trained_image(capsys, folder, name="run", *options, **sizes):
    data = write_image(folder / "image.png", **sizes)
    call(capsys, *train("image", data, folder, name, *options))
    return folder / name
