"""Image sets of tensorflow_datasets: prepared on this machine, and as encoded images in their files."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import tensorflow as tf

from keras_tfcl.export.runtime.requirements import require

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

NAME = re.compile(r"([a-z]\w*)(/[\w.-]+)?(:[\w.*]+)?(@.+)?$")
LENGTH = struct.Struct("<Q4x")  # in front of a record of a TFRecord file: its length, and a checksum
CHECKSUM = 4  # bytes behind it


class EncodedImage(NamedTuple):
    """Where an encoded image stands: file, first byte, number of bytes; and its class, or None."""

    path: str
    offset: int
    size: int
    label: int | None


def is_registered(source: str) -> bool:
    """Whether a text is the name of a set, perhaps with config, version and split: `name/config:version@split`."""
    name = NAME.match(source)
    try:
        return name is not None and require("tensorflow_datasets", "data").builder_cls(name[1]) is not None
    except (ImportError, ValueError):  # no such package, no such set
        return False


def prepared_builder(name: str) -> tfds.core.DatasetBuilder:
    """The builder of a set, downloaded if needed.

    Raises:
        ValueError: for an unknown name.
        RuntimeError: if the set cannot be prepared.
        ImportError: without tensorflow_datasets.
    """
    tfds = require("tensorflow_datasets", "data")
    try:
        builder = tfds.builder(name)
    except ValueError as error:
        raise ValueError(
            f'`name` must be "mnist5k", "folder:PATH" or a set of tensorflow_datasets. Received: name={name!r}, which '
            f"is no file or folder either. {str(error).splitlines()[0]} tensorflow_datasets.list_builders() lists sets."
        ) from error
    try:
        with contextlib.redirect_stdout(sys.stderr):  # its progress would be mixed with the JSON of a command
            builder.download_and_prepare()
    except Exception as error:  # whatever a download can meet: no connection, no space, a missing package
        raise RuntimeError(
            f"tensorflow_datasets could not prepare {name!r}: {error} "
            "Mend that and try again, or use a folder of images, which needs no connection."
        ) from error
    return builder


def encoded_images(name: str, split: str) -> tuple[list[EncodedImage], tuple[str, ...]]:
    """Finds each encoded image in the TFRecord files of a set, which takes one pass over these files.

    Args:
        name: of the set, as in `tensorflow_datasets.builder`.
        split: such as `"train"` or `"test[:1000]"`.

    Returns:
        The images in the order of the files, and the names of the classes: empty without labels.

    Raises:
        ValueError: for an unknown set or split, one without images, or one in other files than TFRecord.
        RuntimeError, ImportError: as `prepared_builder`.
    """
    tfds = require("tensorflow_datasets", "data")
    builder = prepared_builder(name)
    features = dict(builder.info.features.items())
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    if len(images) != 1 or builder.info.file_format.value != "tfrecord":
        raise ValueError(
            f"A set must have one image in each example, in TFRecord files. Received: {name!r}, with "
            f"{sorted(features)} in {builder.info.file_format.value}. Write its images into a folder."
        )
    try:
        parts = builder.info.splits[split].file_instructions
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"The split must be one of {sorted(builder.info.splits)}, or a part such as train[:1000]. Received: "
            f"{split!r} of {name!r}."
        ) from error
    classes = features.get("label")
    class_names = tuple(classes.names) if isinstance(classes, tfds.features.ClassLabel) else ()
    found = []
    for part in parts:
        for number, (offset, record) in enumerate(_records(part.filename)):
            if number < part.skip or (part.take >= 0 and number >= part.skip + part.take):
                continue
            values = tf.train.Example.FromString(record).features.feature
            encoded = values[images[0]].bytes_list.value[0]
            label = values["label"].int64_list.value[0] if class_names else None
            start = offset + record.index(encoded)
            found.append(EncodedImage(os.fspath(part.filename), start, len(encoded), label))
    return found, class_names


def _records(path: str) -> Iterator[tuple[int, bytes]]:
    """Offset and content of each record of a TFRecord file."""
    with open(path, "rb") as file:
        while header := file.read(LENGTH.size):
            (length,) = LENGTH.unpack(header)
            yield file.tell(), file.read(length)
            file.seek(CHECKSUM, os.SEEK_CUR)
