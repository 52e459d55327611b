"""The toy itself: a wheel loader of studded bricks with a driver and a load.

It is built in studs (x forward, y to its left, z up, wheels standing on z = 0) and is made to try a reconstruction:
thin lattice arms, pillars and rungs, wheels one can look through, beams with holes, an open cab, a concave bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recon3d.data.toy.solids import (
    Solid,
    beam,
    box,
    cylinder,
    frame_along,
    holed_cell,
    join,
    prism,
    ribbon,
    tube,
)

Color = tuple[float, float, float]
Finish = Literal["plain", "seams", "stripes"]

YELLOW: Color = (0.93, 0.58, 0.02)
RED: Color = (0.66, 0.035, 0.03)
BLUE: Color = (0.02, 0.15, 0.52)
GREEN: Color = (0.02, 0.33, 0.09)
ORANGE: Color = (0.90, 0.23, 0.01)
WHITE: Color = (0.80, 0.80, 0.76)
GREY: Color = (0.33, 0.36, 0.38)
DARK: Color = (0.09, 0.095, 0.105)
RUBBER: Color = (0.04, 0.04, 0.043)

STUD_RADIUS, STUD_HEIGHT, PLATE, BRICK = 0.3, 0.2, 0.4, 1.2
WHEEL_RADIUS = 2.0
AXLES = (-3.5, 2.5)
BEAM_Z = WHEEL_RADIUS - 0.5 * BRICK  # the axles run through the holes of the chassis
DECK_Z = BEAM_Z + BRICK
BODY_Z = DECK_Z + PLATE
FLOOR_Z = BODY_Z + BRICK + PLATE
ARM_Y = 1.3

UPRIGHT = frame_along((0.0, -1.0, 0.0), (0.0, 0.0, 1.0))  # a drawing in (x, y) stands up in (x, z); its z goes to -y


@dataclass(frozen=True)
class Part:
    """A solid of one colour (linear RGB). ``finish``: darker seams along the edges of its box, or hazard stripes."""

    solid: Solid
    color: Color
    finish: Finish = "plain"


def build_machine() -> list[Part]:
    """All parts of the wheel loader, in studs."""
    wheels = [part for x in AXLES for side in (-1, 1) for part in _wheel(x, side)]
    return [*_chassis(), *_engine(), *_cab(), *_driver(), *_arms(), *_bucket(), *_load(), *wheels]


def _studs(corner: Sequence[float], places: Sequence[tuple[int, int]]) -> Solid:
    stud = cylinder(STUD_RADIUS, 0.0, STUD_HEIGHT, 16, bevel=0.05)
    return join([stud.moved((corner[0] + i + 0.5, corner[1] + j + 0.5, corner[2])) for i, j in places])


def _brick(
    corner: Sequence[float],
    size: tuple[int, int],
    height: float,
    color: Color,
    bare: Sequence[tuple[int, int]] = (),
) -> Iterator[Part]:
    """A brick of ``size`` studs with its lowest corner at ``corner``; ``bare`` lists the places without a stud."""
    x, y, z = corner
    yield Part(box(corner, (x + size[0], y + size[1], z + height)), color, "seams")
    places = [(i, j) for i in range(size[0]) for j in range(size[1]) if (i, j) not in bare]
    if places:
        yield Part(_studs((x, y, z + height), places), color)


def _block(low: Sequence[float], high: Sequence[float], color: Color, finish: Finish = "plain") -> Part:
    return Part(box(low, high), color, finish)


def _holed_row(x: float, y: float, z: float, count: int, color: Color) -> Part:
    """A beam of ``count`` studs along x, 1 wide along y, with a hole through it at every stud."""
    cell = holed_cell(1.0, BRICK, 0.32, -1.0, 0.0).turned(UPRIGHT)
    return Part(join([cell.moved((x + i + 0.5, y, z + 0.5 * BRICK)) for i in range(count)]), color)


def _chassis() -> Iterator[Part]:
    for y in (-2.0, 1.0):
        yield _holed_row(-6.0, y, BEAM_Z, 12, GREY)
    for x in (-6.0, -0.5, 5.0):
        yield _block((x, -1.0, BEAM_Z), (x + 1.0, 1.0, DECK_Z), DARK)
    under_body = [(i, j) for i in range(12) for j in range(4) if i < 8 or (i < 11 and j in (1, 2))]
    yield from _brick((-6.0, -2.0, DECK_Z), (12, 4), PLATE, DARK, bare=under_body)
    for x in (-5.0, 1.0):  # mudguards
        for y in (-4.0, 2.0):
            yield from _brick((x, y, BODY_Z + BRICK), (3, 2), PLATE, YELLOW)
    for side in (-1.0, 1.0):  # ladders
        for x in (-0.9, 0.2):
            yield Part(beam((x, 2.12 * side, 1.5), (x, 2.12 * side, BODY_Z + BRICK), 0.24), DARK)
        for z in (1.8, 2.5, 3.2, 3.9):
            yield Part(beam((-0.9, 2.12 * side, z), (0.2, 2.12 * side, z), 0.18), DARK)


def _engine() -> Iterator[Part]:
    low, high = BODY_Z, FLOOR_Z
    every = [(i, j) for i in range(3) for j in range(4)]
    for x, length in ((-6.0, 2), (-4.0, 3)):
        yield from _brick((x, -2.0, low), (length, 4), BRICK, YELLOW, bare=every)
    yield _block((-6.0, -2.0, low + BRICK), (-1.0, 2.0, high), DARK)
    yield from _brick((-6.0, -2.0, high), (3, 4), BRICK, YELLOW, bare=[(1, 0), (1, 3)])
    yield from _brick((-3.0, -2.0, high), (2, 4), BRICK, YELLOW)
    for side in (-1.0, 1.0):  # slats of the radiator
        for x in (-5.5, -4.9, -4.3, -3.7):
            y = sorted((2.0 * side, 2.14 * side))
            yield _block((x, y[0], high + 0.2), (x + 0.3, y[1], high + 1.0), DARK)
    top = high + BRICK
    pipe = [tube(0.3, 0.18, top, top + 2.4, 20), tube(0.44, 0.3, top + 0.3, top + 1.6, 20, bevel=0.06)]
    yield Part(join(pipe).moved((-4.5, -1.5, 0.0)), GREY)
    yield Part(cylinder(0.42, top, top + 0.9, 20, bevel=0.12).moved((-4.5, 1.5, 0.0)), WHITE)
    yield _block((-7.0, -2.0, 1.8), (-6.0, 2.0, BODY_Z + BRICK), YELLOW, "stripes")
    yield Part(_studs((-7.0, -2.0, BODY_Z + BRICK), [(0, j) for j in range(4)]), YELLOW)
    lamp = cylinder(0.34, 0.0, 0.25, 16, bevel=0.08).turned(frame_along((-1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))
    yield Part(join([lamp.moved((-6.0, y, high + 0.6)) for y in (-1.4, 1.4)]), RED)


def _cab() -> Iterator[Part]:
    yield from _brick((-1.0, -2.0, BODY_Z), (3, 4), BRICK, YELLOW, bare=[(i, j) for i in range(3) for j in range(4)])
    floor = (-1.0, -2.0, FLOOR_Z - PLATE)
    yield from _brick(floor, (3, 4), PLATE, BLUE, bare=[(0, j) for j in range(4)] + [(1, 1), (1, 2)])
    roof_z = FLOOR_Z + 3.2
    for x in (-0.98, 1.58):
        for y in (-1.98, 1.58):
            yield _block((x, y, FLOOR_Z), (x + 0.4, y + 0.4, roof_z), BLUE)
    yield from _brick((-1.5, -2.0, roof_z), (4, 4), PLATE, BLUE, bare=[(0, 2)])
    yield Part(cylinder(0.4, roof_z + PLATE, roof_z + PLATE + 0.75, 20, bevel=0.18).moved((-1.0, 0.5, 0.0)), ORANGE)
    light = cylinder(0.26, 0.0, 0.22, 16, bevel=0.06).turned(frame_along((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))
    yield Part(join([light.moved((2.5, y, roof_z + 0.2)) for y in (-1.4, -0.7, 0.7, 1.4)]), WHITE)
    column, hub = (1.7, 0.0, FLOOR_Z), (1.25, 0.0, FLOOR_Z + 1.25)
    yield Part(beam(column, hub, 0.18), DARK)
    ring = tube(0.52, 0.36, -0.07, 0.07, 24).turned(frame_along(np.subtract(hub, column).tolist(), (0.0, 1.0, 0.0)))
    yield Part(join([ring.moved(hub), beam((1.25, -0.4, hub[2]), (1.25, 0.4, hub[2]), 0.12, (0.0, 0.0, 1.0))]), DARK)


def _driver() -> Iterator[Part]:
    z = FLOOR_Z
    yield _block((-0.55, -0.7, z), (0.75, 0.7, z + 0.45), RED)
    yield _block((-0.55, -0.7, z + 0.45), (-0.2, 0.7, z + 1.5), RED)
    yield _block((-0.2, -0.5, z + 0.45), (1.0, 0.5, z + 0.8), DARK)
    body = np.array([(-0.2, 0.8), (0.4, 0.8), (0.3, 1.75), (-0.1, 1.75)])
    yield Part(prism(body, None, -0.55, 0.55).turned(UPRIGHT).moved((0.0, 0.0, z)), GREEN)
    for side in (-1.0, 1.0):
        yield Part(beam((0.1, 0.62 * side, z + 1.6), (1.1, 0.4 * side, z + 1.25), 0.26), GREEN)
    yield Part(cylinder(0.4, z + 1.75, z + 2.4, 20, bevel=0.08).moved((0.1, 0.0, 0.0)), YELLOW)
    helmet = [cylinder(0.46, z + 2.25, z + 2.65, 20, bevel=0.16), cylinder(0.6, z + 2.2, z + 2.28, 20)]
    yield Part(join(helmet).moved((0.1, 0.0, 0.0)), WHITE)


def _arms() -> Iterator[Part]:
    yield from _brick((2.0, -1.0, BODY_Z), (3, 2), BRICK, YELLOW, bare=[(i, j) for i in (0, 1) for j in (0, 1)])
    for y in (-1.0, 0.0):
        yield _holed_row(2.0, y, BODY_Z + BRICK, 2, YELLOW)
    yield Part(_studs((2.0, -1.0, BODY_Z + 2 * BRICK), [(i, j) for i in (0, 1) for j in (0, 1)]), YELLOW)
    pivot_z = BODY_Z + 1.5 * BRICK
    pin = cylinder(0.3, -1.65, 1.65, 20).turned(UPRIGHT)
    yield Part(pin.moved((2.5, 0.0, pivot_z)), DARK)
    upper = np.array([(2.2, pivot_z + 0.42), (6.3, pivot_z - 0.1), (8.55, 2.1)])
    lower = np.array([(2.2, pivot_z - 0.42), (5.8, pivot_z - 1.1), (8.55, 1.35)])
    for y in (-ARM_Y, ARM_Y):
        yield Part(_lattice(upper, lower, y), RED)
    bar = cylinder(0.17, -1.45, 1.45, 16).turned(UPRIGHT)
    yield Part(join([bar.moved((6.0, 0.0, pivot_z - 0.6)), bar.moved((8.4, 0.0, 1.72))]), DARK)
    start, end = np.array([3.9, 0.0, pivot_z + 0.1]), np.array([8.75, 0.0, 3.3])
    along = frame_along((end - start).tolist(), (0.0, 1.0, 0.0))
    reach = float(np.linalg.norm(end - start))
    yield Part(cylinder(0.34, 0.0, 0.55 * reach, 20, bevel=0.08).turned(along).moved(start.tolist()), GREY)
    yield Part(cylinder(0.17, 0.5 * reach, reach, 16).turned(along).moved(start.tolist()), WHITE)


def _lattice(upper: np.ndarray, lower: np.ndarray, y: float) -> Solid:
    """An arm in the plane y = const: two bent chords with struts that zigzag between them."""

    def along(chord: np.ndarray, t: float) -> tuple[float, float, float]:
        x, z = (float(np.interp(t, (0.0, 1.0, 2.0), chord[:, axis])) for axis in (0, 1))
        return x, y, z

    bars = [beam(along(chord, k), along(chord, k + 1), 0.3) for chord in (upper, lower) for k in (0.0, 1.0)]
    stations = np.linspace(0.0, 2.0, 13)
    for k in range(len(stations) - 1):
        a, b = (upper, lower) if k % 2 else (lower, upper)
        bars.append(beam(along(a, stations[k]), along(b, stations[k + 1]), 0.22))
    bars.append(beam(along(upper, 0.0), along(lower, 0.0), 0.3))
    bars.append(beam(along(upper, 2.0), along(lower, 2.0), 0.3))
    return join(bars)


def _bucket() -> Iterator[Part]:
    inside = np.array([(9.15, 3.7), (8.8, 2.7), (8.75, 1.7), (9.1, 0.85), (9.8, 0.42), (11.5, 0.25)])
    step = np.gradient(inside, axis=0)
    right = np.stack([step[:, 1], -step[:, 0]], axis=1) / np.linalg.norm(step, axis=1, keepdims=True)
    outside = inside + 0.25 * right
    yield Part(ribbon(inside, outside, -3.4, 3.4).turned(UPRIGHT), GREY)
    side = prism(outside, None, -0.12, 0.12).turned(UPRIGHT)
    yield Part(join([side.moved((0.0, y, 0.0)) for y in (-3.4, 3.4)]), GREY)
    lip = 0.5 * (inside[-1] + outside[-1])
    teeth = [beam((lip[0] - 0.2, y, lip[1]), (lip[0] + 0.55, y, lip[1]), 0.24) for y in np.linspace(-3.1, 3.1, 7)]
    yield Part(join(teeth), WHITE)


def _load() -> Iterator[Part]:
    for color, size, at, degrees in (
        (GREEN, (2, 2), (10.3, 1.85, 0.75), 25.0),
        (BLUE, (2, 3), (10.3, -1.25, 0.75), -12.0),
        (ORANGE, (2, 1), (10.2, 0.4, 1.6), 70.0),
        (RED, (1, 2), (10.2, -1.5, 1.95), 20.0),
    ):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        for part in _brick((-0.5 * size[0], -0.5 * size[1], 0.0), size, BRICK, color):
            yield Part(part.solid.turned(turn).moved(at), color)


def _wheel(x: float, side: int) -> Iterator[Part]:
    center = (x, 3.1 * side, WHEEL_RADIUS)
    tread = [box((1.7, -0.2, 0.05), (WHEEL_RADIUS, 0.2, 0.75)), box((1.7, -0.2, -0.75), (WHEEL_RADIUS, 0.2, -0.05))]
    spoke = box((0.3, -0.17, -0.25), (1.1, 0.17, 0.25))
    lugs = [tread[k % 2].turned(_spin(k / 36)) for k in range(36)]
    rubber = [tube(1.84, 1.2, -0.8, 0.8, 48, bevel=0.2), *lugs]
    rim = [tube(1.22, 0.98, -0.6, 0.6, 40, bevel=0.05), *(spoke.turned(_spin(k / 6)) for k in range(6))]
    yield Part(join(rubber).turned(UPRIGHT).moved(center), RUBBER)
    yield Part(join(rim).turned(UPRIGHT).moved(center), WHITE)
    yield Part(cylinder(0.5, -0.4, 0.4, 20).turned(UPRIGHT).moved(center), RED)
    inner, outer = sorted((1.9 * side, 3.7 * side))
    yield Part(cylinder(0.26, -outer, -inner, 16).turned(UPRIGHT).moved((x, 0.0, WHEEL_RADIUS)), DARK)


def _spin(turns: float) -> np.ndarray:
    c, s = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
