"""The losses that are timed: each a function of (N, D, views) that returns a function giving (value, gradient)."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

TEMPERATURE = 0.1
NT_XENT = "NT-Xent, 2N against 2N"
CLIP = "CLIP, N against N, both directions"
SIGLIP = "SigLIP, N against N"


def tfcl(views: np.ndarray, make: Callable[[Any], Any]) -> Callable[[], Any]:
    """A loss of this library, compiled by XLA: `make` gives it from the package."""
    import tensorflow as tf

    import keras_tfcl

    loss, labels = make(keras_tfcl), tf.range(len(views))
    return _tensorflow(lambda z: loss(labels, z), views)


def own_scaling(package: Any) -> Any:
    """A scaling as a user would write it."""

    class Cubic(package.Scaling):
        def __call__(self, similarity: Any) -> Any:
            return 5.0 * (similarity + similarity**3)

    return package.ContrastiveLoss(Cubic())


def tf_dense(views: np.ndarray) -> Callable[[], Any]:
    return _tensorflow(dense_loss(len(views)), views)


def dense_loss(count: int) -> Callable[[Any], Any]:
    """Plain TensorFlow: one matrix, softmax cross-entropy."""
    import tensorflow as tf

    targets = tf.concat([tf.range(count) + count, tf.range(count)], 0)

    def loss(z: Any) -> Any:
        u = tf.math.l2_normalize(tf.concat([z[:, 0], z[:, 1]], 0), axis=1)
        logits = tf.linalg.set_diag(tf.matmul(u, u, transpose_b=True) / TEMPERATURE, tf.fill([2 * count], -1e9))
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))

    return loss


def products(views: np.ndarray, block: int = 512) -> Callable[[], Any]:
    """The floor: the leanest loop over the matrix products of the kernel's forward and backward pass, and no more."""
    import tensorflow as tf

    z = views.reshape(-1, views.shape[-1])
    block = min(block, len(z))
    z = tf.reshape(tf.constant(z[: len(z) // block * block]), (-1, block, z.shape[1]))
    blocks = z.shape[0]

    def add(sums: Any, i: Any, update: Any) -> Any:
        return tf.tensor_scatter_nd_add(sums, [[i]], update[None])

    @tf.function(jit_compile=True, autograph=False)
    def compute(z: Any) -> Any:
        def forward(i: Any, j: Any, out: Any) -> Any:
            s = tf.matmul(z[i], z[j], transpose_b=True)
            return add(out, i, s[:, : z.shape[2]])

        def backward(i: Any, j: Any, out: Any) -> Any:
            s = tf.matmul(z[i], z[j], transpose_b=True)
            return add(add(out, i, tf.matmul(s, z[j])), j, tf.matmul(s, z[i], transpose_a=True))

        out = tf.zeros_like(z)
        for body in (forward, backward):

            def step(i: Any, j: Any, out: Any, body: Callable[..., Any] = body) -> tuple[Any, Any, Any]:
                last = j + 1 >= blocks  # each unordered pair of blocks once
                return tf.where(last, i + 1, i), tf.where(last, i + 1, j + 1), body(i, j, out)

            out = tf.while_loop(lambda i, *_: i < blocks, step, (0, 0, out), parallel_iterations=1)[2]
        return tf.reduce_sum(out), out

    return lambda: [x.numpy() for x in compute(z)]


def torch_cross_entropy(views: np.ndarray, compiled: bool = False) -> Callable[[], Any]:
    import torch

    loss = torch_loss(len(views))
    return _torch(torch.compile(loss) if compiled else loss, views)


def torch_loss(count: int, device: str = "cpu") -> Callable[[Any, Any], Any]:
    """Plain torch: one matrix, cross-entropy; the usual implementation."""
    import torch

    targets = torch.cat([torch.arange(count) + count, torch.arange(count)]).to(device)
    diagonal = torch.eye(2 * count, dtype=torch.bool, device=device)

    def loss(a: Any, b: Any) -> Any:
        u = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
        logits = (u @ u.T / TEMPERATURE).masked_fill(diagonal, -1e9)
        return torch.nn.functional.cross_entropy(logits, targets)

    return loss


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


def open_clip_siglip(views: np.ndarray) -> Callable[[], Any]:
    import torch

    _declare_vision_operators()
    from open_clip.loss import SigLipLoss

    loss, unit = SigLipLoss(), torch.nn.functional.normalize
    scale, bias = (torch.tensor(x, requires_grad=True) for x in (10.0, -10.0))
    return _torch(lambda a, b: loss(unit(a, dim=1), unit(b, dim=1), scale, bias), views)


def optax_ntxent(views: np.ndarray) -> Callable[[], Any]:
    """Under JAX on the CPU, if both are installed."""
    import jax
    import optax

    labels = np.tile(np.arange(len(views)), 2)
    loss = lambda z: optax.losses.ntxent(z, labels, TEMPERATURE)  # noqa: E731
    step, z = jax.jit(jax.value_and_grad(loss)), np.concatenate([views[:, 0], views[:, 1]])

    def compute() -> Any:
        value, gradient = step(z)
        return np.asarray(value), np.stack(np.split(np.asarray(gradient), 2), 1)

    return compute


def sentence_transformers(views: np.ndarray) -> Callable[[], Any]:
    _declare_vision_operators()
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesSymmetricRankingLoss

    loss = MultipleNegativesSymmetricRankingLoss(model=None, scale=1 / TEMPERATURE)
    return _torch(lambda a, b: loss.compute_loss_from_embeddings([a, b], None), views)


def _tensorflow(loss: Callable[[Any], Any], views: np.ndarray) -> Callable[[], Any]:
    import tensorflow as tf

    compute, z = value_and_gradient(loss), tf.constant(views)
    return lambda: [x.numpy() for x in compute(z)]


def value_and_gradient(loss: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any]]:
    """Of a loss in TensorFlow, compiled by XLA."""
    import tensorflow as tf

    @tf.function(jit_compile=True, autograph=False)
    def compute(z: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(z)
        return value, tape.gradient(value, z)

    return compute


def device_name() -> str:
    """The GPU that TensorFlow sees, or the processor."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return str(tf.config.experimental.get_device_details(gpus[0])["device_name"])
    return f"{os.cpu_count()} cores of {platform.machine()}"


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

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


OWN = {
    "keras_tfcl": (lambda k: k.InfoNCE(TEMPERATURE), NT_XENT),
    "keras_tfcl arctanh": (lambda k: k.ArctanhInfoNCE(), "arctanh, 2N against 2N"),
    "keras_tfcl DCL": (lambda k: k.DecoupledInfoNCE(TEMPERATURE), "DCL, 2N against 2N"),
    "keras_tfcl DCLW": (lambda k: k.DecoupledInfoNCE(TEMPERATURE, sigma=0.5), "DCLW, 2N against 2N"),
    "keras_tfcl reweighted": (
        lambda k: k.ContrastiveLoss(0.5, k.ReweightedNegatives(1.0, 0.1)),
        "reweighted, 2N against 2N",
    ),
    "keras_tfcl simple": (lambda k: k.SimpleContrastiveLoss(), "simple, 2N against 2N"),
    "keras_tfcl own scaling": (own_scaling, "own scaling, 2N against 2N"),
    "keras_tfcl learnable": (lambda k: k.ContrastiveLoss(k.LearnableTemperature(0.1)), "learnable, 2N against 2N"),
    "keras_tfcl dynamic": (lambda k: k.ContrastiveLoss(k.DynamicTemperature()), "DySTreSS, 2N against 2N"),
    "keras_tfcl guarded": (
        lambda k: k.ContrastiveLoss(TEMPERATURE, k.WithoutNearDuplicates()),
        "guarded, 2N against 2N",
    ),
    "keras_tfcl hard 10 %": (lambda k: k.HardNegativeInfoNCE(TEMPERATURE, alpha=0.1), "hardest 10 %, 2N against 2N"),
    "keras_tfcl cross-view": (lambda k: k.InfoNCE(TEMPERATURE, cross_view_only=True), CLIP),
    "keras_tfcl sigmoid": (lambda k: k.SigmoidContrastiveLoss(cross_view_only=True), SIGLIP),
}
FLOOR = "matrix products alone"
# name: (function, its choices, objective, interpreter)
BASELINES: dict[str, tuple[Callable[..., Any], dict[str, Any], str, str]] = {
    **{name: (tfcl, {"make": make}, objective, "own") for name, (make, objective) in OWN.items()},
    FLOOR: (products, {}, NT_XENT, "own"),
    "TensorFlow dense (XLA)": (tf_dense, {}, NT_XENT, "own"),
    "torch cross-entropy": (torch_cross_entropy, {}, NT_XENT, "peers"),
    "torch cross-entropy, compiled": (torch_cross_entropy, {"compiled": True}, NT_XENT, "peers"),
    "lightly": (lightly, {}, NT_XENT, "peers"),
    "pytorch-metric-learning": (metric_learning, {}, NT_XENT, "peers"),
    "optax": (optax_ntxent, {}, NT_XENT, "peers"),
    "open_clip": (open_clip, {}, CLIP, "peers"),
    "sentence-transformers": (sentence_transformers, {}, CLIP, "peers"),
    "open_clip SigLipLoss": (open_clip_siglip, {}, SIGLIP, "peers"),
}
