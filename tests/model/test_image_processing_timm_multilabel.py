import io
import random
import struct
import zlib

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.data.transforms_factory import create_transform
from transformers import AutoImageProcessor

from halflabel import HalflabelError, TimmMultiLabelConfig, TimmMultiLabelImageProcessor
from halflabel.model.backbones import create_backbone
from halflabel.model.image_processing_timm_multilabel import decode_image, needed_side


@pytest.fixture
def processor():
    return TimmMultiLabelImageProcessor.from_backbone(timm.create_model("tf_efficientnet_lite0"))


def picture(mode="RGB", size=(300, 200)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_the_backbones_own_settings_and_timms_own_transform(processor):
    assert processor.mean == [0.5] * 3
    assert processor.input_size == [3, 224, 224]
    model = timm.create_model("tf_efficientnet_lite0")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    torch.testing.assert_close(processor(picture())["pixel_values"][0], transform(picture()), rtol=0, atol=0)


def test_round_trip_through_the_auto_class(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    TimmMultiLabelConfig(label_names=["a"]).save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, TimmMultiLabelImageProcessor)
    assert loaded.data_config == processor.data_config


def test_a_picture_handed_in_is_treated_as_a_decoded_file_is(processor):
    turned = picture(size=(60, 40))
    turned.getexif()[0x0112] = 6
    torch.testing.assert_close(
        processor(turned)["pixel_values"], processor(picture(size=(60, 40)).rotate(-90, expand=True))["pixel_values"]
    )
    assert turned.size == (60, 40)  # the caller's own picture is left alone
    clear = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    torch.testing.assert_close(
        processor(clear)["pixel_values"], processor(Image.new("RGB", (60, 40), "white"))["pixel_values"]
    )
    deep = Image.fromarray(np.full((40, 60), 257 * 100, np.uint16))
    torch.testing.assert_close(
        processor(deep)["pixel_values"], processor(Image.new("L", (60, 40), 100))["pixel_values"]
    )


def test_lists_arrays_and_tensors(processor):
    array = np.asarray(picture())
    batch = processor([picture(), picture()])["pixel_values"]
    assert batch.shape == (2, 3, 224, 224)
    torch.testing.assert_close(processor(array)["pixel_values"], batch[:1])
    torch.testing.assert_close(processor(torch.from_numpy(array.copy()).permute(2, 0, 1))["pixel_values"], batch[:1])


def test_a_jpeg_keeps_a_quarter_more_than_the_evaluation_transform_needs(processor):
    assert processor.needed_side() == 320  # resized to 256
    assert processor.needed_side(training=True) == 366  # 224 / sqrt(0.5 * 3 / 4), rounded up


def test_a_training_view_has_the_values_of_timms_own_steps(processor):
    plain = timm.data.create_transform(**processor.data_config, is_training=True, scale=(0.5, 1.0), color_jitter=0.2)
    views = []
    for transform in (processor.train_transform(), plain):
        random.seed(3)
        torch.manual_seed(3)
        views.append(transform(picture()))
    torch.testing.assert_close(*views, rtol=0, atol=0)
    assert views[0].std() > 0


def test_bad_input(processor):
    with pytest.raises(HalflabelError, match="uint8"):
        processor(np.zeros((20, 20, 3), dtype=np.float32))
    with pytest.raises(HalflabelError, match="did you mean crop_pct"):
        TimmMultiLabelImageProcessor(crop_pc=0.9)
    with pytest.raises(HalflabelError, match="do_resize"):
        processor(picture(), do_resize=False)
    with pytest.raises(HalflabelError, match="'pt'"):
        processor(picture(), return_tensors="np")


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(50_000, 1), (1, 50_000), (1, 1), (3, 2000)])
def test_lines_and_dots_become_inputs_too(mode, size):
    processor = TimmMultiLabelImageProcessor(input_size=(3, 96, 96), crop_mode=mode)
    pixels = processor(Image.new("RGB", size, (255, 0, 0)))["pixel_values"][0]
    assert pixels.shape == (3, 96, 96)
    assert (pixels[:, 48, 48] - torch.tensor([1.0, -1.0, -1.0])).abs().max() < 1e-6


def test_of_a_long_strip_the_middle_is_seen_where_timm_sees_it():
    strip = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 4000, 3), dtype=np.uint8))
    ours = TimmMultiLabelImageProcessor(input_size=(3, 96, 96), crop_pct=0.9)(strip)["pixel_values"][0]
    whole = timm.data.create_transform(
        (3, 96, 96), interpolation="bicubic", crop_pct=0.9, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    assert (ours - whole(strip)).abs().mean() < 0.05  # of a range of 2: resized by 1/100 of a pixel's difference


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"input_size": [3, 10**6, 10**6]}, "input_size is"),
        ({"input_size": [3, 224]}, "input_size is"),
        ({"input_size": [1, 224, 224]}, "three channels"),
        ({"input_size": [3, 16384, 4096]}, "at most 4096 x 4096 pixels"),
        ({"input_size": "224"}, "input_size is '224'"),
        ({"std": [0.5, 0.5, 0]}, "std is"),
        ({"mean": [float("nan")] * 3}, "mean is"),
        ({"crop_pct": 0}, "crop_pct is 0, expected a number of at least 0.1 and at most 2"),
        ({"crop_mode": ["center"]}, "crop_mode is"),
        ({"interpolation": "best"}, "interpolation is 'best', expected nearest"),
    ],
)
def test_settings_of_which_no_transform_can_be_made(setting, message):
    with pytest.raises(HalflabelError, match=message):
        TimmMultiLabelImageProcessor(**setting)


RED, BLUE = (200, 30, 20), (10, 20, 220)


def encoded(picture, encoding="PNG", **options):
    content = io.BytesIO()
    picture.save(content, encoding, **options)
    return {"bytes": content.getvalue(), "path": None}


def png(width, bits, colour_type, row, *chunks):
    """A PNG of one row, of a kind that Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour_type, 0, 0, 0))
    body = b"".join(chunk(*each) for each in chunks) + chunk(b"IDAT", zlib.compress(b"\0" + row))
    return {"bytes": b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")}


def tiff(bits, photometric, row, width=2):
    """An uncompressed little-endian TIFF of one row, of a kind that Pillow does not write."""
    fields = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(row)}
    row += b"\0" * (len(row) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in fields.items())
    directory = struct.pack("<H", len(fields)) + entries + bytes(4)
    return {"bytes": b"II*\0" + struct.pack("<I", 8 + len(row)) + row + directory}


def colours(record, **options):
    picture = decode_image(record, **options)
    assert picture.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()]


def greys(record):
    pixels = colours(record)
    assert all(len(set(pixel)) == 1 for pixel in pixels)
    return [pixel[0] for pixel in pixels]


def photo_like(width=1920, height=1280, seed=0):
    """Smooth noise in several sizes, with sharp shapes."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            ),
            dtype=np.float32,
        )
        * share
        for cells, share in ((4, 0.5), (32, 0.3), (256, 0.2))
    ]
    pixels = np.clip(np.sum(layers, axis=0), 0, 255).astype(np.uint8)
    for _ in range(8):
        top, left = rng.integers(0, height - 200), rng.integers(0, width - 300)
        pixels[top : top + rng.integers(20, 200), left : left + rng.integers(20, 300)] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def photo():
    return photo_like()


@pytest.fixture(scope="module")
def photo_jpeg(photo):
    return encoded(photo, "JPEG", quality=90)


# ----------------------------------------------------------------------------------------------------------- modes


def test_rgb_keeps_its_values_and_the_picture_holds_no_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = decode_image({"path": str(tmp_path / "a.png")})
    assert type(picture) is Image.Image
    assert (np.asarray(picture) == pixels).all()


def test_bytes_come_before_the_path_and_the_path_before_nothing(tmp_path):
    Image.new("RGB", (1, 1), BLUE).save(tmp_path / "blue.png")
    path = str(tmp_path / "blue.png")
    assert colours({**encoded(Image.new("RGB", (1, 1), RED)), "path": path}) == [RED]
    assert colours({"bytes": None, "path": path}) == [BLUE]
    assert colours({"path": path}) == [BLUE]


def stored(values, dtype, encoding="TIFF"):
    return encoded(Image.fromarray(np.array([values], dtype)), encoding)


LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (stored([True, False], bool, "PNG"), [255, 0]),
        (stored([0, 7, 255], np.uint8, "PNG"), [0, 7, 255]),
        (png(3, 16, 0, struct.pack(">3H", 1000, 1001, 51400), (b"tRNS", struct.pack(">H", 1000))), [255, 4, 200]),
        (tiff(12, 1, bytes([0x00, 0x0F, 0xFF])), [0, 255]),  # 0 and 4095 of 12 bits
        (tiff(16, 0, struct.pack("<2H", 0, 60000)), [255, 22]),  # zero is white
        ({"bytes": b"P5\n3 1\n4095\n" + struct.pack(">3H", 0, 1606, 3000)}, [0, 100, 187]),
        (stored([0.0, 0.2, 0.5], np.float32), [0, 51, 128]),  # shares of white
        (stored([300, 300], np.int32), [128, 128]),  # one value without a scale: grey, not black
        (stored([-LARGEST, 0, LARGEST], np.float32), [0, 128, 255]),  # a range beyond float32
    ],
)
def test_greys_of_every_depth_reach_black_and_white(record, expected):
    assert greys(record) == expected


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
@pytest.mark.parametrize("encoding", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(encoding, byte_order):
    values = np.array([[0, 257, 128 * 257, 200 * 257 + 100, 65535]], byte_order)
    assert greys(encoded(Image.fromarray(values), encoding)) == [0, 1, 128, 200, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("values", [[0, 100, 1000], [-500, 0, 4500], [280_000, 281_000, 290_000]])
def test_values_without_a_scale_are_stretched_from_lowest_to_highest(dtype, values):
    assert greys(stored(values, dtype)) == [
        0,
        round(255 * (values[1] - values[0]) / (values[2] - values[0])),
        255,
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_float_that_is_not_finite_is_an_error(value):
    with pytest.raises(HalflabelError, match=r"^image sea\.tif cannot be read: it holds values that are not finite$"):
        decode_image(encoded(Image.fromarray(np.array([[0, value]], np.float32)), "TIFF"), "sea.tif")


def test_a_palette_gives_its_colours():
    picture = Image.fromarray(np.array([[1, 0, 1]], np.uint8))
    picture.putpalette([*BLUE, *RED])
    assert colours(encoded(picture)) == [RED, BLUE, RED]


def test_transparent_palette_entries_show_white_through():
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    picture.putpalette([0, 0, 0, *RED, *BLUE])
    assert colours(encoded(picture, transparency=bytes([0, 255, 255]))) == [(255, 255, 255), RED, BLUE]
    assert colours(encoded(picture, "GIF", transparency=0)) == [(255, 255, 255), RED, BLUE]
    half = colours(encoded(picture, transparency=bytes([128, 255, 255])))
    assert half == [(127, 127, 127), RED, BLUE]


def test_alpha_is_composited_on_white():
    rgba = np.array([[[0, 0, 0, 0], [*RED, 255], [0, 100, 200, 51]]], np.uint8)
    assert colours(encoded(Image.fromarray(rgba))) == [(255, 255, 255), RED, (204, 224, 244)]
    grey = np.array([[[0, 0], [70, 255], [0, 51]]], np.uint8)
    assert greys(encoded(Image.fromarray(grey, "LA"))) == [255, 70, 204]


@pytest.mark.parametrize(
    ("mode", "key", "kept"), [("RGB", (0, 0, 0), RED), ("L", 0, 90), ("1", 0, 255)], ids=["RGB", "L", "1"]
)
def test_a_colour_that_is_declared_transparent_becomes_white(mode, key, kept):
    picture = Image.new(mode, (2, 1), key)
    picture.putpixel((1, 0), kept)
    white, other = colours(encoded(picture, transparency=key))
    assert white == (255, 255, 255)
    assert other == (kept if mode == "RGB" else (kept, kept, kept))


@pytest.mark.parametrize(("encoding", "tolerance"), [("JPEG", 3), ("TIFF", 0)])
def test_cmyk_has_its_colours_inverted_as_adobe_stores_them_or_not(encoding, tolerance):
    record = encoded(Image.new("RGB", (32, 16), RED).convert("CMYK"), encoding)
    assert (b"Adobe" in record["bytes"]) == (encoding == "JPEG")
    assert np.abs(np.array(colours(record)) - RED).max() <= tolerance
    assert np.abs(np.array(colours(record, shortest_side=4)) - RED).max() <= tolerance


@pytest.mark.parametrize(
    ("encoding", "options"),
    [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("PNG", {"default_image": True}), ("TIFF", {})],
)
def test_of_several_frames_the_first_is_taken(encoding, options):
    first, others = Image.new("RGB", (8, 4), RED), [Image.new("RGB", (8, 4), BLUE), Image.new("RGB", (8, 4), "lime")]
    record = encoded(first, encoding, save_all=True, append_images=others, **options)
    with Image.open(io.BytesIO(record["bytes"])) as stored:
        assert stored.n_frames > 1
    assert set(colours(record)) == {RED}


# ----------------------------------------------------------------------------------------------- orientation, draft

UPRIGHT = np.zeros((64, 96, 3), np.uint8)
UPRIGHT[:32, :48], UPRIGHT[:32, 48:], UPRIGHT[32:, :48] = RED, BLUE, (240, 240, 240)
STORED_AS = {  # what a camera stores for each orientation, from the definition of the EXIF tag
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize(("encoding", "shortest_side"), [("JPEG", None), ("JPEG", 16), ("PNG", 16), ("TIFF", None)])
def test_every_orientation_comes_out_upright(orientation, encoding, shortest_side):
    exif = Image.Exif()
    exif[0x0112] = orientation
    record = encoded(Image.fromarray(np.ascontiguousarray(STORED_AS[orientation])), encoding, exif=exif)
    picture = decode_image(record, shortest_side=shortest_side)
    assert picture.size == ((24, 16) if encoding == "JPEG" and shortest_side else (96, 64))
    nearest = np.asarray(picture.resize((96, 64), Image.Resampling.NEAREST)).astype(int)
    assert np.abs(nearest - UPRIGHT).mean() < 6  # of any two orientations the difference is over 60


def test_an_orientation_that_is_none_of_the_eight_changes_nothing():
    exif = Image.Exif()
    exif[0x0112] = 9
    assert decode_image(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)).size == (40, 20)


def test_sixteen_bit_grey_is_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    record = encoded(Image.fromarray(np.array([[0, 65535]], np.uint16)), exif=exif)
    assert decode_image(record).size == (1, 2)
    assert greys(record) == [0, 255]


@pytest.mark.parametrize(
    ("size", "shortest_side", "expected"),
    [
        ((1920, 1280), 256, (480, 320)),
        ((1920, 1280), 320, (480, 320)),
        ((1920, 1280), 321, (960, 640)),
        ((1920, 1280), 641, (1920, 1280)),
        ((1920, 1280), 160, (240, 160)),
        ((1920, 1280), 1, (240, 160)),
        ((1280, 1920), 256, (320, 480)),
        ((511, 700), 256, (256, 350)),  # the decoder rounds up
        ((200, 150), 256, (200, 150)),
        ((1, 1), 1, (1, 1)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_covers_the_side(size, shortest_side, expected):
    record = encoded(Image.new("RGB", size, RED), "JPEG")
    assert decode_image(record, shortest_side=shortest_side).size == expected
    assert decode_image(record).size == size


def test_a_picture_of_several_jpegs_is_decoded_small_too():
    record = encoded(Image.new("RGB", (96, 64), RED), "MPO", save_all=True, append_images=[Image.new("RGB", (96, 64))])
    picture = decode_image(record, shortest_side=16)
    assert picture.size == (24, 16)
    assert np.abs(np.asarray(picture).astype(int) - RED).max() <= 3


@pytest.mark.parametrize("encoding", ["PNG", "WEBP", "TIFF", "GIF"])
def test_other_formats_keep_their_size(encoding):
    assert decode_image(encoded(Image.new("RGB", (640, 480)), encoding), shortest_side=16).size == (640, 480)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_the_small_decode_shows_the_same_picture(photo, options):
    record = encoded(photo, "JPEG", quality=90, **options)
    full, small = (
        np.asarray(decode_image(record, shortest_side=side).resize((224, 224), Image.Resampling.BICUBIC)).astype(int)
        for side in (None, 256)
    )
    assert 0 < np.abs(full - small).mean() < 1.5  # of 255; shifted by one pixel of 224 the difference is over 3
    assert np.abs((full - small).mean(axis=(0, 1))).max() < 0.3


# ---------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("encoding", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_an_error(encoding, share):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = encoded(noise, encoding)["bytes"]
    for shortest_side in (None, 8):
        with pytest.raises(HalflabelError, match=r"^image half cannot be read: \S.*$"):
            decode_image({"bytes": content[: int(share * len(content))]}, "half", shortest_side)


def test_a_jpeg_whose_rest_is_zeros_is_an_error_not_grey(photo_jpeg):
    content = photo_jpeg["bytes"]
    half = content[: len(content) // 2] + bytes(len(content) - len(content) // 2)
    with pytest.raises(HalflabelError, match=r"^image half\.jpg cannot be read: image file is truncated"):
        decode_image({"bytes": half}, "half.jpg", 256)
    assert decode_image({"bytes": content + bytes(1000)}, "padded.jpg", 256).size == (480, 320)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "it is empty"), (b"no picture", "it is not a picture of a known format")],
)
def test_what_is_no_picture_says_so(content, reason, tmp_path):
    with pytest.raises(HalflabelError) as told:
        decode_image({"bytes": content}, "a.jpg")
    assert str(told.value) == f"image a.jpg cannot be read: {reason}"
    (tmp_path / "b.jpg").write_bytes(content)
    with pytest.raises(HalflabelError) as told:
        decode_image({"bytes": None, "path": str(tmp_path / "b.jpg")})
    assert str(told.value) == f"image {tmp_path / 'b.jpg'} cannot be read: {reason}"


def test_a_missing_file_a_folder_and_nothing_at_all_are_errors(tmp_path):
    with pytest.raises(HalflabelError, match=r"gone\.jpg cannot be read: .*No such file"):
        decode_image({"path": tmp_path / "gone.jpg"})
    with pytest.raises(HalflabelError, match=r"^image folder cannot be read: "):
        decode_image({"path": tmp_path}, "folder")
    with pytest.raises(HalflabelError, match=r"^image given as bytes cannot be read: .*neither bytes nor a path$"):
        decode_image({})


def test_a_decompression_bomb_is_an_error_in_one_line(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    record = encoded(Image.new("RGB", (100, 100)), "JPEG")
    with pytest.raises(HalflabelError, match=r"^image big\.jpg cannot be read: .*10000 pixels.*$") as told:
        decode_image(record, "big.jpg", shortest_side=4)
    assert "\n" not in str(told.value)


def test_whatever_a_decoder_raises_becomes_the_one_error():
    content = bytearray(encoded(Image.new("RGB", (8, 8)), "DDS")["bytes"])
    content[80:84] = struct.pack("<I", 129)  # a pixel format that does not exist: NotImplementedError
    with pytest.raises(HalflabelError, match=r"^image a\.dds cannot be read: \S"):
        decode_image({"bytes": bytes(content)}, "a.dds")


# ----------------------------------------------------------------------------------------------------- needed_side

CONFIGS = [
    {"input_size": size, "crop_pct": share, "crop_mode": mode, "interpolation": "bilinear"}
    for size, share in [
        ((3, 224, 224), 0.875),
        ((3, 240, 240), 0.9),
        ((3, 224, 224), 0.95),
        ((3, 64, 64), 1.0),
        ((3, 96, 160), 0.9),
        ((3, 160, 96), 0.875),
    ]
    for mode in ("center", "squash", "border")
]


def enlarges(resize, width, height):
    resized = resize(Image.new("RGB", (width, height)))
    return resized.width > width or resized.height > height


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config['input_size'][1:]}-{config['crop_mode']}")
def test_the_needed_side_is_the_smallest_that_timms_resize_never_enlarges(config):
    resize = create_transform(**config).transforms[0]
    side = needed_side(config)
    shapes = [(1, 1), (1, 2), (2, 1), (2, 3), (5, 1)]
    assert not any(enlarges(resize, side * wide, side * high) for wide, high in shapes)
    assert any(enlarges(resize, (side - 1) * wide, (side - 1) * high) for wide, high in shapes)


@pytest.mark.parametrize("area", [0.5, 0.25, 0.08])
@pytest.mark.parametrize("size", [(3, 224, 224), (3, 96, 160)])
def test_no_random_crop_of_a_picture_with_the_needed_side_is_enlarged(area, size):
    side = needed_side({"input_size": size, "crop_pct": 0.875, "crop_mode": "center"}, area)
    random.seed(0)

    def smallest_crop(shortest):
        picture = Image.new("L", (shortest, shortest))
        crops = [
            RandomResizedCropAndInterpolation.get_params(picture, (area, area), (3 / 4, 4 / 3))[2:] for _ in range(3000)
        ]
        return min(min(crop) for crop in crops)

    assert smallest_crop(side) >= max(size[1:])
    assert smallest_crop(int(0.97 * side)) < max(size[1:])


def test_postscript_is_a_program_and_not_run():
    with pytest.raises(HalflabelError, match="PostScript, a program, which is not run"):
        decode_image(
            {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"}, "a.png"
        )


@pytest.mark.parametrize(("size", "expected"), [(96, [3, 96, 96]), ([64, 96], [3, 64, 96])])
def test_pictures_are_prepared_in_the_size_that_the_network_was_made_for(size, expected):
    backbone = create_backbone("test_vit", None, img_size=size)
    assert TimmMultiLabelImageProcessor.from_backbone(backbone).input_size == expected


def test_a_network_for_other_than_three_channels_is_refused():
    with pytest.raises(HalflabelError, match=r"input_size is \(1, 160, 160\), expected three channels"):
        TimmMultiLabelImageProcessor.from_backbone(create_backbone("test_resnet", None, in_chans=1))


def test_a_picture_is_the_same_in_every_form(processor, tmp_path):
    """Grey with and without channels, RGB with an alpha that hides nothing, bytes, rows of data sets."""
    image = picture(size=(60, 50))
    rgb, grey, alpha = (np.asarray(image.convert(mode)) for mode in ("RGB", "L", "RGBA"))
    image.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    forms = [
        rgb, torch.tensor(rgb), np.moveaxis(rgb, -1, 0), alpha, np.moveaxis(alpha, -1, 0), torch.tensor(alpha),
        content, {"bytes": content, "path": None}, {"bytes": None, "path": str(tmp_path / "a.png")}, tmp_path / "a.png",
    ]  # fmt: skip
    for form in [*forms, [rgb, content], np.stack([alpha, alpha])]:
        for pixels in processor(form)["pixel_values"]:
            assert torch.equal(pixels, processor(image)["pixel_values"][0])
    for form in (grey, grey[..., None], grey[None], torch.tensor(grey)):
        assert torch.equal(processor(form)["pixel_values"], processor(image.convert("L"))["pixel_values"])
    hidden = alpha.copy()
    hidden[..., 3] = 0
    white = processor(np.full_like(rgb, 255))["pixel_values"]
    assert torch.equal(processor(hidden)["pixel_values"], white)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((60, 50, 5), np.uint8), r"shape \(60, 50, 5\) is no picture of 1, 3 or 4 channels"),
        (np.zeros((60, 50, 2), np.uint8), r"shape \(60, 50, 2\)"),
        (np.zeros(60, np.uint8), r"shape \(60,\)"),
        (np.zeros((0, 50, 3), np.uint8), r"shape \(0, 50, 3\)"),
        ([], "there is no picture"),
        ({"bytes": b"no", "path": None}, "image given as bytes cannot be read: it is not a picture"),
        ({"label": 1}, "there are neither bytes nor a path"),
        ("nowhere.png", "'nowhere.png' is neither a file nor a URL nor a picture in base64"),
        (7, "is not supported"),
    ],
)
def test_what_is_no_picture_is_told_in_one_line(processor, array, message):
    with pytest.raises(HalflabelError, match=message) as error:
        processor(array)
    assert "\n" not in str(error.value)
