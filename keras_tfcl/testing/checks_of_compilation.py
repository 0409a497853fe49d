"""Checks of graphs, XLA, GPU lowering, tiles, and trained parts of a loss."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import SkipTest

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.losses.loss_variables import variables_of_loss
from keras_tfcl.testing.batch import Batch, require, require_close, value_and_gradient, variant
from keras_tfcl.typing import Tensor


def check_compiled(loss: keras.losses.Loss, batch: Batch) -> None:
    """Eager, graph and XLA agree in value and gradient."""
    x = tf.constant(batch.embeddings, "float32")
    value, gradient = value_and_gradient(loss, batch.labels, x)
    for mode, jit in (("tf.function", False), ("XLA", True)):
        compiled, its_gradient = tf.function(_step(loss, batch.labels), jit_compile=jit)(x)
        require_close(compiled, value, f"{mode} and eager differ in value.")
        require_close(its_gradient, gradient, f"{mode} and eager differ in gradient.")


def check_unknown_batch_size(loss: keras.losses.Loss, batch: Batch) -> None:
    """One trace serves batches of any size."""
    x = batch.embeddings.astype("float32")
    signature = [tf.TensorSpec([None], "int64"), tf.TensorSpec([None, *x.shape[1:]], "float32")]
    compiled = tf.function(loss, input_signature=signature)
    for copies in (1, 2):
        labels = np.concatenate([batch.labels + k * (batch.labels.max() + 1) for k in range(copies)])
        rows = np.concatenate([x + 0.1 * k for k in range(copies)])
        require_close(
            compiled(labels, rows), loss(labels, rows), f"A batch of {len(labels)} in a trace of unknown size."
        )


def check_gpu_lowering(loss: keras.losses.Loss, batch: Batch) -> None:
    """XLA compiles value and gradient for GPUs. Needs a TensorFlow built with CUDA, but no GPU."""
    if not tf.test.is_built_with_cuda():
        raise SkipTest("this TensorFlow is built without CUDA")
    # As constants: TensorFlow lowers no variables for a device that is not there.
    constants = [(variable, tf.constant(np.asarray(variable))) for variable in variables_of_loss(loss)]

    def step(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with keras.StatelessScope(state_mapping=constants):
            return _step(loss, batch.labels)(x)

    compiled = tf.function(step, jit_compile=True)
    spec = tf.TensorSpec(batch.embeddings.shape, "float32")
    hlo = compiled.experimental_get_compiler_ir(spec)(stage="hlo", platform_name="GPU")
    require("HloModule" in hlo, "XLA gives no program.")


def check_block_size(loss: keras.losses.Loss, batch: Batch) -> None:
    """A loss with `block_size` gives the value and the gradients of the dense form, also for its variables."""
    if "block_size" not in loss.get_config():
        raise SkipTest("the loss has no block_size")
    value, gradient, *of_variables = _tiled(loss, "dense", batch)
    for block_size in (4, 128):
        tiled, tiled_gradient, *tiled_of_variables = _tiled(loss, block_size, batch)
        require_close(tiled, value, f"block_size={block_size} and the dense form differ in value.")
        require_close(tiled_gradient, gradient, f"block_size={block_size} and the dense form differ in gradient.")
        for ours, theirs in zip(tiled_of_variables, of_variables, strict=True):
            message = f"block_size={block_size} and the dense form differ in a variable's gradient."
            if getattr(getattr(loss, "scaling", None), "linear", False):
                message += " The scaling says `linear = True`; leave that out unless its logit is c * s for every s."
            require_close(ours, theirs, message)


def _tiled(loss: keras.losses.Loss, block_size: str | int, batch: Batch) -> tuple[np.ndarray, ...]:
    loss = variant(loss, block_size=block_size)
    trained = [variable.value for variable in variables_of_loss(loss) if variable.trainable]
    return value_and_gradient(loss, *batch, *trained)


def check_variables(loss: keras.losses.Loss, batch: Batch) -> None:
    """ContrastiveModel trains, saves and loads every variable that the loss reads, at any depth."""
    loss = variant(loss, reduction="sum_over_batch_size")
    variables = variables_of_loss(loss)
    with tf.GradientTape() as tape:
        loss(*batch)
    hidden = [v.name for v in tape.watched_variables() if not any(v is found.value for found in variables)]
    require(
        not hidden,
        f"no model finds the variables {hidden}. Make them attributes of the loss, or of what its attributes hold: "
        "objects, lists, tuples or dictionaries.",
    )
    if not variables:
        raise SkipTest("the loss has no variables")
    if not batch.has_views or batch.embeddings.shape[1] < 2:
        raise SkipTest("ContrastiveModel is given views")
    views = tuple(np.moveaxis(batch.embeddings.astype("float32"), 1, 0))
    before = [np.asarray(v) for v in variables]
    model = _train(loss, views)
    for variable, start in zip(variables, before, strict=True):
        moved = abs(float(np.asarray(variable) - start)) > 0
        require(moved == variable.trainable, f"{variable.name} is trainable={variable.trainable}, moved={moved}.")
    variables[0].assign(variables[0] * 1.25)  # what a schedule would do: it must be saved all the same
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        loaded = keras.models.load_model(Path(folder) / "model.keras")
    copies = variables_of_loss(loaded.loss)
    require(len(copies) == len(variables), f"the loaded loss has {len(copies)} variables, was {len(variables)}.")
    for variable, copy in zip(variables, copies, strict=True):
        require_close(copy, variable, f"{variable.name} is not what was saved.", 1e-6)
    value = [m.evaluate(views, batch_size=len(batch.labels), verbose=0) for m in (model, loaded)]
    require_close(value[1], value[0], "The loaded model evaluates to another loss.")


def _train(loss: keras.losses.Loss, views: tuple[np.ndarray, ...]) -> keras.Model:
    from keras_tfcl.models import ContrastiveModel

    encoder = keras.Sequential([keras.Input(views[0].shape[1:]), keras.layers.Dense(views[0].shape[1])])
    model = ContrastiveModel(encoder, views=len(views))
    model.compile(keras.optimizers.SGD(0.01), loss=loss, jit_compile=False)
    model.fit(views, batch_size=len(views[0]), verbose=0)
    return model


def _step(loss: keras.losses.Loss, labels: np.ndarray) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def step(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(labels, x)
        return value, tape.gradient(value, x)

    return step
