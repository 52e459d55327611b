"""Draws docs/images/ct-geometry.png from the toolkit's own geometries.

Every point and arrow is a number of a :class:`recon3d.geometry.scanner.ScanGeometry`, so the figure cannot tell another
convention than the code.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from recon3d.geometry.scanner import ScanGeometry

ANGLE = math.radians(30)
SOURCE, DETECTOR = 90.0, 60.0
COLUMNS, ROWS, PITCH = 9, 7, 9.0
OFFSET, SHIFT = 10.0, 16.0
BLUE, RED, GREY, GREEN = "#1f5fa8", "#c0392b", "#777777", "#2d8a4e"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/images/ct-geometry.png"))
    figure = plt.figure(figsize=(14, 10.5), layout="constrained")
    left, middle = figure.add_subplot(221), figure.add_subplot(222)
    right, last = figure.add_subplot(223), figure.add_subplot(224, projection="3d", computed_zorder=False)
    parallel(left)
    fan(middle)
    offsets(right)
    cone(last)
    figure.savefig(parser.parse_args().output, dpi=80)


def parallel(axes: Axes) -> None:
    scan = ScanGeometry.parallel([ANGLE], COLUMNS, PITCH)
    plan(axes, "parallel rays at the angle t, seen from +z")
    detector, u, ray = (part[0, :2].numpy() for part in (scan.detector, scan.u, scan.source))
    detector = detector + 55 * ray  # where along the rays the detector stands does not matter
    pixels = [detector + (c - (COLUMNS - 1) / 2) * u for c in range(COLUMNS)]
    screen(axes, pixels, u)
    for pixel in pixels:
        axes.annotate(
            "", pixel - 2 * ray, pixel - 118 * ray, arrowprops={"arrowstyle": "->", "color": RED, "alpha": 0.5}
        )
    label(axes, pixels[2] - 112 * ray, "rays (sin t, -cos t, 0):\n`source` of a view", RED, (-12, 8), "right")
    step(axes, detector, u, ray)
    turn(axes, u)


def fan(axes: Axes) -> None:
    plan(axes, "divergent rays: fan, and the middle of a cone, seen from +z")
    scan = ScanGeometry.fan([ANGLE], COLUMNS, PITCH, SOURCE, DETECTOR)
    arc = replace(scan, curved=True)
    source, detector, u = (part[0, :2].numpy() for part in (scan.source, scan.detector, scan.u))
    pixels = points(scan)
    screen(axes, pixels, u)
    bent = np.array(points(arc))
    axes.plot(*bent.T, "o-", color=GREEN, markersize=3, linewidth=1)
    label(axes, bent[0], "curved: an arc about the source,\nu its tangent in the middle", GREEN, (-6, -16), "right")
    for pixel in pixels:
        axes.plot(*np.stack([source, pixel]).T, color=RED, alpha=0.4, linewidth=1)
    axes.plot(*source, "*", color=RED, markersize=14)
    label(axes, source, "source", RED, (12, 0), "left")
    step(axes, detector, u, (detector - source) / np.linalg.norm(detector - source))
    between(axes, source, np.zeros(2), "source_origin", 1)
    between(axes, np.zeros(2), detector, "origin_detector", 1)
    turn(axes, u)


def offsets(axes: Axes) -> None:
    plan(axes, "axis_offset and detector_offset, t = 0: both along u")
    plain = ScanGeometry.fan([0.0], COLUMNS, PITCH, SOURCE, DETECTOR)
    scan = ScanGeometry.fan([0.0], COLUMNS, PITCH, SOURCE, DETECTOR, axis_offset=OFFSET, detector_offset=SHIFT)
    source, u = scan.source[0, :2].numpy(), scan.u[0, :2].numpy()
    straight = source + (plain.detector - plain.source)[0, :2].numpy()
    axes.plot(*np.stack([source, straight]).T, color=GREY, linewidth=1, linestyle="--")
    pixels = points(scan)
    screen(axes, pixels, u)
    for end in (pixels[0], pixels[-1]):
        axes.plot(*np.stack([source, end]).T, color=RED, alpha=0.4, linewidth=1)
    axes.plot(*source, "*", color=RED, markersize=14)
    label(axes, source, "source", RED, (12, 0), "left")
    foot = np.array([source[0], 0.0])
    arrow(axes, foot, np.zeros(2), BLUE)
    label(
        axes,
        foot,
        "axis_offset:\nthe axis lies so far along u\nfrom the line between\nsource and detector",
        BLUE,
        (-22, 26),
        "right",
    )
    low = np.array([0.0, -12.0])
    arrow(axes, straight + low, pixels[COLUMNS // 2] + low, BLUE)
    label(axes, straight + low, "detector_offset:\nthe detector alone is moved", BLUE, (-10, -4), "right")
    pale = points(replace(scan, detector=scan.source + plain.detector - plain.source))
    axes.plot(*np.array(pale).T, color=GREY, linewidth=2, alpha=0.6)


def cone(axes: Axes3D) -> None:
    axes.set_title("a view in space: what its twelve numbers are", fontsize=12)
    scan = ScanGeometry.cone([ANGLE], COLUMNS, ROWS, PITCH, SOURCE, DETECTOR)
    source, detector, u, v = (part[0].numpy() for part in (scan.source, scan.detector, scan.u, scan.v))
    for axis, name in zip(np.eye(3), "xyz"):
        axes.quiver(0, 0, 0, *(axis * (58 if name == "z" else 45)), color=GREY, arrow_length_ratio=0.1, linewidth=1)
        axes.text(*(axis * (64 if name == "z" else 50)), name, color=GREY)
    axes.text(0, -3, 56, "axis of rotation", color=GREY, fontsize=9, ha="right")
    half = 17
    box = np.array(list(itertools.product((-half, half), repeat=3)))
    for a, b in itertools.combinations(box, 2):
        if (a != b).sum() == 1:
            axes.plot(*np.stack([a, b]).T, color="black", linewidth=0.8, alpha=0.6)
    axes.text(half, half, -half - 9, "volume [z, y, x]", fontsize=9)

    def at(column: float, row: float) -> np.ndarray:
        return detector + (column - (COLUMNS - 1) / 2) * u + (row - (ROWS - 1) / 2) * v

    corners = [
        at(c, r) for c, r in ((-0.5, -0.5), (COLUMNS - 0.5, -0.5), (COLUMNS - 0.5, ROWS - 0.5), (-0.5, ROWS - 0.5))
    ]
    axes.add_collection3d(Poly3DCollection([corners], facecolor="#cfe0f3", edgecolor=BLUE, alpha=0.5))
    for c in range(1, COLUMNS):
        axes.plot(*np.stack([at(c - 0.5, -0.5), at(c - 0.5, ROWS - 0.5)]).T, color=BLUE, linewidth=0.4)
    for r in range(1, ROWS):
        axes.plot(*np.stack([at(-0.5, r - 0.5), at(COLUMNS - 0.5, r - 0.5)]).T, color=BLUE, linewidth=0.4)
    for corner in corners:
        axes.plot(*np.stack([source, corner]).T, color=RED, alpha=0.35, linewidth=1)
    axes.scatter(*source, color=RED, marker="*", s=140)
    axes.text(*(source + np.array([0, 0, 7])), "source", color=RED)
    axes.scatter(*detector, color=BLUE, s=18)
    axes.text(*at(COLUMNS - 0.5, ROWS + 0.4), "detector: its centre, u and v", color=BLUE, fontsize=9, ha="center")
    for vector, name in ((u, "u: to the next column"), (v, "v: to the next row")):
        axes.quiver(*detector, *(2 * vector), color="black", arrow_length_ratio=0.3, linewidth=2)
        axes.text(*(detector + 2.5 * vector), name, fontsize=9, va="center")
    axes.scatter(*at(0, 0), color=BLUE, s=18)
    axes.text(*at(-1, 0), "column 0, row 0", color=BLUE, fontsize=9, ha="right", va="center")
    axes.set_box_aspect((1, 1, 0.62), zoom=1.45)
    reach = 82
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-0.62 * reach, 0.62 * reach))
    axes.view_init(elev=22, azim=-38)
    axes.set_axis_off()


def points(scan: ScanGeometry) -> list[np.ndarray]:
    """The middles of a view's pixels in the plane."""
    rays = scan.pixels(*(values for values in _pixels(scan)))
    return [point[:2].numpy() for point in rays]


def _pixels(scan: ScanGeometry):  # type: ignore[no-untyped-def]
    import torch

    column = torch.arange(scan.columns, dtype=torch.float64)
    return torch.zeros(scan.columns, dtype=torch.int64), torch.zeros_like(column), column


def plan(axes: Axes, title: str) -> None:
    """x to the right, y up, the axis of rotation in the middle, the object about it."""
    axes.set_title(title, fontsize=12)
    axes.set(xlim=(-105, 105), ylim=(-96, 92), aspect="equal")
    axes.set_axis_off()
    for x, y, name in ((42, 0, "x"), (0, 42, "y")):
        axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": GREY})
        axes.text(x * 1.1, y * 1.1, name, color=GREY, ha="center", va="center")
    axes.add_patch(plt.Circle((0, 0), 26, fill=True, facecolor="#f2ead8", edgecolor="#b8a878", zorder=0))
    axes.plot(0, 0, "o", color="black", markersize=4)
    axes.text(-3, -7, "axis (z)", fontsize=9, ha="right")


def turn(axes: Axes, u: np.ndarray) -> None:
    """The angle from x to u."""
    sweep = np.linspace(0, math.atan2(u[1], u[0]), 30)
    axes.plot(34 * np.cos(sweep), 34 * np.sin(sweep), color="black", linewidth=1)
    axes.text(39 * math.cos(sweep[15]), 39 * math.sin(sweep[15]), "t", fontsize=12, ha="center", va="center")
    far = 42 * u / np.linalg.norm(u)
    axes.plot(*np.stack([np.zeros(2), far]).T, color=BLUE, linestyle=":", linewidth=1.2)


def screen(axes: Axes, pixels: list[np.ndarray], u: np.ndarray) -> None:
    """A flat detector: its line, and ticks between its pixels."""
    ends = np.stack([pixels[0] - u / 2, pixels[-1] + u / 2])
    axes.plot(*ends.T, color=BLUE, linewidth=3)
    axes.plot(*np.array(pixels).T, "o", color="white", markeredgecolor=BLUE, markersize=5)
    label(axes, pixels[0], "column 0", BLUE, (-12, 2), "right")


def step(axes: Axes, detector: np.ndarray, u: np.ndarray, ray: np.ndarray) -> None:
    """u at the detector's middle."""
    beside = detector + 7 * ray
    arrow(axes, beside, beside + 2 * u, "black")
    label(
        axes,
        beside + 2 * u,
        "u, twice: one is the step to\nthe next column, (cos t, sin t, 0) pitch",
        "black",
        (6, 24 if ray[1] > 0 else -14),
        "left",
    )


def between(axes: Axes, begin: np.ndarray, end: np.ndarray, text: str, side: int) -> None:
    along = (end - begin) / np.linalg.norm(end - begin)
    axes.plot(*np.stack([begin, end]).T, color="black", linewidth=0.8, linestyle="--")
    middle = 0.55 * begin + 0.45 * end
    aside = side * np.array([-along[1], along[0]]) * 4
    angle = math.degrees(math.atan2(along[1], along[0]))
    angle = angle + 180 if angle < -90 else angle
    axes.text(*(middle + aside), text, rotation=angle, ha="center", va="center", fontsize=9, rotation_mode="anchor")


def arrow(axes: Axes, begin: np.ndarray, end: np.ndarray, color: str) -> None:
    axes.annotate(
        "", end, begin, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
    )


def label(axes: Axes, at: np.ndarray, text: str, color: str, offset: tuple[int, int], align: str) -> None:
    axes.annotate(text, at, offset, textcoords="offset points", color=color, fontsize=9, ha=align, va="center")


if __name__ == "__main__":
    main()
