"""A paper calculation: what a city of captures, one scene, or a CT volume of 4096^3 costs on 8, 64 and 512 GPUs.

    python scripts/scaling.py                      # the tables of docs/scaling.md
    python scripts/scaling.py --set gpu_samples=8e7 --set node_bandwidth=2e10

Every figure that goes in is in ``GIVEN``, with where it comes from; ``--set`` tries another.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

GPUS = (8, 64, 512)
SIDE, VIEWS = 4096, 3200
"""Voxels a side of the CT volume, and its views, each of SIDE x SIDE pixels."""
CAPTURES, IMAGES = 100_000, 100
STEPS = 500
"""Full steps of a CT fit on the grid."""
CONE_RAYS = 2**20
"""Rays a step of a CT fit along rays."""
ARRAYS = 4
"""Volumes of floats that a step on the grid holds: values, gradient, one in the making, and total variation's."""


@dataclass(frozen=True)
class Given:
    value: float
    what: str
    source: str
    """"measured" on two CPU cores, "counted", or "assumed" of a GPU and its surroundings: not measured yet."""


GIVEN = {
    "scene_bytes": Given(42e6, "bytes of 100 images of 800 x 800 (Lego)", "measured"),
    "decode": Given(0.0135, "core seconds to decode one of them", "measured"),
    "cpu_samples": Given(33.2e3 / 51.3e-3, "NeRF samples trained a second, two cores", "measured"),
    "cpu_projected": Given(50 * 256**3 / 1.039, "voxel crossings projected a second, two cores", "measured"),
    "cpu_back": Given(50 * 256**3 / 2.521, "voxel crossings projected back a second, two cores", "measured"),
    "table": Given(12_196_240, "numbers in the hash table (preset nerf on a GPU)", "counted"),
    "networks": Given(9_408, "numbers in its networks", "counted"),
    "batch": Given(262_144, "samples a step (preset nerf on a GPU)", "counted"),
    "gpus_a_machine": Given(8, "GPUs a machine", "assumed"),
    "cores_a_machine": Given(64, "cores a machine", "assumed"),
    "gpu_memory": Given(141e9, "bytes of GPU memory", "assumed"),
    "gpu_samples": Given(50e6, "NeRF samples trained a second by a GPU", "assumed"),
    "gpu_fit": Given(30, "seconds of training a scene on a GPU", "assumed"),
    "start": Given(5, "seconds to start a run and to end it", "assumed"),
    "gpu_projected": Given(2e11, "voxel crossings a second, forward or back, by a GPU", "assumed"),
    "machine_bandwidth": Given(3e11, "bytes a second between GPUs of a machine", "assumed"),
    "node_bandwidth": Given(4e10, "bytes a second from a GPU to other machines", "assumed"),
    "latency": Given(150e-6, "seconds that the small exchanges of a step wait", "assumed"),
    "files": Given(1e10, "bytes a second of the shared file system", "assumed"),
}


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}" if seconds / size < 100 else f"{seconds / size:.0f} {unit}"
    return f"{1e6 * seconds:.0f} µs"


def size(count: float) -> str:
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} B"


def weights_bytes(g: dict[str, float]) -> float:
    return 4 * (g["table"] + g["networks"])


def checkpoint_bytes(g: dict[str, float]) -> float:
    """Weights, two moments of Adam, a step a row of two numbers, and the occupancy grid of 128^3 (float and bools)."""
    return 3 * weights_bytes(g) + 4 * g["table"] / 2 + 6 * 128**3


def all_reduce(count: float, gpus: int, g: dict[str, float]) -> float:
    """Seconds of a ring: all but one part in N of the bytes, twice, over its slowest link."""
    slowest = g["machine_bandwidth"] if gpus <= g["gpus_a_machine"] else g["node_bandwidth"]
    return 2 * (gpus - 1) / gpus * count / slowest


def city(g: dict[str, float]) -> str:
    load = IMAGES * g["decode"]
    scene = g["start"] + load + g["gpu_fit"]
    rows = []
    for gpus in GPUS:
        rate = gpus / scene
        cores = rate * load / (gpus / g["gpus_a_machine"])
        rows.append([
            str(gpus),
            duration(CAPTURES / rate),
            f"{size(rate * g['scene_bytes'])}/s",
            f"{size(rate * checkpoint_bytes(g))}/s",
            f"{rate * (g['scene_bytes'] + checkpoint_bytes(g)) / g['files']:.1%}",
            f"{cores:.1f} of {g['cores_a_machine']:.0f}",
        ])  # fmt: skip
    heads = ["GPUs", "all captures", "reads", "writes", "of the file system", "cores a machine that decode"]
    kept = f"All checkpoints together: {size(CAPTURES * checkpoint_bytes(g))}; weights alone, in float16: "
    kept += f"{size(CAPTURES * weights_bytes(g) / 2)}."
    slow = f"As many samples on two cores: {duration(g['gpu_fit'] * g['gpu_samples'] / g['cpu_samples'])} a capture."
    return table(heads, rows) + f"\n\n{kept} {slow}"


def one_scene(g: dict[str, float]) -> str:
    rows = []
    for gpus in (1, *GPUS):
        exchange = all_reduce(weights_bytes(g), gpus, g) + g["latency"] if gpus > 1 else 0.0
        cells = [str(gpus), duration(exchange) if exchange else "0"]
        for batch in (g["batch"], gpus * g["batch"]):
            compute = batch / gpus / g["gpu_samples"]
            step = compute + exchange
            cells += [duration(step), f"{compute / step:.0%}"]
        rows.append(cells)
    heads = ["GPUs", "exchange", "step, same batch", "of it computing", "step, N times the batch", "of it computing"]
    return table(heads, rows)


def volume(g: dict[str, float]) -> str:
    voxels, crossings = SIDE**3, VIEWS * SIDE**3
    held = 4 * ARRAYS * voxels
    rows = []
    for gpus in GPUS:
        step = 2 * crossings / gpus / g["gpu_projected"]
        rows.append([
            str(gpus),
            size(held),
            size(held / gpus),
            size(4 * VIEWS * SIDE**2 / gpus),
            duration(step),
            duration(STEPS * step),
            duration(all_reduce(8 * voxels, gpus, g)),
            duration(2 * 4 * SIDE**2 / g["node_bandwidth"]),
        ])  # fmt: skip
    heads = [
        "GPUs", "a GPU holds, whole volume", "slabs", "projections, slabs", "a full step, slabs", f"{STEPS} of them",
        "exchange of a step, whole volume", "slabs",
    ]  # fmt: skip
    largest = int((g["gpu_memory"] / (4 * ARRAYS)) ** (1 / 3))
    cpu = crossings / g["cpu_projected"] + crossings / g["cpu_back"]
    last = f"The largest volume that one GPU holds whole: {largest}^3. A full step on two cores: {duration(cpu)}."
    return table(heads, rows) + f"\n\n{last}"


def cone(g: dict[str, float], half_angle: float = 5.0) -> str:
    """How many rows the rays of a slab cross besides its own, where the cone opens by so many degrees either way."""
    halo = SIDE * math.tan(math.radians(half_angle))
    rows = []
    for gpus in GPUS:
        slab = SIDE / gpus
        rows.append([
            str(gpus),
            f"{slab:.0f}",
            f"{halo:.0f}",
            f"{(slab + halo) / slab:.1f}",
            size(4 * CONE_RAYS * (slab + halo) / SIDE),
        ])  # fmt: skip
    return table(["GPUs", "rows of a slab", "rows of its halo", "work with a halo", "or: sums of rays, a step"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another figure than GIVEN's")
    g = {name: given.value for name, given in GIVEN.items()}
    for change in parser.parse_args().set:
        name, _, value = change.partition("=")
        if name not in g:
            parser.error(f"{name} is not among {', '.join(g)}")
        g[name] = float(value)
    rows = [[f"`{name}`", given.what, f"{g[name]:.4g}", given.source] for name, given in GIVEN.items()]
    parts = {
        "given": table(["name", "what", "value", "source"], rows),
        "city": city(g),
        "one scene": one_scene(g),
        "volume": volume(g),
        "cone": cone(g),
    }
    for name, part in parts.items():
        print(f"<!-- {name} -->\n{part}\n")


if __name__ == "__main__":
    main()
