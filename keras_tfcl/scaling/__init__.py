"""Functions from cosine to logit: `Temperature`, `LearnableTemperature`, `Arctanh`, or a `Scaling` of your own."""

from keras_tfcl.scaling.arctanh import Arctanh
from keras_tfcl.scaling.dynamic_temperature import DynamicTemperature
from keras_tfcl.scaling.learnable_temperature import LearnableTemperature
from keras_tfcl.scaling.margin import AngularMargin, CosineMargin
from keras_tfcl.scaling.resolve import get
from keras_tfcl.scaling.scaling import Scaling
from keras_tfcl.scaling.scheduled_temperature import ScheduledTemperature
from keras_tfcl.scaling.temperature import Temperature

__all__ = [
    "AngularMargin",
    "Arctanh",
    "CosineMargin",
    "DynamicTemperature",
    "LearnableTemperature",
    "Scaling",
    "ScheduledTemperature",
    "Temperature",
    "get",
]
