"""The exact streaming kernel: one reduction over all pairs of anchors and candidates, in memory linear in their number.

Every loss of this library is a formula of a few numbers R for each anchor, each of them a reduction over its pairs:

    R_i = sum over j of m_ij phi(l_ij),    l_ij = f(s_ij),    s_ij = z_i . z_j

with unit embeddings z, the scaling f, the mask m that tells whether a pair counts (positive, negative, absent), and a
function phi: exp for InfoNCE, softplus for the sigmoid loss, the identity for the simple one. The gradient of a loss
L(R), with a_i = dL/dR_i, is

    dL/dz_i = sum over j of H_ij z_j,    H_ij = f'(s_ij) phi'(l_ij) (m_ij a_i + m_ji a_j)

since each cosine is in two rows; H is symmetric. A tile of the matrix of pairs, one block of embeddings against
another, therefore serves both blocks. Each unordered pair of blocks is visited once forward (for R) and once backward
(for H z, with the tile computed anew): four half products of Gram matrices where automatic differentiation makes six,
and nothing of size N x N is ever held. With candidates of their own, every block of anchors meets every block of
candidates, and H_ij = f'(s_ij) phi'(l_ij) (m_ij a_i + m'_ij b_j), with b_j from the candidates' own reductions.

f is the scaling object itself; f' is its derivative by automatic differentiation within the tile, and so is the
derivative by its variables; that of a linear f follows from dL/dz. The masks come from labels, inside every tile: no
sorting, no special tiles. Where negatives are chosen by rank ("hard"), the forward pass takes strips of anchors against
all candidates, which give the thresholds and the sums.

Views of the same sample, where they are known, do not enter tiles: their cosine is 1 - |a - b|^2 / 2, by which
near-identical views keep digits that a dot product has lost.

Read in this order: `tile` (masks), `logits` (the scaling), `reducers` (phi), `products` (precision), `tiles` (the
loops), `hardest` (thresholds), `first_order` (what tapes see), `reduction` (the whole), `by_rows` (functions that look
at whole rows).
"""

from keras_tfcl.ops.pairwise.by_rows import losses_by_rows, map_rows
from keras_tfcl.ops.pairwise.logits import Logits
from keras_tfcl.ops.pairwise.products import check_precision
from keras_tfcl.ops.pairwise.reducers import NOTHING, Count, LogSumExp, Numbers, Softplus, Sum
from keras_tfcl.ops.pairwise.reduction import logits_by_number, reduce_pairs

__all__ = [
    "NOTHING",
    "Count",
    "LogSumExp",
    "Logits",
    "Numbers",
    "Softplus",
    "Sum",
    "check_precision",
    "logits_by_number",
    "losses_by_rows",
    "map_rows",
    "reduce_pairs",
]
