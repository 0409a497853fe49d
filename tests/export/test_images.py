"""Images as rows: files, bytes, Pillow images and arrays by the recorded rule, and files that mean harm."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from keras_tfcl.export import InputError, InputSpec, ModelFileError, OnnxEncoder
from keras_tfcl.export.runtime.images import image_rule


def make(path, shape=(12, 8, 3), preprocessing=None, notes=None, kind=TensorProto.FLOAT):
    """An encoder whose embedding is the row itself, flattened."""
    size = int(np.prod([dim for dim in shape if isinstance(dim, int)]))
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pixels",
        [helper.make_tensor_value_info("image", kind, ("batch", *shape))],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ("batch", size))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    facts = {"schema": 1, "preprocessing": preprocessing or {"layout": "NHWC", "range": [0, 255]}, "notes": notes or {}}
    helper.set_model_props(model, {"keras_tfcl": json.dumps(facts)})
    path.write_bytes(model.SerializeToString())
    return OnnxEncoder(path)


@pytest.fixture
def encoder(tmp_path):
    return make(tmp_path / "pixels.onnx")


def image(height=12, width=8, channels=3):
    return np.random.default_rng(height).integers(0, 256, (height, width, channels)).astype("uint8")


def as_bytes(pixels, form="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, form, **options)
    return file.getvalue()


def test_every_form_of_one_image(encoder, tmp_path):
    pixels = image()
    (tmp_path / "a.png").write_bytes(as_bytes(pixels))
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), as_bytes(pixels), Image.fromarray(pixels)]
    for form in (*forms, pixels):
        row = encoder.read_image(form)
        assert row.dtype == np.float32
        np.testing.assert_array_equal(row, pixels)
    expected = np.stack([pixels.ravel()] * 4)
    np.testing.assert_array_equal(encoder.encode(forms, batch_size=3), expected)
    np.testing.assert_array_equal(np.concatenate(list(encoder.encode_iter(iter(forms), batch_size=3))), expected)
    assert encoder.encode_to(forms, tmp_path / "out.npy") == 4
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_many_images_keep_their_order_and_are_read_batch_by_batch(encoder):
    images = np.random.default_rng(0).integers(0, 256, (50, 12, 8, 3)).astype("uint8")
    taken = []
    stream = (taken.append(i) or as_bytes(image) for i, image in enumerate(images))
    parts = encoder.encode_iter(stream, batch_size=8)
    first = next(parts)
    assert taken == list(range(8))
    np.testing.assert_array_equal(np.concatenate([first, *parts]), images.reshape(50, -1))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_lossless_formats(encoder, form):
    np.testing.assert_array_equal(
        encoder.read_image(as_bytes(image(), form, **({"lossless": True} if form == "WEBP" else {}))), image()
    )


RANGES = {"0 to 1": ([0, 1], 0.0, 1.0), "-1 to 1": ([-1, 1], -1.0, 1.0), "pixels": ([0, 255], 0.0, 255.0)}


@pytest.mark.parametrize(("span", "black", "white"), RANGES.values(), ids=RANGES)
def test_range(tmp_path, span, black, white):
    encoder = make(tmp_path / "x.onnx", preprocessing={"range": span})
    pixels = image()
    pixels[0, 0], pixels[0, 1] = 0, 255
    row = encoder.read_image(pixels)
    assert row[0, 0, 0] == black
    assert row[0, 1, 0] == white
    np.testing.assert_allclose(row, black + pixels / 255 * (white - black), atol=1e-5)


def test_notes_of_the_user_count(tmp_path):
    encoder = make(tmp_path / "x.onnx", preprocessing={"range": None}, notes={"image": {"range": [0, 1]}})
    np.testing.assert_allclose(encoder.read_image(image()), image() / 255, atol=1e-6)


@pytest.mark.parametrize("angle", [1, 2, 3, 4, 5, 6, 7, 8])
def test_exif_orientation(encoder, angle):
    """The image is turned back: what a camera stored sideways is embedded upright."""
    upright = image()
    turns = {
        1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2), 6: lambda x: np.rot90(x), 7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = angle
    stored = as_bytes(np.ascontiguousarray(turns[angle](upright)), exif=exif)
    np.testing.assert_array_equal(encoder.read_image(stored), upright)


def stripes(height, width):
    """Three vertical stripes: red, green, blue."""
    pixels = np.zeros((height, width, 3), "uint8")
    third = width // 3
    for channel in range(3):
        pixels[:, channel * third : (channel + 1) * third, channel] = 255
    return pixels


def test_crop_keeps_the_centre(tmp_path):
    row = make(tmp_path / "x.onnx", shape=(20, 20, 3)).read_image(stripes(40, 120))
    np.testing.assert_array_equal(row[:, 1:-1], np.broadcast_to([0, 255, 0], (20, 18, 3)))  # the filter blurs the edges


def test_stretch_keeps_everything(tmp_path):
    encoder = make(tmp_path / "x.onnx", shape=(20, 30, 3), notes={"image": {"resize": "stretch"}})
    row = encoder.read_image(stripes(40, 120))
    for channel, column in enumerate((3, 15, 26)):
        np.testing.assert_array_equal(row[:, column], np.broadcast_to(255 * np.eye(3)[channel], (20, 3)))


def test_pad_adds_black(tmp_path):
    encoder = make(tmp_path / "x.onnx", shape=(30, 30, 3), notes={"image": {"resize": "pad"}})
    row = encoder.read_image(np.full((40, 120, 3), 200, "uint8"))  # becomes 10 x 30, centred
    np.testing.assert_array_equal(row[10:20], 200)
    assert not row[:10].any() and not row[20:].any()


def test_nearest_invents_no_value(tmp_path):
    encoder = make(tmp_path / "x.onnx", notes={"image": {"interpolation": "nearest"}})
    assert set(np.unique(encoder.read_image(np.uint8(255) * (image(48, 32) > 127)))) == {0, 255}


def test_reducing_averages(tmp_path):
    """Antialiased: a fine chessboard becomes grey, where sampling would give black or white."""
    board = 255 * (np.indices((120, 80)).sum(0) % 2).astype("uint8")
    row = make(tmp_path / "x.onnx").read_image(np.repeat(board[..., None], 3, -1))
    assert np.abs(row - 127.5).max() < 15


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(tmp_path, channels):
    encoder = make(tmp_path / "x.onnx", shape=(12, 8, channels), kind=TensorProto.UINT8)
    row = encoder.read_image(image(channels=channels))
    assert row.dtype == np.uint8
    np.testing.assert_array_equal(row, image(channels=channels))
    for other in (1, 3, 4):
        assert encoder.read_image(image(channels=other)).shape == (12, 8, channels)


def test_channels_first(tmp_path):
    encoder = make(tmp_path / "x.onnx", shape=(3, 12, 8), preprocessing={"layout": "NCHW", "range": [0, 255]})
    np.testing.assert_array_equal(encoder.read_image(image()), image().transpose(2, 0, 1))


def test_uint8_input_needs_no_recorded_range(tmp_path):
    encoder = make(tmp_path / "x.onnx", preprocessing={"range": None}, kind=TensorProto.UINT8)
    np.testing.assert_array_equal(encoder.read_image(image()), image())


BAD_RULES = {
    "no range": ({"range": None}, {}, "`range`"),
    "range upside down": ({"range": [1, 0]}, {}, "`range`"),
    "range of text": ({"range": ["a", "b"]}, {}, "`range`"),
    "range in text": ({"range": None}, {"image": "RGB"}, r'notes\["image"\] must be a dict'),
    "size is one number": ({"range": [0, 1]}, {"image": {"size": 224}}, r"\[height, width\]"),
    "size of nothing": ({"range": [0, 1]}, {"image": {"size": [0, 224]}}, r"\[height, width\]"),
    "unknown resize": ({"range": [0, 1]}, {"image": {"resize": "melt"}}, "resize rule"),
    "unknown interpolation": ({"range": [0, 1]}, {"image": {"interpolation": "lanczos"}}, "resize rule"),
}


@pytest.mark.parametrize(("preprocessing", "notes", "text"), BAD_RULES.values(), ids=BAD_RULES)
def test_files_without_a_usable_rule(tmp_path, preprocessing, notes, text):
    with pytest.raises(InputError, match=text):
        make(tmp_path / "x.onnx", preprocessing=preprocessing, notes=notes).read_image(image())


@pytest.mark.parametrize("span", [[0, 1], [-1, 1], [-128, 127]])
def test_a_range_that_the_input_type_cannot_hold_is_refused_rather_than_black(tmp_path, span):
    encoder = make(tmp_path / "x.onnx", kind=TensorProto.UINT8, notes={"image": {"range": span}})
    with pytest.raises(InputError, match=r"that uint8 holds.*Received: \[.*Rescaling"):
        encoder.read_image(image())


def test_integers_that_hold_the_range(tmp_path):
    encoder = make(tmp_path / "x.onnx", kind=TensorProto.INT8, notes={"image": {"range": [-128, 127]}})
    np.testing.assert_array_equal(encoder.read_image(image()), image().astype("int16") - 128)


def test_pixels_among_images_are_refused_rather_than_scaled(encoder):
    """In a list alone they are rows as they are."""
    files, pixels = [as_bytes(image())], image()
    np.testing.assert_array_equal(encoder.encode([pixels]), pixels.reshape(1, -1))
    with pytest.raises(InputError, match=r"Received: ndarray among them.*fromarray"):
        encoder.encode([*files, pixels])
    np.testing.assert_array_equal(encoder.encode([*files, Image.fromarray(pixels)])[1], pixels.ravel())


def test_encoders_of_other_things_take_no_images(tmp_path):
    with pytest.raises(InputError, match="one input"):
        make(tmp_path / "x.onnx", shape=(12, 8, 7)).read_image(image())


# --- files that mean harm ---


def png(width, height):
    """A PNG of the size its header says, with no more than a few bytes of content."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7_100, 9_500, 13_000, 40_000])
def test_decompression_bombs(encoder, side):
    """Below, between and above Pillow's own limits, the first of which only warns. Nothing is decoded."""
    with pytest.raises(InputError, match="50,000,000 pixels"):
        encoder.read_image(png(side, side))


def test_a_bomb_without_warnings_as_errors(encoder, recwarn):
    import warnings

    warnings.simplefilter("default")
    with pytest.raises(InputError, match="50,000,000 pixels"):
        encoder.read_image(png(9_500, 9_500))


def damaged():
    whole = as_bytes(image(200, 200), "JPEG")
    return {
        "truncated JPEG": whole[: len(whole) // 2],
        "truncated PNG": as_bytes(image(200, 200))[:5000],
        "header only": png(100, 100),
        "empty": b"",
        "text": b"not an image",
        "an archive": b"PK\x03\x04" + bytes(100),
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "PostScript, which would start a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    }


@pytest.mark.parametrize("name", damaged())
def test_damaged_files(encoder, name, tmp_path):
    content = damaged()[name]
    with pytest.raises(InputError, match="must be a whole file"):
        encoder.read_image(content)
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"photo\.jpg"):
        encoder.encode([tmp_path / "photo.jpg"])


def test_a_folder_and_a_missing_file(encoder, tmp_path):
    with pytest.raises(InputError, match="IsADirectoryError"):
        encoder.read_image(tmp_path)
    with pytest.raises(FileNotFoundError):
        encoder.read_image(tmp_path / "missing.png")


@pytest.mark.parametrize("url", ["http://localhost/x.png", "https://example.org/x.png", "file:///etc/passwd"])
def test_urls_are_never_opened(encoder, url):
    with pytest.raises(InputError, match="not downloaded"):
        encoder.read_image(url)


def test_sixteen_bits_are_scaled_and_floats_are_refused(encoder):
    deep = encoder.read_image(as_bytes(np.full((12, 8), 40_000, "uint16")))
    np.testing.assert_array_equal(deep, encoder.read_image(as_bytes(np.full((12, 8), round(40_000 / 257), "uint8"))))
    for pixels in (np.full((12, 8), 0.5, "float32"), np.full((12, 8), 70_000, "int32"), np.full((12, 8), -1, "int32")):
        with pytest.raises(InputError, match=r"8 or 16 bits a channel\. Received: .* pixels in"):
            encoder.read_image(as_bytes(pixels, "TIFF"))


@pytest.mark.parametrize("bad", [np.zeros((12, 8, 3), "float32"), np.zeros((2, 3, 4, 5), "uint8"), 7])
def test_arrays_that_are_no_images(encoder, bad):
    with pytest.raises(InputError):
        encoder.read_image(bad)


def test_one_image_must_come_in_a_list(encoder):
    with pytest.raises(InputError, match=r"\[image\]"):
        encoder.encode("cat.png")


def test_missing_pillow_names_the_extra(encoder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"keras-tfcl\[images\]"):
        encoder.read_image(as_bytes(image()))


class TestOnError:
    """Images that cannot be read, in the first batch, a middle one and the last."""

    BROKEN = (0, 9, 10, 24)

    @pytest.fixture
    def files(self, tmp_path):
        for i in range(25):
            content = b"\xff\xd8\xff" if i in self.BROKEN else as_bytes(np.full((12, 8, 3), i, "uint8"))
            (tmp_path / f"{i}.png").write_bytes(content)
        return [tmp_path / f"{i}.png" for i in range(25)]

    def readable(self):
        return [i for i in range(25) if i not in self.BROKEN]

    @pytest.mark.parametrize("batch_size", [1, 4, 100])
    def test_skip_takes_the_ids_along(self, encoder, files, tmp_path, batch_size):
        for ids, expected in ((range(100, 125), [100 + i for i in self.readable()]), (None, self.readable())):
            with pytest.warns(UserWarning, match=r"4 of 25 images could not be read.*0\.png, .*9\.png"):
                count = encoder.encode_to(files, tmp_path / "x.npz", ids, batch_size, on_error="skip")
            with np.load(tmp_path / "x.npz") as stored:
                assert count == len(stored["embedding"]) == 21
                assert stored["id"].tolist() == expected
                assert stored["embedding"][:, 0].tolist() == self.readable()

    def test_skip_in_a_stream(self, encoder, files):
        with pytest.warns(UserWarning, match="left out"):
            parts = list(encoder.encode_iter(iter(files), batch_size=4, on_error="skip"))
        assert np.concatenate(parts)[:, 0].tolist() == self.readable()

    def test_a_function_is_told(self, encoder, files):
        told = []
        list(encoder.encode_iter(files, 4, on_error=lambda *told_of: told.append(told_of)))
        assert [(position, image) for position, image, _ in told] == [(i, files[i]) for i in self.BROKEN]
        assert all("whole file" in str(error) for *_, error in told)

    def test_a_file_that_is_gone_is_skipped_too(self, encoder, files, tmp_path):
        with pytest.warns(UserWarning, match=r"gone\.png"):
            list(encoder.encode_iter([tmp_path / "gone.png", files[1]], on_error="skip"))

    def test_raises_unless_told_otherwise(self, encoder, files, tmp_path):
        with pytest.raises(InputError, match=r"0\.png"):
            encoder.encode_to(files, tmp_path / "x.npy")
        with pytest.raises(InputError, match=r"9\.png"):
            list(encoder.encode_iter(files[1:]))

    def test_all_broken_is_an_error(self, encoder, files, tmp_path):
        with pytest.raises(InputError, match="At least one image must be usable"):
            encoder.encode_to([files[i] for i in self.BROKEN], tmp_path / "x.npy", on_error="skip")
        assert not (tmp_path / "x.npy").exists()

    def test_a_file_without_a_rule_for_images_is_not_skipped(self, files, tmp_path):
        encoder = make(tmp_path / "x.onnx", preprocessing={"range": None})
        with pytest.raises(InputError, match="`range`"):
            list(encoder.encode_iter(files, on_error="skip"))

    def test_other_words(self, encoder, files):
        with pytest.raises(ValueError, match="'raise', 'skip' or a function"):
            encoder.encode_iter(files, on_error="ignore")


class TestSizeInTheFile:
    @pytest.mark.parametrize("size", [[60_000, 60_000], [10**12, 1], [4_097, 4_096], [1, 10**30]])
    @pytest.mark.parametrize("place", ["preprocessing", "notes"])
    def test_an_absurd_size_is_refused_before_anything_is_allocated(self, tmp_path, size, place):
        facts = {"range": [0, 255], "size": size}
        given = {"preprocessing": facts} if place == "preprocessing" else {"notes": {"image": facts}}
        with pytest.raises(ModelFileError, match=r"below 16,777,216 pixels.*Do not trust"):
            make(tmp_path / "x.onnx", ("height", "width", 3), **given)

    def test_of_the_graph_itself(self):
        specs = (InputSpec("image", "uint8", (None, 5_000, 5_000, 3)),)
        with pytest.raises(InputError, match="16,777,216 pixels"):
            image_rule(specs, {}, "x.onnx")

    def test_the_largest_that_is_allowed(self, tmp_path):
        make(tmp_path / "x.onnx", ("height", "width", 3), notes={"image": {"size": [4_096, 4_096]}})

    @pytest.mark.parametrize("span", [[0, float("1e400")], [-(10**400), 0]])
    def test_a_range_that_is_no_range(self, tmp_path, span):
        with pytest.raises(InputError, match="`range`"):
            make(tmp_path / "x.onnx", preprocessing={"range": span}).read_image(image())


def test_paths_in_an_array(encoder, tmp_path):
    (tmp_path / "a.png").write_bytes(as_bytes(image()))
    for paths in (np.array([str(tmp_path / "a.png")]), np.array([tmp_path / "a.png"], object)):
        np.testing.assert_array_equal(encoder.encode(paths), image().reshape(1, -1))


def test_other_objects_are_named(encoder):
    with pytest.raises(InputError, match=r"Received: BytesIO objects\. Images come as a list of paths, of bytes"):
        encoder.encode([io.BytesIO(as_bytes(image()))])


def test_an_image_without_a_pixel(encoder):
    with pytest.raises(InputError, match=r"An image must have a pixel\. Received: Image of"):
        encoder.encode([Image.new("RGB", (0, 5))])
