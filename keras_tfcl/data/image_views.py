"""Streams of augmented views, and of plain images, from image files of any number."""

from __future__ import annotations

import functools
import random
import threading
import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from keras_tfcl.data.decoding import Window, decode_crops, decode_fitted, random_window
from keras_tfcl.data.epoch_steps import EpochSteps
from keras_tfcl.data.image_source import ImageFiles, Source, find_images
from keras_tfcl.layers import ImageAugmenter
from keras_tfcl.layers.photo_recipe import MIN_AREA, checked_strength, photo_layers
from keras_tfcl.typing import Structure, Tensor
from keras_tfcl.validation import fraction, positive_integer

CROP_RATIO = (3 / 4, 4 / 3)
# Of SwAV: number of small crops, their side relative to the large ones, and the bounds of both areas.
SMALL_VIEWS, SMALL_SHARE, AREAS = 6, 96 / 224, (0.05, 0.14, 1.0)
ATTEMPTS = 1000  # to replace an image that cannot be read: enough where 19 of 20 cannot
ON_ERROR = ("skip", "raise")
Decoded = TypeVar("Decoded")
NAMED = 20  # how many skipped files a warning names


class Crops(NamedTuple):
    """Views of one size: their number, their side in pixels, and the least and largest share of the image's area."""

    views: int
    side: int
    scale: tuple[float, float]


class ImageReader:
    """Reads the images of a source by index, and remembers which ones could not be read.

    Attributes:
        files: the `ImageFiles`.
        skipped: name of each image that was left out, with the reason.
    """

    def __init__(self, files: ImageFiles, on_error: str) -> None:
        self.files = files
        self.skipped: dict[str, str] = {}
        self._on_error = on_error
        self._lock = threading.Lock()
        self._left = 0
        self._reported = 0

    def start_pass(self, count: int) -> None:
        """Starts a pass over `count` images."""
        with self._lock:
            self._left = count

    def read(self, index: int, decode: Callable[[bytes], Decoded]) -> Decoded | None:
        """Pixels of one image, or None if it cannot be read. ValueError instead with `on_error="raise"`."""
        try:
            return decode(self.files.read(index))
        except (ValueError, OSError) as error:
            name = self.files.names[index]
            if self._on_error == "raise":
                raise ValueError(
                    f"Every image must be readable. Received: {name}: {error}. Repair or remove it, or pass "
                    'on_error="skip".'
                ) from error
            with self._lock:
                self.skipped[name] = str(error)
            return None

    def count_one(self) -> None:
        """Counts an image of the pass; the last one warns of those that were left out, once for each image."""
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return
            new = sorted([*self.skipped.items()][self._reported :])
            self._reported = len(self.skipped)
        if new:
            named = "; ".join(f"{name} ({reason})" for name, reason in new[:NAMED])
            more = f"; and {len(new) - NAMED} more" if len(new) > NAMED else ""
            warnings.warn(
                f"{len(new)} of {len(self.files)} images could not be read and were left out: {named}{more}. Repair or "
                "remove them; the attribute `reader.skipped` of the data set holds all names.",
                stacklevel=2,
            )


def image_views(
    source: Source,
    batch_size: int,
    image_size: int = 224,
    views: int = 2,
    recipe: str = "photos",
    seed: int = 0,
    labels: bool = False,
    on_error: str = "skip",
    strength: float = 1.0,
    min_area: float | None = None,
    flip: bool = True,
    small_views: int | None = None,
    small_size: int | None = None,
) -> tf.data.Dataset:
    """Streams batches of random views of images, for `ContrastiveModel.fit`, without ever holding all images in memory.

    Each view is a random resized crop, decoded from the file in that window only, then flipped, changed in colour,
    greyed and blurred at random (SimCLR). Order and views are functions of `seed` and of the step at which the epoch
    starts, whatever the number of threads, so a run that was killed and resumed sees the same views.

    Args:
        source: a folder of images, flat or nested, with or without a folder for each class; a list of image files; tar
            shards in webdataset's layout; or the name of a set of tensorflow_datasets, such as `"cifar10"`, with a
            split other than `train` after an @: `"cifar10@test"`. Formats are recognised by content, and hidden files
            are ignored.
        batch_size: number of images in a batch. Images left over at the end of an epoch are left out of it.
        image_size: side of the views in pixels. Defaults to 224.
        views: number of views of each image. Defaults to 2.
        recipe: `"photos"`, SimCLR's augmentation; or `"multi_crop"`, SwAV's: the same changes of `views` large crops
            with 14 % to 100 % of the area, and of `small_views` small ones with 5 % to 14 %. The encoder must take
            both sizes, as `build_backbone(..., any_size=True)` does, and embeds each size in one pass.
        seed: integer of at least 0, which determines order and views. Defaults to 0.
        labels: whether elements hold class labels too: the index of the first folder below `source`, or in a list of
            files of the folder that holds the file; the number in the member `.cls` of a shard; or the label of the
            set. Defaults to False.
        on_error: what to do with an image that cannot be read: `"skip"` takes another one in its place, and names it in
            one warning at the end of the epoch; `"raise"` raises `tf.errors.InvalidArgumentError` with its name.
            Defaults to `"skip"`.
        strength: factor on the colour changes, in (0, 2]. Defaults to 1.
        min_area: least share of an image's area that a large view shows, in (0, 1]. Raise it, for example to 0.5, where
            the object is small and the rest is empty. Defaults to 0.08, and to 0.14 for `"multi_crop"`.
        flip: whether half of the views are mirrored. Pass False for text, and where left and right differ. Defaults to
            True.
        small_views: number of small crops of `"multi_crop"`. Defaults to 6.
        small_size: their side in pixels. Defaults to 96 for every 224 of `image_size`.

    Returns:
        `tf.data.Dataset` of `((view_1, ..., view_V),)`, each view float32 `(batch_size, image_size, image_size, 3)`,
        values 0..255, the small ones last; with `labels=True` of `((view_1, ..., view_V), y)`, y int64
        `(batch_size,)`. Its attribute `reader` holds the files, the class names and what was skipped.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: arguments out of range, a source without images or with fewer than `batch_size`, `labels=True`
            without a folder for each class.

    Example:

    >>> views = keras_tfcl.data.image_views("photos/", batch_size=256, image_size=96)  # doctest: +SKIP
    >>> model.fit(views, epochs=100)  # doctest: +SKIP

    References: Chen et al. 2020 (SimCLR), arXiv 2002.05709; Caron et al. 2020 (SwAV), arXiv 2006.09882.
    """
    reader = _reader(source, on_error, labels)
    groups = _crops(recipe, image_size, views, min_area, small_size, small_views)
    batch = positive_integer("batch_size", batch_size, "256 is usual.")
    strength = checked_strength(strength)
    seed = positive_integer("seed", seed, "Pass seed=0.", least=0)
    if batch > len(reader.files):
        raise ValueError(
            f"`batch_size` must not exceed the number of images. Received: batch_size={batch} for {len(reader.files)} "
            "images. Pass a smaller batch_size, or more images."
        )
    every = [group for group in groups for _ in range(group.views)]  # of each view
    changes = [_changes(group.side, strength, flip) for group in every]
    images = len(reader.files)
    used = images // batch * batch

    def load(first: int, position: int, index: int) -> list[np.ndarray | np.int64]:
        """Crops of an image; of another one, drawn at random, in place of an image that cannot be read."""
        rng = np.random.default_rng([seed, first, position])

        def windows(height: int, width: int) -> list[Window]:
            return [random_window(rng, height, width, group.scale, CROP_RATIO) for group in every]

        for _ in range(ATTEMPTS):
            crops = reader.read(index, lambda encoded: decode_crops(encoded, windows, [(g.side,) * 2 for g in every]))
            if crops is not None:
                reader.count_one()
                return [*crops, np.int64(index)]
            if len(reader.skipped) == images:
                break
            index = int(rng.integers(images))
        raise ValueError(
            f"`source` must hold readable images. Received: {len(reader.skipped)} that cannot be read, such as "
            f"{next(iter(reader.skipped.items()))}. Check the files."
        )

    def element(first: tf.Tensor, position: tf.Tensor, index: tf.Tensor) -> Structure:
        *crops, index = tf.numpy_function(load, (first, position, index), [*[tf.uint8] * len(every), tf.int64])
        number = (first * images + position) * len(every)
        changed = tuple(
            change(crop, tf.stack([seed, number + view]))
            for view, (crop, change) in enumerate(zip(crops, changes, strict=True))
        )
        return (changed, tf.gather(reader.files.classes, tf.ensure_shape(index, ()))) if labels else (changed,)

    def epoch(first: tf.Tensor, done: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(images, dtype=tf.int64), [seed, first])
        indices = tf.data.Dataset.from_tensor_slices(order[:used]).enumerate().skip(done * batch)
        return indices.map(lambda position, index: element(first, position, index), tf.data.AUTOTUNE)

    return _stream(reader, used, epoch, batch)


def image_batches(
    source: Source, batch_size: int, image_size: int = 224, labels: bool = False, on_error: str = "skip"
) -> tf.data.Dataset:
    """Streams the same images as `image_views` without augmentation and in order, for `predict` and evaluation.

    Each image is turned upright, and its largest centred square is cut out and resized (bilinear, antialiased). This is
    exactly how `keras_tfcl.export.OnnxEncoder` reads image files.

    Args:
        source, batch_size, image_size, labels, on_error: as for `image_views`, but images that cannot be read are left
            out. Their batches are smaller then, as the last one may be.

    Returns:
        `tf.data.Dataset` of `x`, float32 `(B, image_size, image_size, 3)`, values 0..255; with `labels=True` of
        `(x, y)`. Rows follow `reader.files.names`, without those in `reader.skipped`, which is complete after one pass.
        `image_rule` says how images become pixels, for `export_onnx(..., notes={"image": images.image_rule})`.

    Raises:
        FileNotFoundError, ValueError: as `image_views`.

    Example:

    >>> images = keras_tfcl.data.image_batches("photos/", batch_size=64)  # doctest: +SKIP
    >>> embeddings = model.predict(images)  # doctest: +SKIP
    """
    reader = _reader(source, on_error, labels)
    size = positive_integer("image_size", image_size, "224 is usual for photographs.")
    batch = positive_integer("batch_size", batch_size, "64 is usual.")
    shape = (size, size, 3)

    def load(index: int) -> tuple[np.ndarray, bool]:
        pixels = reader.read(index, lambda encoded: decode_fitted(encoded, (size, size)))
        reader.count_one()
        return (np.zeros(shape, "uint8"), False) if pixels is None else (pixels, True)

    def element(index: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pixels, readable = tf.numpy_function(load, (index,), (tf.uint8, tf.bool))
        return index, tf.ensure_shape(pixels, shape), tf.ensure_shape(readable, ())

    def readable_only(index: tf.Tensor, pixels: tf.Tensor, readable: tf.Tensor) -> Structure:
        pixels, index = tf.cast(tf.boolean_mask(pixels, readable), "float32"), tf.boolean_mask(index, readable)
        return (pixels, tf.gather(reader.files.classes, index)) if labels else pixels

    def epoch(first: tf.Tensor, done: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.range(len(reader.files)).skip(done * batch).map(element, tf.data.AUTOTUNE)

    dataset = _stream(reader, len(reader.files), epoch, batch, readable_only)
    dataset.image_rule = {"range": [0, 255], "size": [size, size], "resize": "crop", "interpolation": "bilinear"}
    return dataset


@functools.lru_cache
def _changes(side: int, strength: float, flip: bool) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """What happens to a crop after it is cut, compiled once for all data sets of the same views."""
    state = random.getstate()  # layers draw seeds, which are not used, and only the first data set makes layers
    augmenter = ImageAugmenter(photo_layers((side, side, 3), strength, None, flip))
    augmenter.build((1, side, side, 3))
    random.setstate(state)

    signature = [tf.TensorSpec((side, side, 3), "uint8"), tf.TensorSpec((2,), "int64")]

    @tf.function(input_signature=signature, jit_compile=True)
    def change(crop: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Each crop alone: an image stays in the processor's cache, and what it does not draw is not computed."""
        return augmenter.augment(crop[None], seed)[0]

    return change


def _crops(
    recipe: str, image_size: int, views: int, min_area: float | None, small_size: int | None, small_views: int | None
) -> tuple[Crops, ...]:
    """The views of a recipe, by size."""
    size = positive_integer("image_size", image_size, "224 is usual for photographs.")
    count = positive_integer("views", views, "Two is usual.")
    if min_area is not None:
        fraction("min_area", min_area, "0.08 is usual.")
    if recipe == "photos":
        if small_size is not None or small_views is not None:
            raise ValueError(
                'Small views belong to recipe="multi_crop". Received: '
                f"small_views={small_views!r}, small_size={small_size!r} with recipe={recipe!r}. Leave them out."
            )
        return (Crops(count, size, (min_area or MIN_AREA, 1.0)),)
    if recipe != "multi_crop":
        raise ValueError(f'`recipe` must be "photos" or "multi_crop". Received: recipe={recipe!r}.')
    small_size = max(round(size * SMALL_SHARE), 1) if small_size is None else small_size
    side = positive_integer("small_size", small_size, "96 is usual beside 224.")
    small = positive_integer("small_views", SMALL_VIEWS if small_views is None else small_views, "Six is usual.")
    least, border, most = AREAS
    return Crops(count, size, (min_area or border, most)), Crops(small, side, (least, border))


def _reader(source: Source, on_error: str, labels: bool) -> ImageReader:
    if on_error not in ON_ERROR:
        raise ValueError(f"`on_error` must be one of {list(ON_ERROR)}. Received: on_error={on_error!r}.")
    files = find_images(source)
    if labels and not files.class_names:
        raise ValueError(
            "labels=True takes the first folder below `source` as an image's class. Received: images without class "
            "folders. Sort them as source/class/image.jpg, or leave labels=False."
        )
    return ImageReader(files, on_error)


def _stream(
    reader: ImageReader,
    count: int,
    epoch: Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset],
    batch_size: int,
    finish: Callable[[Tensor, Tensor, Tensor], Structure] | None = None,
) -> tf.data.Dataset:
    """Batches of `count` elements, with the attributes `reader` and `steps`."""

    def begin(numbers: np.ndarray) -> np.ndarray:
        reader.start_pass(count - int(numbers[1]) * batch_size)
        return numbers

    def batches(starts: tf.data.Dataset) -> tf.data.Dataset:
        begun = starts.map(lambda n: tf.ensure_shape(tf.numpy_function(begin, [n], tf.int64), (2,)))
        elements = begun.flat_map(lambda numbers: epoch(numbers[0], numbers[1]))
        found = elements.batch(batch_size, drop_remainder=count % batch_size == 0)
        return (found if finish is None else found.map(finish)).prefetch(2)

    steps = EpochSteps(batches)
    # Keras counts batches wrongly, and warns, where their number is unknown.
    dataset = steps.counted().apply(tf.data.experimental.assert_cardinality(-(-count // batch_size)))
    dataset.reader, dataset.steps = reader, steps
    return dataset
