import numpy as np
import pytest
from scipy import ndimage

from quantskew.data.attributes import digit_attributes, slant_degrees, stroke_width


def _bar(width: float, side: int = 64) -> np.ndarray:
    x = np.arange(side) - (side - 1) / 2
    bar = np.clip(width / 2 + 0.5 - np.abs(x), 0, 1)[None, :].repeat(side, 0)
    bar[:8] = bar[-8:] = 0
    return (bar * 255).astype(np.uint8)


@pytest.mark.parametrize("angle", [-30, -10, 0, 5, 20, 40])
def test_slant_is_the_angle_a_bar_was_sheared_by(angle):
    # x' = x + y·tan(angle) going up, that is −y in rows
    shear = np.tan(np.radians(angle))
    middle = 31.5
    matrix = np.array([[1, 0], [shear, 1]])
    sheared = ndimage.affine_transform(
        _bar(5).astype(float), matrix, offset=[0, -shear * middle], order=1
    )
    found = slant_degrees(sheared.clip(0, 255).astype(np.uint8)[None, None])[0]
    assert found == pytest.approx(angle, abs=0.5)


def test_slant_agrees_with_the_regression_of_x_on_y():
    image = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    y, x = np.mgrid[:28, :28]
    slope = np.polyfit(y.ravel(), x.ravel(), 1, w=np.sqrt(image.ravel() / 255.0))[0]
    assert slant_degrees(image[None])[0] == pytest.approx(np.degrees(np.arctan(-slope)), abs=1e-4)


@pytest.mark.parametrize("width", [2, 4, 6, 8])
def test_stroke_is_the_width_of_a_long_bar(width):
    bar = _bar(width)
    length = 48  # of the bar: its ends are outline too
    expected = 2 * width * length / (2 * length + 2 * width) / 64
    assert stroke_width(bar[None, None])[0] == pytest.approx(expected, rel=0.03)


def test_an_image_without_ink_has_no_slant_and_no_stroke():
    empty = np.zeros((1, 1, 28, 28), np.uint8)
    assert slant_degrees(empty)[0] == 0
    assert stroke_width(empty)[0] == 0


def test_groups_are_cut_at_the_given_lines_and_keep_their_order():
    images = np.stack([_bar(2), _bar(10)])[:, None]
    groups = digit_attributes(images, stroke=(0.05, 0.1))
    assert list(groups["stroke"]) == ["thin", "bold"]
    assert list(groups["stroke"].categories) == ["thin", "medium", "bold"]
    assert list(groups["slant"]) == ["upright", "upright"]


def test_grey_in_three_channels_is_as_in_one():
    images = np.stack([_bar(2), _bar(10)])[:, None]
    for name, one in digit_attributes(images).items():
        assert list(digit_attributes(images.repeat(3, 1))[name]) == list(one)
