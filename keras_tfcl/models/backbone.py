"""Image encoders by name, for runs that start from a folder of images."""

from __future__ import annotations

import inspect

import keras

from keras_tfcl.layers.batch_norm import set_batch_norm_momentum

SMALL = 64  # up to this side a ResNet keeps the resolution in its first layer
MOMENTUM = 0.9
# Filters of the stages, blocks in each, strides of the first stage.
RESNETS = {"resnet18": ((64, 128, 256, 512), 2, 1), "resnet10": ((32, 64, 128, 256), 1, 2)}


def build_backbone(
    name: str, image_size: int, channels: int = 3, weights: str | None = None, any_size: bool = False
) -> keras.Model:
    """Builds an image encoder from pixels 0..255 to pooled features.

    Args:
        name: `"resnet18"`, in its form for small images (3 x 3 first layer without pooling, as SimCLR has it for
            CIFAR-10) up to 64 pixels, and as published above; `"resnet10"`, for training without a GPU, with half the
            blocks and half the filters, and 1/33 of the multiplications at 32 pixels and 1/15 at 96; or a model of
            `keras.applications`, such as `"EfficientNetV2B0"`.
        image_size: side of the images in pixels.
        channels: of the images. Defaults to 3.
        weights: of `keras.applications`: `"imagenet"`, or the path of a weights file. Defaults to None: random.
        any_size: whether the model takes images of other sizes too, as multi-crop views need. Its form is that for
            `image_size`. Defaults to False.

    Returns:
        A functional model `(B, image_size, image_size, channels)` -> `(B, F)`. Batch normalisation has momentum 0.9,
        since contrastive runs are often short.

    Raises:
        ValueError: for an unknown name, or weights that do not fit.

    Example:

    >>> build_backbone("resnet18", 32).output_shape
    (None, 512)

    References: He et al. 2015, arXiv 1512.03385; Chen et al. 2020 (SimCLR), arXiv 2002.05709, appendix B.9.
    """
    shape = (None, None, channels) if any_size else (image_size, image_size, channels)
    if name in RESNETS:
        if weights == "imagenet":
            raise ValueError(
                f'`weights="imagenet"` belongs to the models of keras.applications. Received: name={name!r}. Pass '
                'name="ResNet50", for example, or the path of a weights file.'
            )
        encoder = _resnet(shape, image_size <= SMALL, *RESNETS[name])
        if weights is not None:
            encoder.load_weights(weights)
        return encoder
    nets = {key: value for key, value in vars(keras.applications).items() if inspect.isfunction(value)}
    if name not in nets:
        raise ValueError(
            f'`name` must be "resnet18", "resnet10" or a model of keras.applications. Received: name={name!r}. Those '
            f"are: {', '.join(sorted(nets))}."
        )
    scales = "include_preprocessing" in inspect.signature(nets[name]).parameters
    options = {"include_preprocessing": channels == 3} if scales else {}  # it is made for RGB images
    net = nets[name](include_top=False, weights=weights, input_shape=shape, pooling="avg", **options)
    set_batch_norm_momentum(net, MOMENTUM)
    inputs = keras.Input(shape, name="image")
    scaled = inputs if name.startswith("EfficientNetB") or (scales and channels == 3) else _preprocessed(inputs, name)
    return keras.Model(inputs, net(scaled), name="encoder")


def _preprocessed(inputs: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Computes `preprocess_input` of a model of keras.applications on pixels 0..255, in layers that can be saved.

    Images that are not RGB are scaled to -1..1 for all models.
    """
    rgb = inputs.shape[-1] == 3
    if rgb and name.startswith("DenseNet"):
        mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        scale = [1 / (255 * d) for d in deviation]
        return keras.layers.Rescaling(scale, [-m / d for m, d in zip(mean, deviation, strict=True)])(inputs)
    if rgb and (name.startswith("VGG") or name in ("ResNet50", "ResNet101", "ResNet152")):
        return keras.layers.Rescaling(1.0, [-103.939, -116.779, -123.68])(inputs[..., ::-1])  # BGR, as in Caffe
    return keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)


def _resnet(
    shape: tuple[int | None, ...], small: bool, filters: tuple[int, ...], blocks: int, first_strides: int
) -> keras.Model:
    x = inputs = keras.Input(shape, name="image")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(x)
    x = _convolution(x, filters[0], 3 if small else 7, 1 if small else 2)
    x = keras.layers.ReLU()(x)
    if not small:
        x = keras.layers.MaxPooling2D(3, 2, padding="same")(x)
    for stage, width in enumerate(filters):
        for block in range(blocks):
            strides = 1 if block else 2 if stage else first_strides
            x = _block(x, width, strides)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="encoder")


def _block(x: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
    shortcut = x if strides == 1 and x.shape[-1] == filters else _convolution(x, filters, 1, strides)
    x = keras.layers.ReLU()(_convolution(x, filters, 3, strides))
    x = _convolution(x, filters, 3, 1)
    return keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))


def _convolution(x: keras.KerasTensor, filters: int, size: int, strides: int) -> keras.KerasTensor:
    x = keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    return keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=1e-5)(x)
