"""A conformance suite for contrastive Keras losses, in the spirit of scikit-learn's `check_estimator`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING
from unittest import SkipTest

import keras
from numpy.typing import ArrayLike

from keras_tfcl.testing import checks_of_compilation, checks_of_configuration, checks_of_geometry, checks_of_labels
from keras_tfcl.testing.batch import Batch, default_batch

if TYPE_CHECKING:
    import pytest

Check = Callable[[keras.losses.Loss, Batch], None]

CHECKS: dict[str, Check] = {
    name.removeprefix("check_"): function
    for module in (checks_of_configuration, checks_of_labels, checks_of_geometry, checks_of_compilation)
    for name, function in vars(module).items()
    if name.startswith("check_")
}

UNREGISTERED = (
    "Keras cannot find a class of this loss when it loads it: decorate that class with "
    "@keras.saving.register_keras_serializable(package='your_package') first."
)


def check_loss(
    loss: keras.losses.Loss,
    batch: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    expected_failures: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
) -> dict[str, str]:
    """Checks that a Keras loss of embeddings keeps every promise that this library makes for its own losses.

    The contract: `loss(y_true, y_pred, sample_weight)`, integer labels `(B,)`, embeddings `(B, D)` or `(B, V, D)` that
    need not be normalised, positives by equal labels. The functions in `CHECKS` describe what they demand:
    configuration and saving, reductions and weights, dtypes, invariances, gradients against finite differences, poles,
    samples without positives, labels that must not be cast, XLA, variables that are trained and saved.

    Args:
        loss: an instance of a registered Keras loss.
        batch: `(labels, embeddings)` to check it on, where it needs other shapes. Each sample needs a positive.
            Defaults to six samples in two views, `(6,)` and `(6, 2, 5)`.
        expected_failures: `{check name: reason}`. These checks must fail; if one passes, that is an error too.
        only: names of the checks to run. Defaults to all.

    Returns:
        `{check name: "passed" | "skipped: why" | "expected failure: why"}`.

    Raises:
        AssertionError: if a check fails; the message lists all failures.
        ValueError: if a name of a check is unknown.

    Example:

    >>> outcome = keras_tfcl.testing.check_loss(keras_tfcl.InfoNCE(0.2), only=["gradient", "rotation"])
    >>> outcome
    {'gradient': 'passed', 'rotation': 'passed'}
    """
    expected_failures = dict(expected_failures or {})
    outcome, failures = {}, []
    for name in _known([*CHECKS] if only is None else only, expected_failures):
        try:
            outcome[name] = _run(loss, name, batch, expected_failures.get(name))
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
    if failures:
        hint = [UNREGISTERED] if any("Could not locate" in failure for failure in failures) else []  # Keras' words
        raise AssertionError("\n".join([f"{loss.name} fails {len(failures)} checks:", *hint, *failures]))
    return outcome


def parametrize_with_checks(
    losses: Iterable[keras.losses.Loss] | Mapping[str, keras.losses.Loss],
    batch: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    expected_failures: Mapping[str, str] | Callable[[keras.losses.Loss], Mapping[str, str]] | None = None,
    only: Iterable[str] | None = None,
) -> pytest.MarkDecorator:
    """Parametrizes a pytest function `test(loss, check)`, whose body is `check(loss)`, with every loss and every check.

    Args:
        losses: instances, or `{name: instance}`.
        batch, only: as in `check_loss`.
        expected_failures: as in `check_loss`, or a function of the loss that gives them; marked as strict xfail.

    Example:

    >>> @keras_tfcl.testing.parametrize_with_checks([keras_tfcl.InfoNCE(), keras_tfcl.ArctanhInfoNCE()])
    ... def test_conformance(loss, check):
    ...     check(loss)
    """
    import pytest  # only here: the suite runs without it

    named = losses.items() if isinstance(losses, Mapping) else [(loss.name, loss) for loss in losses]  # type: ignore[union-attr]  # losses, not names
    only = [*CHECKS] if only is None else list(only)  # read once: it may be a generator
    parameters = []
    for loss_name, loss in named:
        expected = expected_failures(loss) if callable(expected_failures) else expected_failures or {}
        for name in _known(only, expected):
            marks = [pytest.mark.xfail(reason=expected[name], strict=True)] if name in expected else []
            check = partial(_call, name=name, batch=batch)
            parameters.append(pytest.param(loss, check, marks=marks, id=f"{loss_name}-{name}"))
    return pytest.mark.parametrize(("loss", "check"), parameters)


def _run(loss: keras.losses.Loss, name: str, batch: tuple[ArrayLike, ArrayLike] | None, reason: str | None) -> str:
    try:
        _call(loss, name, batch)
    except SkipTest as skipped:
        return f"skipped: {skipped}"
    except Exception:
        if reason is None:
            raise
        return f"expected failure: {reason}"
    if reason is not None:
        raise AssertionError(f"passed, but was expected to fail: {reason}. Take it out of expected_failures.")
    return "passed"


def _call(loss: keras.losses.Loss, name: str, batch: tuple[ArrayLike, ArrayLike] | None) -> None:
    CHECKS[name](loss, default_batch() if batch is None else Batch.of(*batch))


def _known(names: Iterable[str], expected: Mapping[str, str]) -> list[str]:
    names = list(names)
    unknown = sorted({*names, *expected} - set(CHECKS))
    if unknown:
        raise ValueError(f"Checks must be among {sorted(CHECKS)}. Received: {unknown}.")
    return names
