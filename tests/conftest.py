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

gc.disable()  # until all tests are collected: what imports make stays
STARTED = time.monotonic()
MINUTES = os.environ.get("KERAS_TFCL_TEST_MINUTES")
SEED = int(os.environ.get("KERAS_TFCL_TEST_SEED", date.today().toordinal()))


def pytest_report_header():
    return f"a sample of the tests, for {MINUTES} minutes: KERAS_TFCL_TEST_SEED={SEED}" if MINUTES else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    if MINUTES:
        items[:] = fair_order(items, SEED)


def pytest_runtest_setup():
    if MINUTES and time.monotonic() - STARTED > 60 * float(MINUTES):
        pytest.skip("the time of KERAS_TFCL_TEST_MINUTES is used up")


def pytest_collection_finish():
    """Lets Python collect garbage often.

    Compiled functions and converted graphs are few, large and in cycles of references. Python counts objects and not
    bytes before it looks for such cycles, so gigabytes would pile up. What is loaded by now is left out of the search,
    which makes it cheap.
    """
    gc.collect()
    gc.freeze()
    gc.get_freeze_count = lambda: 1  # an export asks whether there are any; counting them takes 0.1 s
    gc.collect()  # so that Python knows how little is left to search
    gc.set_threshold(500, 5, 2)
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Leaves out of the search what outlives a file of tests, such as what Keras and TensorFlow register."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()
