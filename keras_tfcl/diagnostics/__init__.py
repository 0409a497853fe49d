"""See what a loss does: the papers' curves and figures, for your model and data."""

from keras_tfcl.diagnostics.advice import Suggestion, suggest_loss
from keras_tfcl.diagnostics.cosines import CosineHistogram, cosine_histogram, plot_cosine_histogram
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
from keras_tfcl.diagnostics.similarities import SimilarityProfile, plot_similarity_profile, similarity_profile
from keras_tfcl.diagnostics.spectrum import plot_singular_spectrum, singular_spectrum
from keras_tfcl.diagnostics.spread import Spread, plot_uniformity_tolerance, uniform_sphere, uniformity_tolerance
from keras_tfcl.diagnostics.sweep import embedding_figures, plot_temperature_sweep, temperature_sweep
from keras_tfcl.diagnostics.table import read_table, run_table

__all__ = [
    "CosineHistogram",
    "GradientProfile",
    "PenaltyCurve",
    "SimilarityProfile",
    "Spread",
    "Suggestion",
    "cosine_histogram",
    "embedding_figures",
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
    "run_table",
    "similarity_profile",
    "singular_spectrum",
    "suggest_loss",
    "temperature_sweep",
    "uniform_sphere",
    "uniformity_tolerance",
    "write_report",
]
