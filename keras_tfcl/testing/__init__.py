"""References in NumPy, and `check_loss`, a conformance suite for your own losses."""

from keras_tfcl.testing.conformance import CHECKS, check_loss, parametrize_with_checks

__all__ = ["CHECKS", "check_loss", "parametrize_with_checks"]
