"""A time budget for the slow tests: with KERAS_TFCL_TEST_MINUTES set, tests that would start later are skipped."""

import os
import time

import pytest

STARTED = time.monotonic()
BUDGET = float(os.environ.get("KERAS_TFCL_TEST_MINUTES", "inf")) * 60


def pytest_runtest_setup(item):
    if time.monotonic() - STARTED > BUDGET:
        pytest.skip("the time budget of KERAS_TFCL_TEST_MINUTES is used up")
