"""Image encoders by name."""

import functools

import keras
import numpy as np
import pytest

from keras_tfcl.models.backbone import build_backbone

built = functools.cache(build_backbone)


@pytest.mark.parametrize(("size", "first"), [(32, (32, 32)), (96, (48, 48))])
def test_resnet18_has_its_two_forms(size, first):
    encoder = built("resnet18", size)
    convolutions = [layer for layer in encoder.layers if type(layer).__name__ == "Conv2D"]
    assert convolutions[0].output.shape[1:3] == first
    assert encoder.output_shape == (None, 512)
    # Published: 11.69 M weights with a classifier of 513,000; the small form has a 3 x 3 first layer.
    kernels = sum(int(np.prod(layer.kernel.shape)) for layer in convolutions)
    assert kernels == 11_166_912 - (0 if size > 64 else 64 * 3 * (49 - 9))


@pytest.mark.parametrize(("size", "share"), [(32, 33), (96, 15)])
def test_resnet10_is_the_small_one(size, share):
    def products(name):
        convolutions = [layer for layer in built(name, size).layers if type(layer).__name__ == "Conv2D"]
        return sum(int(np.prod(c.output.shape[1:3]) * np.prod(c.kernel.shape)) for c in convolutions)

    assert built("resnet10", size).output_shape == (None, 256)
    assert products("resnet18") / products("resnet10") == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize(
    ("name", "module"), [("MobileNetV2", "mobilenet_v2"), ("DenseNet121", "densenet"), ("ResNet50", "resnet")]
)
def test_nets_of_keras_applications_take_pixels(name, module):
    """As the net's own `preprocess_input` scales them."""
    encoder = build_backbone(name, 32)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    net = encoder.layers[-1]
    expected = net(getattr(keras.applications, module).preprocess_input(images.copy()))
    np.testing.assert_allclose(encoder(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["VGG16", "MobileNetV3Small"])
def test_nets_of_keras_applications_take_images_of_one_channel(name):
    encoder = build_backbone(name, 32, channels=1)
    features = encoder(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1)).astype("float32"))
    assert features.shape == (2, encoder.output_shape[-1])


def test_an_unknown_name_is_named():
    with pytest.raises(ValueError, match=r"`name` must be .* Received: name='ResNet1'\. Those are: .*ConvNeXt"):
        build_backbone("ResNet1", 32)
