"""Where images come from: folders, lists of files, tar shards and registered sets, as encoded bytes."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from keras_tfcl.data.registered_sets import encoded_images, is_registered
from keras_tfcl.export.runtime.image_folder import SUFFIXES, images_in

MAX_CLASSES = 10_000_000  # each has a name
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
        """The bytes of one image file; OSError unless it is a regular file of a possible size."""
        size = self.sizes[index]
        if size < 0:
            status = os.stat(self.paths[index])
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
                raise OSError("it is no regular file")
            size = status.st_size
        if size > MAX_BYTES:
            raise OSError(f"it has {size:,} bytes, more than {MAX_BYTES:,}")
        with open(self.paths[index], "rb") as file:
            file.seek(self.offsets[index])
            return file.read(size)


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
        return images_of_set(source)
    for path in paths:
        if not Path(path).is_file():
            raise _absent(os.fspath(path))
    if not paths:
        raise ValueError("`source` must hold at least one image. Received: an empty list.")
    if Path(paths[0]).suffix.lower() not in SUFFIXES and tarfile.is_tarfile(paths[0]):
        return _from_shards([Path(path) for path in paths])
    names = [os.fspath(path) for path in paths]
    return _whole_files(names, names, [Path(os.path.abspath(name)).parent.name for name in names])


def images_of_set(source: str) -> ImageFiles:
    """The images of a set of tensorflow_datasets, `"name"` or `"name@split"`. Raises as `find_images`."""
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
    images = images_in(folder)
    if not images:
        raise ValueError(
            f"`source` must hold at least one image. Received: the folder {os.fspath(folder)!r} without any file that "
            f"is not hidden. Give the folder that holds the images, at any depth."
        )
    names = [os.path.relpath(path, folder) for path in images]
    parts = [Path(name).parts for name in names]
    classes = [part[0] for part in parts] if all(len(part) > 1 for part in parts) else []
    return _whole_files(images, names, classes)


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
    paths, offsets, sizes, names, keys, classes = [], [], [], [], [], {}
    root = os.path.commonpath([os.path.abspath(shard.parent) for shard in shards])
    seen: set[tuple[Path, str]] = set()
    for shard in sorted(shards):
        for member, key, content in _members(shard):
            if (shard, member.name) in seen:
                raise ValueError(
                    "Each member of the shards must have a name of its own, which tells images and classes apart. "
                    f"Received: {member.name!r} twice in {shard}. Pack the shard again, and give each shard once."
                )
            seen.add((shard, member.name))
            if content is not None:
                classes[shard, key] = _class_number(content, f"{shard}:{member.name}")
            else:
                paths.append(str(shard))
                offsets.append(member.offset_data)
                sizes.append(member.size)
                names.append(f"{os.path.relpath(shard, root)}:{member.name}")
                keys.append((shard, key))
    if not paths:
        raise ValueError(f"`source` must hold at least one image. Received: shards without any, {[*map(str, shards)]}.")
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


def _members(shard: Path) -> Iterator[tuple[tarfile.TarInfo, str, bytes | None]]:
    """The images and classes in a tar file, with the key of their sample, and with the content of a class."""
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                folder, base = os.path.split(os.path.normpath(member.name))
                hidden = any(part.startswith(".") and part != ".." for part in (*Path(folder).parts, base))
                if hidden or not member.isfile():
                    continue
                key, suffix = os.path.join(folder, base.split(".", 1)[0]), os.path.splitext(base)[1].lower()
                if member.issparse():
                    raise tarfile.ReadError(f"{member.name} is stored with holes")
                if suffix == ".cls":
                    yield member, key, archive.extractfile(member).read()  # type: ignore[union-attr]  # None only of what is no file
                elif suffix in SUFFIXES:
                    yield member, key, None
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):  # where `tarfile` just ends
                raise tarfile.ReadError(f"no header at byte {archive.offset}")
    except tarfile.TarError as error:
        raise ValueError(
            "Shards must be whole tar files without compression or holes, so that each image can be read alone. "
            f"Received: {shard}: {error}. Unpack it first, for example with gunzip; or copy or pack it again."
        ) from error


def _class_number(content: bytes, name: str) -> int:
    try:
        number = int(content)
    except ValueError:
        number = -1
    if not 0 <= number < MAX_CLASSES:
        raise ValueError(
            f"A .cls member must hold the number of a class, from 0 on. Received: {name} with {content[:40]!r}. Write "
            "numbers into the shards, or leave the classes out."
        )
    return number
