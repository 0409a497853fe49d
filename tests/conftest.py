"""Slow tests in limited memory, and in limited time.

With KERAS_TFCL_TEST_MINUTES set, the tests run until the time is used up, and the rest is skipped. What runs is a fair
sample: a test of each test function in turn, in an order that changes from day to day. KERAS_TFCL_TEST_SEED repeats an
order.
"""

import gc
import os
import time
from datetime import date

import pytest

from helpers.fair_order import fair_order

STARTED = time.monotonic()
MINUTES = os.environ.get("KERAS_TFCL_TEST_MINUTES")
SEED = int(os.environ.get("KERAS_TFCL_TEST_SEED", date.today().toordinal()))
SECONDS_BETWEEN_COLLECTIONS = 30
last_collection = STARTED


def pytest_report_header():
    return f"a sample of the tests, for {MINUTES} minutes: KERAS_TFCL_TEST_SEED={SEED}" if MINUTES else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    if MINUTES:
        items[:] = fair_order(items, SEED)


def pytest_runtest_setup():
    if MINUTES and time.monotonic() - STARTED > 60 * float(MINUTES):
        pytest.skip("the time of KERAS_TFCL_TEST_MINUTES is used up")


def pytest_runtest_teardown():
    """Frees compiled functions and converted graphs.

    They are few, large and in cycles of references: Python, which counts objects and not bytes, would let them pile up.
    """
    global last_collection
    if time.monotonic() - last_collection > SECONDS_BETWEEN_COLLECTIONS:
        gc.collect()
        last_collection = time.monotonic()
