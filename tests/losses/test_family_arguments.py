"""What the rest of the family refuses, and how it says it."""

import pytest

import keras_tfcl


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras_tfcl.SimpleContrastiveLoss(-1.0), r"`weight` must be a positive.*Received: weight=-1\.0"),
        (
            lambda: keras_tfcl.SimpleContrastiveLoss(negatives=keras_tfcl.ReweightedNegatives()),
            r"must choose, as 'all' and HardNegatives do.*Received: negatives=ReweightedNegatives",
        ),
        (
            lambda: keras_tfcl.SimpleContrastiveLoss(
                negatives=keras_tfcl.WithoutNearDuplicates(0.05, keras_tfcl.ReweightedNegatives())
            ),
            r"must choose, as 'all' and HardNegatives do.*Received: negatives=ReweightedNegatives",
        ),
        (lambda: keras_tfcl.SigmoidContrastiveLoss(0), r"`scale` must be a positive.*Received: scale=0\. SigLIP"),
        (lambda: keras_tfcl.SigmoidContrastiveLoss(bias="a"), r"`bias` must be a finite number\. Received: bias='a'"),
        (lambda: keras_tfcl.DecoupledInfoNCE(0.1, sigma=0), r"`sigma` must be a positive.*Received: sigma=0.*0\.5"),
        (lambda: keras_tfcl.DynamicTemperature(0.1, 0.5), r"between minimum and 4\.5 \* minimum\. Received"),
        (lambda: keras_tfcl.DynamicTemperature(0.2, 0.1), r"Received: minimum=0\.2, maximum=0\.1\. The authors"),
        (lambda: keras_tfcl.WithoutNearDuplicates(0), r"`margin` must be a positive.*Received: margin=0"),
        (lambda: keras_tfcl.WithoutNearDuplicates(2.5), r"`margin` must be a number in \(0, 2\)\. Received: .*2\.5"),
        (lambda: keras_tfcl.WithoutNearDuplicates(0.1, "hard"), r"`negatives` must be 'all' or .*Received"),
    ],
)  # fmt: skip
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_loss_without_its_method_says_so():
    with pytest.raises(NotImplementedError, match="EmbeddingLoss must define `losses_of_pairs"):
        keras_tfcl.losses.EmbeddingLoss()([0, 0], [[1.0, 0.0], [0.0, 1.0]])
