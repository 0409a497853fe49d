"""What the tests stand on, and what your own losses can be held to: references in NumPy, and `check_loss`."""

from keras_tfcl.testing.conformance import CHECKS, check_loss, parametrize_with_checks

__all__ = ["CHECKS", "check_loss", "parametrize_with_checks"]
