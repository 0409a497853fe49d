"""The losses that are timed: each a function of (N, D, views) that returns a function giving (value, gradient)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

TEMPERATURE = 0.1
NT_XENT = "NT-Xent, 2N against 2N"
CLIP = "CLIP, N against N, both directions"


def tfcl(views: np.ndarray, **choices: Any) -> Callable[[], Any]:
    """This library, compiled by XLA."""
    import tensorflow as tf

    import keras_tfcl

    loss = keras_tfcl.ContrastiveLoss(**{"scaling": TEMPERATURE, **choices})
    labels = tf.range(len(views))
    return _tensorflow(lambda z: loss(labels, z), np.stack([views[:, 0], views[:, 1]], 1))


def tf_dense(views: np.ndarray) -> Callable[[], Any]:
    """Plain TensorFlow: one matrix, softmax cross-entropy, compiled by XLA."""
    import tensorflow as tf

    count = len(views)
    targets = tf.concat([tf.range(count) + count, tf.range(count)], 0)

    def loss(z: Any) -> Any:
        u = tf.math.l2_normalize(tf.concat([z[:, 0], z[:, 1]], 0), axis=1)
        logits = tf.linalg.set_diag(tf.matmul(u, u, transpose_b=True) / TEMPERATURE, tf.fill([2 * count], -1e9))
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))

    return _tensorflow(loss, views)


def products(views: np.ndarray, block: int = 512) -> Callable[[], Any]:
    """The floor: the matrix products of the kernel's forward and backward pass, and nothing else."""
    import tensorflow as tf

    z = tf.constant(views.reshape(-1, views.shape[-1]))
    block = min(block, len(z))
    z = tf.reshape(z, (-1, block, z.shape[1]))
    blocks = z.shape[0]

    @tf.function(jit_compile=True)
    def compute(z: Any) -> Any:
        def forward(q: Any, out: Any) -> tuple[Any, Any]:
            i, j = q // blocks, q % blocks
            s = tf.matmul(z[i], z[j], transpose_b=True)
            return q + 1, tf.tensor_scatter_nd_add(out, [[i]], s[None, :, : z.shape[2]])

        def backward(q: Any, out: Any) -> tuple[Any, Any]:
            i, j = q // blocks, q % blocks
            s = tf.matmul(z[i], z[j], transpose_b=True)
            out = tf.tensor_scatter_nd_add(out, [[i]], tf.matmul(s, z[j])[None])
            return q + 1, tf.tensor_scatter_nd_add(out, [[j]], tf.matmul(s, z[i], transpose_a=True)[None])

        # As many tiles as there are unordered pairs of blocks, with the diagonal.
        count = blocks * (blocks + 1) // 2
        out = tf.zeros_like(z)
        for step in (forward, backward):
            out = tf.while_loop(lambda q, _: q < count, step, (0, out), maximum_iterations=count)[1]
        return tf.reduce_sum(out), out

    return lambda: [x.numpy() for x in compute(z)]


def torch_cross_entropy(views: np.ndarray, compiled: bool = False) -> Callable[[], Any]:
    """Plain torch: one matrix, cross-entropy; the usual implementation."""
    import torch

    count = len(views)
    targets = torch.cat([torch.arange(count) + count, torch.arange(count)])
    diagonal = torch.eye(2 * count, dtype=torch.bool)

    def loss(a: Any, b: Any) -> Any:
        u = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
        logits = (u @ u.T / TEMPERATURE).masked_fill(diagonal, -1e9)
        return torch.nn.functional.cross_entropy(logits, targets)

    return _torch(torch.compile(loss) if compiled else loss, views)


def lightly(views: np.ndarray) -> Callable[[], Any]:
    _declare_vision_operators()
    from lightly.loss import NTXentLoss

    return _torch(NTXentLoss(temperature=TEMPERATURE), views)


def metric_learning(views: np.ndarray) -> Callable[[], Any]:
    import torch
    from pytorch_metric_learning.losses import NTXentLoss

    loss, labels = NTXentLoss(temperature=TEMPERATURE), torch.arange(len(views)).repeat(2)
    return _torch(lambda a, b: loss(torch.cat([a, b]), labels), views)


def open_clip(views: np.ndarray) -> Callable[[], Any]:
    import torch

    _declare_vision_operators()
    from open_clip.loss import ClipLoss

    loss, unit = ClipLoss(), torch.nn.functional.normalize
    return _torch(lambda a, b: loss(unit(a, dim=1), unit(b, dim=1), 1 / TEMPERATURE), views)


def sentence_transformers(views: np.ndarray) -> Callable[[], Any]:
    _declare_vision_operators()
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesSymmetricRankingLoss

    loss = MultipleNegativesSymmetricRankingLoss(model=None, scale=1 / TEMPERATURE)
    return _torch(lambda a, b: loss.compute_loss_from_embeddings([a, b], None), views)


def _tensorflow(loss: Callable[[Any], Any], views: np.ndarray) -> Callable[[], Any]:
    import tensorflow as tf

    z = tf.constant(views)

    @tf.function(jit_compile=True)
    def compute(z: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(z)
        return value, tape.gradient(value, z)

    return lambda: [x.numpy() for x in compute(z)]


def _torch(loss: Callable[[Any, Any], Any], views: np.ndarray) -> Callable[[], Any]:
    import torch

    torch.manual_seed(0)
    a, b = (torch.tensor(views[:, v].copy(), requires_grad=True) for v in (0, 1))

    def compute() -> Any:
        a.grad = b.grad = None
        value = loss(a, b)
        value.backward()
        return value.detach().numpy(), np.stack([a.grad.numpy(), b.grad.numpy()], 1)

    return compute


@cache
def _declare_vision_operators() -> None:
    """Lets a torchvision built for CUDA be imported beside a torch built for CPUs; no loss uses what it lacks."""
    import torch

    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


# name: (function, its choices, objective, interpreter)
CONTESTANTS = {
    "keras_tfcl": (tfcl, {}, NT_XENT, "own"),
    "keras_tfcl arctanh": (tfcl, {"scaling": "arctanh"}, "arctanh, 2N against 2N", "own"),
    "keras_tfcl reweighted": (tfcl, {"negatives": "reweighted"}, "reweighted, 2N against 2N", "own"),
    "keras_tfcl hard 10 %": (tfcl, {"negatives": "hard"}, "hardest 10 %, 2N against 2N", "own"),
    "matrix products alone": (products, {}, NT_XENT, "own"),
    "TensorFlow dense (XLA)": (tf_dense, {}, NT_XENT, "own"),
    "torch cross-entropy": (torch_cross_entropy, {}, NT_XENT, "peers"),
    "torch cross-entropy, compiled": (torch_cross_entropy, {"compiled": True}, NT_XENT, "peers"),
    "lightly": (lightly, {}, NT_XENT, "peers"),
    "pytorch-metric-learning": (metric_learning, {}, NT_XENT, "peers"),
    "keras_tfcl cross-view": (tfcl, {"cross_view_only": True}, CLIP, "own"),
    "open_clip": (open_clip, {}, CLIP, "peers"),
    "sentence-transformers": (sentence_transformers, {}, CLIP, "peers"),
}
