"""Images of more than eight bits: black stays black and white stays white, or they are refused."""

import numpy as np
import pytest
from PIL import Image

from dassl.utils import read_image

RAMP = np.arange(256, dtype=np.int64).reshape(16, 16)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_are_scaled(tmp_path, name):
    Image.fromarray((RAMP * 257).astype(np.uint16)).save(tmp_path / name)
    image = read_image(str(tmp_path / name))
    assert image.mode == "RGB"
    assert (np.asarray(image) == RAMP[..., None]).all()


def test_sixteen_bits_are_rounded(tmp_path):
    values = np.arange(65536).reshape(256, 256)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "a.png")
    assert (np.asarray(read_image(str(tmp_path / "a.png")))[..., 0] == np.floor(values * 255 / 65535 + 0.5)).all()


def test_twelve_bits_of_a_tiff_are_scaled(tmp_path):
    """Two pixels of 12 bits in three bytes, black and white, behind the shortest header."""
    entries = [
        (256, 3, 2),
        (257, 3, 1),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 110),
        (278, 3, 1),
        (279, 4, 3),
    ]
    header = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little")
    for tag, kind, value in entries:
        header += tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        header += value.to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(header.ljust(110, b"\0") + b"\x00\x0f\xff")
    assert np.asarray(read_image(str(tmp_path / "a.tif")))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(("dtype", "what"), [(np.int32, "whole numbers of 32 bits"), (np.float32, "floating-point")])
def test_numbers_without_a_white_are_refused(tmp_path, dtype, what):
    Image.fromarray(RAMP.astype(dtype)).save(tmp_path / "a.tif")
    with pytest.raises(OSError, match=rf"a\.tif.*{what}.*store it with 8 or 16 bits"):
        read_image(str(tmp_path / "a.tif"))


def test_an_image_that_is_too_large_is_not_fetched_again(tmp_path, monkeypatch):
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(OSError, match=r'a\.png" has more than 200 pixels: store it smaller$'):
        read_image(str(tmp_path / "a.png"))


def test_a_folder_in_place_of_an_image_is_told_as_such(tmp_path):
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        read_image(str(tmp_path))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "1"])
def test_eight_bits_are_pillows_conversion(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(RAMP.astype(np.uint8)).convert(mode).save(path)
    with Image.open(path) as image:
        assert read_image(str(path)).tobytes() == image.convert("RGB").tobytes()
