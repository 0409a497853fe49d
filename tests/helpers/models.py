import keras

import keras_tfcl


def dense_encoder(inputs=6, *units, kernel=None):
    """A Sequential of dense layers from `(B, inputs)` to `(B, units[-1])`, by default 5 features.

    With `kernel`, an array `(inputs, F)`, it is the one linear map `x @ kernel`, which a NumPy reference can follow.
    """
    if kernel is not None:
        constant = keras.initializers.Constant(kernel)
        layers = [keras.layers.Dense(kernel.shape[1], use_bias=False, kernel_initializer=constant)]
    else:
        layers = [keras.layers.Dense(count, "tanh") for count in units[:-1]] + [keras.layers.Dense((units or (5,))[-1])]
    return keras.Sequential([keras.Input((inputs,)), *layers])


def image_encoder(shape=(8, 8, 1), features=6):
    """A linear encoder of uint8 images."""
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(features)]
    return keras.Sequential([keras.Input(shape), *layers])


def contrastive_model(
    encoder=None, *, projector=None, optimizer=None, loss="infonce", compile_options=None, seed=0, **options
):
    """A compiled `ContrastiveModel` whose weights, order and views follow from `seed`.

    Args:
        encoder: a Keras model, or a function that makes one after the seed is set. Defaults to `dense_encoder`.
        projector: a layer, or the sizes of a `ProjectionHead`, which is made after the encoder; for several encoders a
            list of them.
        optimizer: defaults to SGD(0.1).
        loss: a loss or its name.
        compile_options: further arguments of `compile`.
        seed: of weights, order and views.
        **options: further arguments of `ContrastiveModel`.
    """
    keras.utils.set_random_seed(seed)
    encoder = encoder if isinstance(encoder, (keras.Model, tuple)) else (encoder or dense_encoder)()
    heads = [_head(one) for one in (projector if isinstance(projector, list) else [projector])]
    projector = tuple(heads) if isinstance(projector, list) else heads[0]
    model = keras_tfcl.ContrastiveModel(encoder, projector, seed=seed, **options)
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss=loss, **(compile_options or {}))
    return model


def _head(projector):
    return keras_tfcl.ProjectionHead(projector) if isinstance(projector, tuple) else projector


def step_losses(model, x, y=None, **options):
    """The loss of each step of one epoch of `fit`, where Keras reports the running mean."""
    means = []
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: means.append(logs["loss"]))
    model.fit(x, y, **{"batch_size": 8, "shuffle": False, "verbose": 0, "callbacks": [record], **options})
    return [mean * (n + 1) - (means[n - 1] * n if n else 0.0) for n, mean in enumerate(means)]
