"""The public API. Whoever changes it changes this list, docs/reference.md and CHANGELOG.md."""

import importlib

import pytest

API = {
    "keras_tfcl": """
        Alignment AngularMargin Arctanh ArctanhInfoNCE CoSENTLoss CollapseMonitor ContrastiveAccuracy ContrastiveLoss
        ContrastiveModel CosineMargin DecoupledInfoNCE DynamicTemperature EffectiveRank HardNegativeInfoNCE
        HardNegatives ImageAugmenter InfoNCE KNNEvaluation LearnableTemperature LinearProbe Negatives
        PairContrastiveLoss ProjectionHead RetrievalEvaluation ReweightedNegatives SamplingProbability Scaling
        ScheduledTemperature SigmoidContrastiveLoss SimpleContrastiveLoss StopOnNonFinite Temperature
        TemperatureSchedule Tolerance Uniformity WithoutNearDuplicates callbacks data diagnostics evaluation layers
        losses metrics models negatives ops scaling
    """,
    "keras_tfcl.callbacks": """
        CollapseMonitor CollapseWarning EmbeddingImages EmbeddingProjector KNNEvaluation LinearProbe RetrievalEvaluation
        StopOnNonFinite TemperatureSchedule cosine_temperature
    """,
    "keras_tfcl.data": """
        ImageData ViewPipeline balanced_batches image_batches image_views load_images
    """,
    "keras_tfcl.diagnostics": """
        CosineHistogram GradientProfile PenaltyCurve SimilarityProfile Spread Suggestion cosine_histogram
        embedding_statistics entropy_of_penalty gradient_profile penalty_curves plot_cosine_histogram
        plot_entropy_of_penalty plot_gradient_profile plot_relative_penalty plot_similarity_profile
        plot_singular_spectrum plot_temperature_sweep plot_uniformity_tolerance read_table relative_penalty
        report_saved_model run_table similarity_profile singular_spectrum suggest_loss temperature_sweep uniform_sphere
        uniformity_tolerance write_report write_table
    """,
    "keras_tfcl.evaluation": """
        Diagnosis Health WeightedMean alignment contrastive_accuracy diagnose effective_rank embed embed_views
        embedding_health gaussian_potential knn_accuracy linear_accuracy make_views nearest_neighbours pair_correlation
        retrieval tolerance uniform_sphere uniformity
    """,
    "keras_tfcl.export": """
        BatchInvarianceError ExportError ExportReport Hit Index InputError InputSpec ModelFileError ModelInputError
        ModelOutputError NonFiniteError OnnxEncoder Parity ParityError ParityWarning ProviderError ProviderWarning
        QuantizationError QuantizationReport Recall RecallError UnsupportedLayerError UnsupportedOpError
        VerificationError check_probes compare_neighbours export_onnx quantize to_float16 verify_onnx
    """,
    "keras_tfcl.layers": """
        ImageAugmenter ProjectionHead RandomColorJitter RandomGaussianBlur RandomResizedCrop image_augmenter
        recalibrate_batch_norm set_batch_norm_momentum
    """,
    "keras_tfcl.losses": """
        ArctanhInfoNCE CoSENTLoss ContrastiveLoss DecoupledInfoNCE EmbeddingLoss HardNegativeInfoNCE InfoNCE
        PairContrastiveLoss ScoredPairLoss SigmoidContrastiveLoss SimpleContrastiveLoss get
    """,
    "keras_tfcl.metrics": """
        Alignment ContrastiveAccuracy EffectiveRank Tolerance Uniformity
    """,
    "keras_tfcl.models": """
        ContrastiveModel SamplingProbability build_backbone
    """,
    "keras_tfcl.negatives": """
        HardNegatives Negatives ReweightedNegatives WithoutNearDuplicates get
    """,
    "keras_tfcl.ops": """
        Candidates Pairs angular_margin arctanh_logits contrastive_loss contrastive_pair_losses cosent_loss
        cosine_similarity hardest info_nce_from_logits l2_normalize pair_cosines pair_masks reweighted_log_sum
        temperature_logits
    """,
    "keras_tfcl.scaling": """
        AngularMargin Arctanh CosineMargin DynamicTemperature LearnableTemperature Scaling ScheduledTemperature
        Temperature get
    """,
    "keras_tfcl.testing": """
        CHECKS check_loss parametrize_with_checks
    """,
}


@pytest.mark.parametrize("module", API)
def test_the_api_is_this_list(module):
    public = importlib.import_module(module)
    assert sorted(public.__all__) == sorted(API[module].split())
    assert all(getattr(public, name) is not None for name in public.__all__)
