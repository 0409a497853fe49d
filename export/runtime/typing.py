"""The types that the signatures of the runtime share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from PIL.Image import Image

# One image: a path, the bytes of a file, an open Pillow image, or an array of pixels.
ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | Image | np.ndarray"
# A batch: one array; for several inputs a sequence of arrays in order, or a mapping by input name.
Inputs: TypeAlias = ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike]
