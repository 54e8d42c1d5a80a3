import io
import struct
import zlib

import data_layouts as layouts
import numpy as np
import PIL.Image
import pytest

from quantskew.data import decoding
from quantskew.data.decoding import UnusableError, decode, decode_all


def _bytes(array, kind, **options):
    stream = io.BytesIO()
    PIL.Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def test_pixels_of_the_right_size_are_untouched():
    grey, colour = layouts.pixels(1, 28, 28)[0], layouts.pixels(1, 28, 28, 3)[0]
    assert (decode(grey, size=28, channels=1)[0] == grey).all()
    assert (decode(_bytes(grey, "PNG"), size=28, channels=1)[0] == grey).all()
    assert (decode(colour, size=28, channels=3) == colour.transpose(2, 0, 1)).all()
    assert (decode(grey, size=28, channels=3) == grey).all()


def test_the_middle_square_is_taken():
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = layouts.pixels(1, 10, 10)[0]
    assert (decode(wide, size=10, channels=1)[0] == wide[:, 10:20]).all()
    assert (decode(wide.T.copy(), size=10, channels=1)[0] == wide[:, 10:20].T).all()


@pytest.mark.parametrize(("height", "width"), [(10, 30), (40, 12), (12, 40), (20, 20)])
def test_images_need_not_be_squares(height, width):
    image = np.zeros((height, width), np.uint8)
    inner = min(height, width // 2)  # the largest middle part twice as wide as high
    top, left = (height - inner) // 2, (width - 2 * inner) // 2
    image[top : top + inner, left : left + 2 * inner] = layouts.pixels(1, inner, 2 * inner)[0]
    kept = image[top : top + inner, left : left + 2 * inner]
    found = decode(image, size=(inner, 2 * inner), channels=1)[0]
    assert (found == kept).all()
    pixels, _, unusable = decode_all([image], 1, size=(inner, 2 * inner), channels=1)
    assert not unusable
    assert (pixels[0, 0] == kept).all()


def test_shrinking_averages_instead_of_skipping():
    fine = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (64, 64))
    fine[:64] //= 2
    small = decode(fine, size=8, channels=1)[0]
    assert np.allclose(small[1:3, 1:-1], 63, atol=2)
    assert np.allclose(small[5:7, 1:-1], 127, atol=2)


def test_a_photo_turned_on_its_side_by_its_tag_is_turned_back():
    photo = layouts.pixels(1, 16, 16, 3)[0]
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    turned = decode(_bytes(photo, "PNG", exif=exif), size=16, channels=3)
    assert (turned == np.rot90(photo, -1).transpose(2, 0, 1)).all()


def test_a_large_jpeg_is_decoded_as_if_in_full():
    blocks = layouts.pixels(1, 4, 4, 3)[0].repeat(64, 0).repeat(64, 1)
    full = np.asarray(PIL.Image.fromarray(blocks).resize((32, 32), PIL.Image.Resampling.BILINEAR))
    found = decode(_bytes(blocks, "JPEG", quality=100), size=32, channels=3)
    assert np.abs(found.transpose(1, 2, 0).astype(int) - full).max() < 3


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "empty file"),
        (b"GIF of a kind", "not an image"),
        (layouts.picture(0, 64, 64)[:400], "unreadable: .*[Tt]runcated"),
        (layouts.picture(0, 64, 64, "PNG")[:60], "unreadable|not an image"),
        (layouts.picture(0, 64, 32), "64×32 pixels, every image of this set has 64×64"),
        (np.full((64, 64), 3, np.uint8), "constant: every pixel is 3"),
        (np.zeros((64, 64), np.float32), "pixels are float32"),
        (_bytes(layouts.pixels(1, 64, 64)[0].astype(np.uint16) * 9, "PNG"), "more than 8 bits"),
    ],
)
def test_what_cannot_be_a_sample_says_why(image, reason):
    with pytest.raises(UnusableError, match=reason):
        decode(image, size=16, channels=1, native=(64, 64))


def test_a_missing_file_and_a_folder_say_why(tmp_path):
    with pytest.raises(UnusableError, match="No such file"):
        decode(tmp_path / "lost.jpg", size=8, channels=1)
    with pytest.raises(UnusableError, match="Is a directory"):
        decode(tmp_path, size=8, channels=1)


def test_all_are_decoded_in_their_places_with_equal_digests_for_equal_pixels():
    images = list(layouts.pixels(300, 12, 12))
    images[7] = images[250]
    images[100] = b""
    pixels, digests, unusable = decode_all(iter(images), 300, size=12, channels=1)
    assert unusable == {100: "empty file"}
    for place in set(range(300)) - {100}:
        assert (pixels[place, 0] == images[place]).all()
    assert digests[7] == digests[250]
    assert len(np.unique(digests)) == 299


def test_images_are_read_ahead_by_a_few_chunks_only(monkeypatch):
    read, done, furthest = 0, 0, 0

    def images():
        nonlocal read
        for image in layouts.pixels(4000, 8, 8):
            read += 1
            yield image

    def counting(image, **options):
        nonlocal done, furthest
        done += 1
        furthest = max(furthest, read - done)
        return decode(image, **options)

    monkeypatch.setattr(decoding, "decode", counting)
    decode_all(images(), 4000, size=8, channels=1)
    assert done == 4000
    assert furthest < 2000


def test_a_picture_that_says_it_has_more_pixels_than_any_is_not_unpacked():
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    content += struct.pack(">I", zlib.crc32(header)) + struct.pack(">I4sI", 0, b"IDAT", 0)
    with pytest.raises(UnusableError, match="3600000000 pixels"):
        decode(content, size=28, channels=3)
