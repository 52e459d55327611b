"""recon3d export mesh through the command line: where the mesh is, what is done to it, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from recon3d.data.scene_files import load_scene
from recon3d.export.meshfiles import read_mesh
from recon3d.export.meshview import MeshView

from .command import LOOK, refused, run, succeed

IOU_FLOOR = 0.84  # mean over the training views, of 64 pixels a side; measured 0.875 (level), 0.895 (fusion)


EXPORT = ["--resolution", "96", *LOOK]


@pytest.fixture(scope="module", params=["level", "fusion"])
def exported(request, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mesh")
    options = ["--route", request.param, "--output", folder, "--texture", "256", "--simplify", "6000"]
    figures = succeed("export", "mesh", trained.path, *EXPORT, *options)
    assert figures["route"] == request.param
    return figures


@pytest.fixture(scope="module", params=["level", "fusion"])
def largest(request, trained, tmp_path_factory):
    """The largest piece alone: of so short a training not all of the object hangs together."""
    options = ["--route", request.param, "--texture", "256", "--simplify", "6000", "--largest"]
    folder = tmp_path_factory.mktemp("largest")
    return succeed("export", "mesh", trained.path, "--resolution", "64", *LOOK, "--output", folder, *options)


@pytest.mark.slow
def test_the_mesh_stands_where_the_photographs_show_it(exported, toy):
    """World coordinates, always: from the input's cameras the mesh covers the pixels that the object covers."""
    files = {Path(name).suffix: Path(name) for name in exported["files"]}
    scene = load_scene(toy, "train", 1, 8)
    for suffix in (".ply", ".glb", ".obj"):
        view = MeshView(read_mesh(files[suffix]))
        scores = []
        for index in range(0, len(scene.cameras), 5):
            seen = view.picture(scene.cameras, index).mask > 0.5
            truth = scene.images[index, ..., 3].numpy() > 127
            scores.append((seen & truth).sum() / (seen | truth).sum())
        print(f"{suffix}: silhouettes: IoU {np.mean(scores):.4f}, least {np.min(scores):.4f}")
        assert np.mean(scores) > IOU_FLOOR


@pytest.mark.slow
def test_what_was_done_is_told_in_its_order(largest):
    written = json.loads(Path(largest["files"][0]).with_name("mesh.json").read_text())
    assert written == largest
    steps = largest["steps"]
    assert [step["step"] for step in steps] == ["drop cavities", "drop pieces", "simplify", "keep the largest piece"]
    assert all(a["faces_after"] == b["faces_before"] for a, b in zip(steps, steps[1:]))
    assert steps[-1]["faces_after"] == largest["faces"] <= 6000
    assert largest["colors"] == "mean over the cameras that see it"
    assert largest["texture"]["size"] == 256
    assert {Path(name).name for name in largest["files"]} == {
        "mesh.glb",
        "mesh.png",
        "mesh.mtl",
        "mesh.obj",
        "mesh.ply",
    }


REFUSED = {
    "level": (
        ["--route", "level", "--level", "1e9"],
        ["no surface at density 1e+09", "span [", "choose a level between"],
    ),
    "level of fusion": (["--route", "fusion", "--level", "50"], ["--level is for --route level"]),
    "texture": (["--texture", "20000"], ["texture of 20000 texels"]),
    "resolution": (["--resolution", "100000"], ["resolution is 100000: give 2 to 4096"]),
    "simplify": (["--simplify", "2"], ["cannot be simplified to 2 faces"]),
    "crop": (["--crop", "0", "0", "0", "-1", "1", "1"], ["is empty"]),
    "nothing left": (["--route", "level", "--crop", "50", "50", "50", "51", "51", "51"], ["nothing is left", "crop"]),
    "reference": (["--reference", "no.ply"], ["no.ply", "no such mesh"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(case, trained, tmp_path):
    options, parts = REFUSED[case]
    refused(
        run("export", "mesh", trained.path, *LOOK, "--resolution", "48", "--output", tmp_path / "new", *options), *parts
    )
    assert not (tmp_path / "new").exists()
