"""The exact streaming kernel: InfoNCE in tiles of the similarity matrix, with a gradient of its own.

Read in this order: `runs` (rows sorted by id), `forms` (scalings), `sums` (sums of exponentials), `tiles` (one tile),
`loops` (all tiles, forward and backward), `thresholds` (hard negatives), `from_sums` (losses), `info_nce` (the whole).
"""

from keras_tfcl.ops.tiled.forms import ArctanhForm, TemperatureForm
from keras_tfcl.ops.tiled.info_nce import cross_info_nce, self_info_nce, two_view_info_nce
from keras_tfcl.ops.tiled.known import tile_forms
from keras_tfcl.ops.tiled.negatives_form import NegativesForm

__all__ = [
    "ArctanhForm",
    "NegativesForm",
    "TemperatureForm",
    "cross_info_nce",
    "self_info_nce",
    "tile_forms",
    "two_view_info_nce",
]
