"""Where images come from: folders, lists of files, tar shards and registered sets, as encoded bytes."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from keras_tfcl.data.registered_sets import encoded_images, is_registered

EXTENSIONS = frozenset(".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .jp2 .avif".split())
MAX_BYTES = 2**28  # of a file; 50 million pixels without compression have 150 MB


@dataclass(frozen=True)
class ImageFiles:
    """Encoded images by their position in files: a whole file each, or part of a tar archive or TFRecord file.

    Attributes:
        paths: the file that holds each image.
        offsets, sizes: int64, where in it; a size of -1 means the whole file.
        names: what each image is called in messages.
        classes: int64, the class of each image, its index in `class_names`; empty where there are none.
        class_names: names of the classes.
    """

    paths: Sequence[str]
    offsets: np.ndarray
    sizes: np.ndarray
    names: Sequence[str]
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0, "int64"))
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: np.ndarray) -> ImageFiles:
        """Some of the images, with their classes."""
        return replace(
            self,
            paths=[self.paths[i] for i in indices],
            offsets=self.offsets[indices],
            sizes=self.sizes[indices],
            names=[self.names[i] for i in indices],
            classes=self.classes[indices] if len(self.classes) else self.classes,
        )

    def read(self, index: int) -> bytes:
        """The bytes of one image file; OSError for what is no file, or too large for an image."""
        if self.sizes[index] < 0:
            status = os.stat(self.paths[index])
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
                raise OSError("it is no regular file")
            if status.st_size > MAX_BYTES:
                raise OSError(f"it has {status.st_size:,} bytes, more than {MAX_BYTES:,}")
        with open(self.paths[index], "rb") as file:
            file.seek(self.offsets[index])
            return file.read(self.sizes[index])


Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | ImageFiles


def find_images(source: Source) -> ImageFiles:
    """Finds the images of a source without reading them.

    Args:
        source: a folder, flat or nested; a list of paths; a tar file, or a list of them (webdataset's layout); or the
            name of a set of tensorflow_datasets, with a split other than `train` after an @: `"cifar10@test"`.
            In a folder, files with an image's extension count, or all files if none has one; hidden files and folders
            are passed over. The first folder below it is an image's class. In a list it is the folder that holds the
            file, in a tar shard the member `.cls` of the same key. `ImageFiles` are returned as they are.

    Returns:
        `ImageFiles`, sorted by name.

    Raises:
        FileNotFoundError: for a path that does not exist and is no name of a set either.
        ValueError: for a source without images.
        RuntimeError: for a set that tensorflow_datasets cannot prepare.
    """
    if isinstance(source, ImageFiles):
        return source
    paths = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    if len(paths) == 1 and Path(paths[0]).is_dir():
        return _from_folder(Path(paths[0]))
    if isinstance(source, str) and not Path(source).exists() and is_registered(source):
        return _from_set(source)
    for path in paths:
        if not Path(path).is_file():
            raise _absent(os.fspath(path))
    if not paths:
        raise ValueError("`source` must hold at least one image. Received: an empty list.")
    if all(tarfile.is_tarfile(path) for path in paths[:1]):
        return _from_shards([Path(path) for path in paths])
    names = [os.fspath(path) for path in paths]
    return _whole_files(names, names, [Path(name).resolve().parent.name for name in names])


def _from_set(source: str) -> ImageFiles:
    name, _, split = source.partition("@")
    images, class_names = encoded_images(name, split or "train")
    if not images:
        raise ValueError(f"`source` must hold at least one image. Received: {source!r} without. Give another split.")
    paths, offsets, sizes, labels = zip(*images, strict=True)
    return ImageFiles(
        paths,
        np.array(offsets, "int64"),
        np.array(sizes, "int64"),
        [f"{source}:{number}" for number in range(len(images))],
        np.array(labels if class_names else [], "int64"),
        class_names,
    )


def _absent(path: str) -> FileNotFoundError:
    return FileNotFoundError(
        "`source` must be a folder of images, a list of image files, tar shards, or a set of tensorflow_datasets. "
        f"Received: {path!r}, which does not exist. Check the path; tensorflow_datasets.list_builders() lists the sets."
    )


def _from_folder(folder: Path) -> ImageFiles:
    found: list[str] = []
    visited = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder that was walked already
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(parent, name) for name in files if not name.startswith(".")]
    images = [path for path in found if Path(path).suffix.lower() in EXTENSIONS] or found
    if not images:
        raise ValueError(
            f"`source` must hold at least one image. Received: the folder {os.fspath(folder)!r} without any file that "
            f"is not hidden. Give the folder that holds the images, at any depth."
        )
    names = sorted(os.path.relpath(path, folder) for path in images)
    parts = [Path(name).parts for name in names]
    classes = [part[0] for part in parts] if all(len(part) > 1 for part in parts) else []
    return _whole_files([os.path.join(folder, name) for name in names], names, classes)


def _whole_files(paths: Sequence[str], names: Sequence[str], classes: Sequence[str]) -> ImageFiles:
    count = len(paths)
    class_names, indices = np.unique(classes, return_inverse=True) if classes else ((), np.zeros(0))
    return ImageFiles(
        paths,
        np.zeros(count, "int64"),
        np.full(count, -1, "int64"),
        names,
        indices.astype("int64"),
        tuple(map(str, class_names)),
    )


def _from_shards(shards: Sequence[Path]) -> ImageFiles:
    paths, offsets, sizes, names, classes = [], [], [], [], {}
    for shard in sorted(shards):
        try:
            archive = tarfile.open(shard, "r:")
        except tarfile.ReadError as error:
            raise ValueError(
                f"Shards must be tar files without compression, so that single images can be read. Received: {shard}. "
                f"Unpack it first, for example with gunzip."
            ) from error
        with archive:
            for member in archive:
                base = os.path.basename(member.name)
                if not member.isfile() or base.startswith("."):
                    continue
                key, suffix = member.name.split(".", 1)[0], "." + base.rsplit(".", 1)[-1].lower()
                if suffix == ".cls":
                    classes[str(shard), key] = int(archive.extractfile(member).read())  # type: ignore[union-attr]  # None only of what is no file
                elif suffix in EXTENSIONS:
                    paths.append(str(shard))
                    offsets.append(member.offset_data)
                    sizes.append(member.size)
                    names.append(f"{shard.name}:{member.name}")
    if not paths:
        raise ValueError(f"`source` must hold at least one image. Received: shards without any, {[*map(str, shards)]}.")
    keys = [(path, name.split(":", 1)[1].split(".", 1)[0]) for path, name in zip(paths, names, strict=True)]
    known = [classes[key] for key in keys if key in classes]
    labelled = len(known) == len(keys)
    return ImageFiles(
        paths,
        np.array(offsets, "int64"),
        np.array(sizes, "int64"),
        names,
        np.array(known if labelled else [], "int64"),
        tuple(map(str, range(max(known) + 1))) if labelled else (),
    )
