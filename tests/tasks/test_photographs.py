"""What the tasks on photographs share: the pixels across a box, pieces of a hull, and pictures."""

import pytest
import torch
from geometry.ball import DISTANCE, ball_scene, cameras_around

from recon3d.geometry.boxes import Normalizer
from recon3d.tasks.photographs import (
    _main_parts,
    composite_pixels,
    depth_picture,
    pixels_across,
    reference_image,
    to_uint8,
)


@pytest.fixture(scope="module")
def scene():
    return ball_scene(40, size=32)


def test_pixels_across_the_box():
    """Sixteen cells more or less: what a side of the box measures at its middle, in pixels."""
    cameras = cameras_around(12, size=200, center=(1.0, 2.0, 3.0))
    focal = float(cameras.focal[0, 0])
    for half in (0.5, 1.0, 3.0):
        found = pixels_across(cameras, Normalizer((1.0, 2.0, 3.0), half))
        assert found % 16 == 0 and 0 <= found - 2 * half * focal / DISTANCE < 16
    inside = pixels_across(cameras, Normalizer((1.0, 2.0, 3.0), 100.0))
    assert 0 <= inside - 4 * focal < 16


def test_pixels_over_a_background():
    pixels = torch.tensor([[255, 0, 0, 255], [255, 0, 0, 0], [200, 100, 0, 51]], dtype=torch.uint8)
    result = composite_pixels(pixels, torch.tensor([[0.0, 0.0, 1.0]]))
    a = 51 / 255
    expected = torch.tensor([[1, 0, 0], [0, 0, 1], [a * 200 / 255, a * 100 / 255, 1 - a]])
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(composite_pixels(pixels[:, :3], torch.ones(1, 3)), pixels[:, :3] / 255)


def test_reference_images(scene):
    for background, value in (("white", 1.0), ("black", 0.0)):
        image = reference_image(scene, 0, background)
        assert image.shape == (32, 32, 3)
        torch.testing.assert_close(image[0, 0], torch.full((3,), value))


def test_depth_picture_is_bright_near_and_black_where_nothing_is():
    depth = torch.tensor([[1.0, 3.0, 0.0]])
    picture = depth_picture(depth, torch.tensor([[1.0, 1.0, 0.0]]))[0, :, 0]
    assert picture[0] > picture[1] > picture[2] == 0
    assert not depth_picture(depth, torch.zeros(1, 3)).any()


def test_to_uint8_rounds_and_clamps():
    image = torch.tensor([[[-1.0, 0.5, 2.0]]])
    assert to_uint8(image).tolist() == [[[0, 128, 255]]]


def test_stray_cells_are_not_main_parts():
    cells = torch.zeros(16, 16, 16, dtype=torch.bool)
    cells[4:10, 4:10, 4:10] = True
    cells[11:14, 11:14, 11:14] = True  # an eighth of the largest: part of the scene
    expected = cells.clone()
    cells[0, 0, 0:3] = True
    assert torch.equal(_main_parts(cells), expected)
