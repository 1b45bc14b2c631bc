import os
import struct
from operator import attrgetter

import numpy as np
import pytest
from PIL import Image

from ssdnorm.data import EncodedImage
from ssdnorm.data.images import check_image_file
from tests.fuzz.data_kinds import png_of_size

from .small_sets import encoded, smooth_photo

PHOTO = Image.fromarray(smooth_photo(30, 41))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "LA", "P", "RGBA"])
def test_every_mode_becomes_rgb(mode):
    image = PHOTO.convert(mode)
    decoded = encoded(image, "PNG").decode()
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, image.convert("RGB"))


def test_sixteen_bits_keep_their_high_byte():
    values = (np.arange(30 * 41).reshape(30, 41) * 53 % 65536).astype(np.uint16)
    np.testing.assert_array_equal(encoded(values, "PNG").decode()[..., 1], values >> 8)


def test_transparent_pixels_keep_their_colour():
    image = PHOTO.copy()
    image.putalpha(0)
    np.testing.assert_array_equal(encoded(image, "PNG").decode(), PHOTO)


def test_cmyk_loads_in_about_its_colours():
    difference = encoded(PHOTO.convert("CMYK"), quality=95).decode().astype(int) - np.asarray(PHOTO)
    assert np.abs(difference).mean() < 5


@pytest.mark.parametrize("kind", [2, 7])  # text, bytes
def test_an_orientation_that_is_no_number_is_upright(tmp_path, kind):
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, kind, 4, b"up!\0", 0)
    (tmp_path / "a.jpg").write_bytes(encoded(PHOTO, exif=exif).data)
    assert check_image_file(tmp_path / "a.jpg") == ((30, 41), 1)


def test_pixels_stay_as_stored_whatever_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = encoded(PHOTO, exif=exif)
    assert image.size == (30, 41)
    assert image.decode().shape == (30, 41, 3)
    assert image.decode(2).shape == (15, 21, 3)
    (tmp_path / "a.jpg").write_bytes(image.data)
    assert check_image_file(tmp_path / "a.jpg") == ((30, 41), 6)


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_reduced_jpeg_is_the_mean_over_squares(reduction):
    photo = smooth_photo(160, 240)
    reduced = encoded(photo, quality=98).decode(reduction).astype(float)
    means = photo.reshape(160 // reduction, reduction, 240 // reduction, reduction, 3).mean(axis=(1, 3))
    assert np.abs(reduced - means).mean() < 1.5


def test_only_jpeg_offers_reductions():
    assert encoded(PHOTO).reductions == (1, 2, 4, 8)
    assert encoded(PHOTO, "PNG").reductions == (1,)


@pytest.mark.parametrize("kept", [0.1, 0.6, 0.99])
def test_a_truncated_jpeg_is_refused_by_name_even_with_a_thumbnail(kept, tmp_path):
    thumbnail = encoded(PHOTO.resize((8, 8))).data
    whole = encoded(smooth_photo(300, 400), quality=95, comment=thumbnail)
    assert whole.decode().shape == (300, 400, 3)
    cut = EncodedImage(whole.data[: int(kept * len(whole.data))], "cut.jpg")
    with pytest.raises(ValueError, match=r"cut\.jpg: "):
        cut.decode()
    (tmp_path / "cut.jpg").write_bytes(cut.data)
    with pytest.raises(ValueError, match=r"cut\.jpg: truncated JPEG"):
        check_image_file(tmp_path / "cut.jpg")


def test_bytes_after_the_end_of_a_jpeg_do_no_harm():
    whole = encoded(PHOTO)
    assert EncodedImage(whole.data + b"junk" * 9, "x").decode().shape == (30, 41, 3)


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\nbroken"])
def test_what_is_no_image_is_refused_by_name(data):
    for read in (EncodedImage.decode, attrgetter("size")):
        with pytest.raises(ValueError, match=r"x\.png: not an image that can be read"):
            read(EncodedImage(data, "x.png"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    for read in (EncodedImage.read, check_image_file):
        with pytest.raises(ValueError, match=r"x\.jpg: no regular file"):
            read(tmp_path / "x.jpg")


def test_a_picture_of_gigapixels_is_refused_before_it_takes_memory():
    with pytest.raises(ValueError, match=r"x\.png: Image size \(300000000 pixels\) exceeds limit of 178956970 pixels"):
        EncodedImage(png_of_size(15_000, 20_000), "x.png").decode()


@pytest.mark.filterwarnings("error")
def test_a_large_image_is_read_without_pillows_warning(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of_size(12_000, 12_000))
    check_image_file(tmp_path / "a.png")
