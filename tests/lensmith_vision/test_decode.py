"""Pictures of every kind come out as the same upright sRGB pixels."""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from lensmith_vision.decode import FORMATS, ImageInfo, decode, inspect

Encode = Callable[..., bytes]
Pixels = npt.NDArray[np.uint8]


def distance(left: Pixels, right: Pixels) -> float:
    assert left.shape == right.shape
    return float(np.abs(left.astype(int) - right.astype(int)).mean())


@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 2.0),
        ("JPEG", {"quality": 95, "progressive": True}, 2.0),
        ("PNG", {}, 0.0),
        ("WEBP", {"lossless": True}, 0.0),
        ("BMP", {}, 0.0),
        ("TIFF", {}, 0.0),
        ("TIFF", {"compression": "tiff_lzw"}, 0.0),
        ("TIFF", {"compression": "tiff_deflate"}, 0.0),
        ("PPM", {}, 0.0),
        ("JPEG2000", {}, 0.0),
        ("AVIF", {"quality": 95}, 3.0),
        ("GIF", {}, 12.0),
    ],
)
def test_decode_gives_the_pixels_when_format_is_supported(
    encode: Encode, picture: Image.Image, pixels: Pixels, format: str, options: dict[str, object], tolerance: float
) -> None:
    data = encode(picture, format, **options)
    assert distance(decode(data), pixels) <= tolerance
    assert inspect(data) == ImageInfo(format, 160, 120, FORMATS[format])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_decode_stands_upright_when_exif_turns(
    encode: Encode, picture: Image.Image, pixels: Pixels, format: str, orientation: int
) -> None:
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    turned = picture.transpose(back[orientation]) if orientation in back else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    qualities: dict[str, dict[str, object]] = {
        "JPEG": {"quality": 95},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 95},
    }
    data = encode(turned, format, exif=exif, **qualities.get(format, {}))
    assert distance(decode(data), pixels) <= (3.0 if format == "AVIF" else 2.0)
    info = inspect(data)
    assert (info.width, info.height) == (160, 120)


# Pillow warns of such EXIF, which is no reason to refuse the picture.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_decode_ignores_orientation_when_exif_is_broken(encode: Encode, picture: Image.Image, pixels: Pixels) -> None:
    data = encode(picture, "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert distance(decode(data), pixels) <= 2.0


def test_decode_converts_colours_when_jpeg_is_cmyk(encode: Encode, picture: Image.Image, pixels: Pixels) -> None:
    data = encode(picture.convert("CMYK"), "JPEG", quality=95)
    assert distance(decode(data), pixels) <= 4.0


def test_decode_converts_to_srgb_when_profile_is_another(encode: Encode) -> None:
    flat = Image.new("RGB", (16, 16), (120, 130, 140))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    # A profile for another kind of pixels is ignored.
    assert decode(encode(flat, "PNG", icc_profile=lab))[0, 0].tolist() == [120, 130, 140]
    # A linear-light RGB profile brightens mid tones in sRGB.
    assert decode(encode(flat, "PNG", icc_profile=linear_profile()))[0, 0].tolist() == pytest.approx(
        [182, 189, 195], abs=4
    )


def linear_profile() -> bytes:
    """sRGB's own profile with its tone curves replaced by straight lines."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", profile, 128)
    for index in range(count):
        tag, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            profile[offset : offset + 12] = b"curv" + bytes(8)
            struct.pack_into(">I", profile, 132 + 12 * index + 8, 12)
        if tag == b"desc":
            profile[offset + 28 : offset + 36] = "lin1".encode("utf-16-be")
    return bytes(profile)


def test_decode_ignores_profile_when_it_is_garbage(encode: Encode, picture: Image.Image, pixels: Pixels) -> None:
    assert distance(decode(encode(picture, "PNG", icc_profile=b"no profile at all" * 9)), pixels) == 0


def test_decode_composes_over_white_when_there_is_alpha(encode: Encode) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    grey = Image.new("LA", (4, 4), (0, 128))
    assert decode(encode(clear, "PNG"))[0, 0].tolist() == [255, 255, 255]
    assert decode(encode(half, "WEBP", lossless=True))[0, 0].tolist() == pytest.approx([255, 127, 127], abs=1)
    assert decode(encode(grey, "PNG"))[0, 0].tolist() == pytest.approx([127, 127, 127], abs=1)


def test_decode_composes_over_white_when_a_colour_is_transparent(encode: Encode) -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert decode(encode(palette, "PNG"))[0, 0].tolist() == [10, 200, 30]
    assert decode(encode(palette, "PNG", transparency=1))[0, 0].tolist() == [255, 255, 255]
    assert decode(encode(palette, "GIF", transparency=1))[0, 0].tolist() == [255, 255, 255]
    keyed = Image.new("RGB", (4, 4), (9, 9, 9))
    assert decode(encode(keyed, "PNG", transparency=(9, 9, 9)))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_decode_scales_by_full_range_when_grey_has_sixteen_bits(encode: Encode, format: str) -> None:
    values = np.array([[0, 128 * 257, 65535]], dtype=np.uint16)
    data = encode(Image.fromarray(values), format)
    assert decode(data)[0, :, 0].tolist() == pytest.approx([0, 128, 255], abs=1)


def test_decode_scales_when_tiff_has_floats(encode: Encode) -> None:
    unit = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    wide = np.array([[-5.0, np.nan, 95.0]], dtype=np.float32)
    assert decode(encode(Image.fromarray(unit), "TIFF"))[0, :, 0].tolist() == pytest.approx([0, 128, 255], abs=1)
    assert decode(encode(Image.fromarray(wide), "TIFF"))[0, :, 0].tolist() == pytest.approx([0, 13, 255], abs=1)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_decode_gives_three_channels_when_picture_has_one(encode: Encode, picture: Image.Image, mode: str) -> None:
    assert decode(encode(picture.convert(mode), "PNG")).shape == (120, 160, 3)


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_decode_gives_first_frame_when_picture_moves(encode: Encode, format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == pytest.approx([250, 0, 0], abs=8)


def test_decode_gives_first_picture_when_jpeg_holds_several(
    encode: Encode, picture: Image.Image, pixels: Pixels
) -> None:
    data = encode(picture, "MPO", quality=95, save_all=True, append_images=[Image.new("RGB", (80, 60))])
    assert distance(decode(data), pixels) <= 2.0
    assert inspect(data) == ImageInfo("JPEG", 160, 120, "image/jpeg")
    assert decode(data, min_side_hint=30).shape == (30, 40, 3)


def test_decode_shrinks_only_down_to_the_hint_when_jpeg_is_large(encode: Encode, picture: Image.Image) -> None:
    large = picture.resize((1600, 1200), Image.Resampling.BICUBIC)
    data = encode(large, "JPEG", quality=92)
    assert decode(data, min_side_hint=256).shape == (300, 400, 3)
    assert decode(data, min_side_hint=301).shape == (600, 800, 3)
    assert decode(data, min_side_hint=5000).shape == (1200, 1600, 3)
    full = np.asarray(Image.fromarray(decode(data)).resize((200, 150), Image.Resampling.BILINEAR))
    quick = np.asarray(Image.fromarray(decode(data, min_side_hint=256)).resize((200, 150), Image.Resampling.BILINEAR))
    assert distance(full, quick) < 1.0


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "CMYK"])
def test_decode_averages_only_down_to_twice_the_hint_when_picture_is_lossless(
    encode: Encode, picture: Image.Image, mode: str
) -> None:
    large = picture.resize((1600, 1200), Image.Resampling.BICUBIC).convert(mode)
    data = encode(large, "TIFF")
    assert decode(data, min_side_hint=200).shape == (400, 534, 3)
    assert decode(data, min_side_hint=400).shape == (1200, 1600, 3)
    full = np.asarray(Image.fromarray(decode(data)).resize((200, 150), Image.Resampling.BILINEAR))
    quick = np.asarray(Image.fromarray(decode(data, min_side_hint=200)).resize((200, 150), Image.Resampling.BILINEAR))
    assert distance(full, quick) < 1.0


def test_decode_gives_equal_pixels_when_many_threads_share_it(
    encode: Encode, picture: Image.Image, pixels: Pixels
) -> None:
    blobs = [encode(picture, "PNG", icc_profile=linear_profile()), encode(picture.convert("CMYK"), "JPEG")] * 20
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(decode, blobs))
    assert all((result == results[index % 2]).all() for index, result in enumerate(results))


def test_decode_takes_the_odd_files_when_they_are_real(near_duplicates: Path) -> None:
    reference = decode((near_duplicates / "base_images" / "ukbench09380.jpg").read_bytes())
    files = sorted((near_duplicates / "formats_images").iterdir())
    for file in files:
        data = file.read_bytes()
        image = decode(data)
        info = inspect(data)
        assert image.shape == (info.height, info.width, 3), file.name
        if file.name.startswith("ukbench09380"):
            assert distance(image, reference) < 4.0, file.name
    # A name says nothing: this one is a JPEG called .svg.
    assert inspect((near_duplicates / "formats_images" / "ukbench09380.svg").read_bytes()).format == "JPEG"
    assert decode((near_duplicates / "alpha_channel_image.png").read_bytes()).ndim == 3
