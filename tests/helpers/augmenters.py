import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="tests")
class Noise(keras.layers.Layer):
    """Makes views of a few operations that follow from the seed alone, so that a test can make them again."""

    def __init__(self, deviation=0.5, **kwargs):
        super().__init__(**kwargs)
        self.deviation = deviation

    def augment(self, x, seed):
        x = tf.cast(x, "float32")
        return x + self.deviation * tf.random.stateless_normal(tf.shape(x), seed)

    def get_config(self):
        return {**super().get_config(), "deviation": self.deviation}
