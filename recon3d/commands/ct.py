"""recon3d ct fbp|fdk|sirt|cgls|tv SCAN: reconstruct a scan by a classical method."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from recon3d.commands import volumes
from recon3d.config import Device, ScanSource, to_plain
from recon3d.config.classical import CglsConfig, FbpConfig, SirtConfig, TvConfig
from recon3d.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from recon3d.geometry.voxels import VolumeGrid

METHODS: dict[str, tuple[Any, str]] = {
    "fbp": (FbpConfig(), "filtered back-projection: parallel rays and fans"),
    "fdk": (FbpConfig(), "the same of a cone beam (Feldkamp, Davis and Kress)"),
    "sirt": (SirtConfig(), "simultaneous iterative reconstruction"),
    "cgls": (CglsConfig(), "conjugate gradients on the least squares problem"),
    "tv": (TvConfig(), "least squares and total variation, non-negative"),
}


@dataclass(frozen=True)
class Classical(ScanSource):
    """Reconstruct a scan. What is left open is chosen from the projections alone."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SCAN")] = tyro.MISSING
    """File of projections, folder of TIFF pages, or a sidecar that names its data."""
    options: Annotated[FbpConfig | SirtConfig | CglsConfig | TvConfig, tyro.conf.arg(name="")] = tyro.MISSING
    reference: Path | None = None
    """Volume to measure the result against."""
    mask: Path | None = None
    """Mask to measure the result against, cut at Otsu's threshold."""
    format: Literal["npz", "nrrd", "vti", "tif", "nii.gz", "h5", "mha"] = "npz"
    """Of the volume's file, where --output names none."""
    output: Path | None = None
    """File of the volume (default: OUT/ct-METHOD-SCAN/volume.FORMAT); a picture and the figures go beside it."""
    out: Path = Path("runs")
    """Folder of all runs."""
    device: Device = "auto"
    threads: int | None = None
    """CPU threads (default: one per physical core)."""


def main(args: list[str]) -> dict[str, Any]:
    names = "|".join(METHODS)
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: recon3d ct {names} SCAN [options]\n")
        print("".join(f"  {name:<5} {what}\n" for name, (_, what) in METHODS.items()))
        print("recon3d ct fbp --help shows the options, and so on; a neural field: recon3d train ct_sparse SCAN.")
        raise SystemExit(0)
    if args[0] not in METHODS:
        raise UserError(f"ct: no method {args[0]!r}: recon3d ct {names} SCAN")
    options = parse(args[0], args[1:])

    from recon3d.classical import Projector, reconstruct
    from recon3d.tasks import ct_data, ct_evaluation
    from recon3d.training.machine import set_up

    begin = time.perf_counter()
    method = args[0]
    device = set_up(options.device, options.threads)
    name = options.data.name.split(".")[0]
    target = volumes.checked(options.output or options.out / f"ct-{method}-{name}" / f"volume.{options.format}")
    scan = ct_data.read(options.data, options)
    # Before the reconstruction: it may take long, and a wrong name would lose it.
    reference, mask = (ct_evaluation.read_like(path, scan.grid.shape) for path in (options.reference, options.mask))
    projections, geometry = ct_data.tensor_of(scan, device), scan.geometry.to(device)
    with progress(method) as tell:
        found = reconstruct(method, projections, geometry, scan.grid, options.options, tell, scan.counts)
    predicted = Projector(geometry, scan.grid).forward(found.volume)
    figures: dict[str, Any] = {
        "method": method,
        "scan": str(options.data),
        "views": len(scan),
        "shape_zyx": list(scan.grid.shape),
        "spacing_xyz": list(scan.grid.spacing),
        "options": to_plain(options.options),
        **{f"chosen_{name}": value for name, value in found.chosen.items()},
        **ct_evaluation.residuals(predicted, projections, scan.counts),
    }
    if reference is not None:
        figures |= ct_evaluation.against(found.volume, reference)
    if mask is not None:
        figures |= ct_evaluation.overlap(found.volume, mask)
    figures["notes"] = list(scan.notes)
    written = write(target, found.volume, scan.grid, figures, begin)
    print(told(figures))
    print(f"written: {', '.join(written)}")
    return {**figures, "files": written}


def parse(method: str, args: list[str]) -> Classical:
    """The options of a method."""
    default = METHODS[method][0]
    kind = dataclasses.make_dataclass(
        "Classical",
        [("options", Annotated[type(default), tyro.conf.arg(name="")], dataclasses.field(default=default))],
        bases=(Classical,),
        frozen=True,
    )
    kind.__doc__ = f"{METHODS[method][1][0].upper()}{METHODS[method][1][1:]}. {Classical.__doc__}"
    return tyro.cli(kind, args=args, prog=f"recon3d ct {method}")


@contextmanager
def progress(label: str) -> Iterator[Any]:
    """A bar that is told the steps done and their number, and begins anew when the number changes."""
    from tqdm import tqdm

    with tqdm(desc=label, unit="step", leave=True) as bar:

        def tell(done: int, total: int) -> None:
            if bar.total != total or done < bar.n:
                bar.reset(total)
            bar.update(done - bar.n)

        yield tell


def write(path: Path, volume: Tensor, grid: VolumeGrid, figures: dict[str, Any], begin: float) -> list[str]:
    """The volume, and beside it a picture of its middle slices and the figures; each whole or not at all."""
    import imageio.v3 as iio

    from recon3d.files import write_bytes
    from recon3d.tasks import ct_pictures

    volumes.write(path, volume, grid)
    stem = path.name.split(".")[0]
    slices, values = path.with_name(f"{stem}.png"), path.with_name(f"{stem}.json")
    picture = ct_pictures.compared(volume, None, ct_pictures.bright(volume))
    write_bytes(slices, iio.imwrite("<bytes>", picture, extension=".png"))
    figures["seconds"] = round(time.perf_counter() - begin, 3)
    write_bytes(values, (json.dumps(figures, indent=2) + "\n").encode())
    return [str(path), str(slices), str(values)]


def told(figures: dict[str, Any]) -> str:
    """The figures of a reconstruction in lines to read."""
    size = " x ".join(str(n) for n in reversed(figures["shape_zyx"]))
    first = f"{figures['method']}: {size} voxels of {figures['views']} views"
    for name in ("iterations", "weight"):
        if f"chosen_{name}" in figures:
            first += f", {name} {figures[f'chosen_{name}']:.4g} (by held-out views)"
    return "\n".join([f"{first}, {figures['seconds']:.1f} s", *volumes.lines(figures)])
