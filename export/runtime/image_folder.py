"""The images in a folder, for training and for serving."""

from __future__ import annotations

import os
import warnings

# HEIC is not decoded: such files are named as unreadable, and not passed over in silence.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .jp2 .avif .heic .heif".split()
)


def images_in(folder: str | os.PathLike[str]) -> list[str]:
    """Return the paths of the images in a folder and its subfolders, sorted, without hidden ones such as `._cat.jpg`.

    Files with the suffix of an image count, or all files if none has one. Links are followed, and a folder that is
    reached twice counts once. Folders that cannot be read are left out with a warning.
    """
    found: list[str] = []
    visited: set[tuple[int, int]] = set()
    unreadable: list[OSError] = []
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=unreadable.append):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(parent, name) for name in files if not name.startswith(".")]
    for error in unreadable:
        warnings.warn(f"The folder {error.filename!r} was left out: {error.strerror}. Make it readable.", stacklevel=2)
    return sorted([path for path in found if os.path.splitext(path)[1].lower() in SUFFIXES] or found)
