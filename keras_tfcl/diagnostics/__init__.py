"""Curves and figures of the papers for your own loss, model and data.

The functions return plain numbers and arrays. The `plot_` functions draw them with matplotlib, from the extra `plots`.
"""

from keras_tfcl.diagnostics.advice import Suggestion, suggest_loss
from keras_tfcl.diagnostics.geometry import (
    Spread,
    plot_singular_spectrum,
    plot_uniformity_tolerance,
    singular_spectrum,
    uniformity_tolerance,
)
from keras_tfcl.diagnostics.gradients import GradientProfile, gradient_profile, plot_gradient_profile
from keras_tfcl.diagnostics.penalty import (
    PenaltyCurve,
    entropy_of_penalty,
    penalty_curves,
    plot_entropy_of_penalty,
    plot_relative_penalty,
    relative_penalty,
)
from keras_tfcl.diagnostics.report import write_report
from keras_tfcl.diagnostics.saved_model import report_saved_model
from keras_tfcl.diagnostics.similarities import (
    CosineHistogram,
    SimilarityProfile,
    cosine_histogram,
    plot_cosine_histogram,
    plot_similarity_profile,
    similarity_profile,
)
from keras_tfcl.diagnostics.sweep import embedding_statistics, plot_temperature_sweep, temperature_sweep
from keras_tfcl.diagnostics.table import read_table, run_table, write_table
from keras_tfcl.evaluation import uniform_sphere

__all__ = [
    "CosineHistogram",
    "GradientProfile",
    "PenaltyCurve",
    "SimilarityProfile",
    "Spread",
    "Suggestion",
    "cosine_histogram",
    "embedding_statistics",
    "entropy_of_penalty",
    "gradient_profile",
    "penalty_curves",
    "plot_cosine_histogram",
    "plot_entropy_of_penalty",
    "plot_gradient_profile",
    "plot_relative_penalty",
    "plot_similarity_profile",
    "plot_singular_spectrum",
    "plot_temperature_sweep",
    "plot_uniformity_tolerance",
    "read_table",
    "relative_penalty",
    "report_saved_model",
    "run_table",
    "similarity_profile",
    "singular_spectrum",
    "suggest_loss",
    "temperature_sweep",
    "uniform_sphere",
    "uniformity_tolerance",
    "write_report",
    "write_table",
]
