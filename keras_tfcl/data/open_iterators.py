"""Ends the iterators of data sets before the interpreter does."""

from __future__ import annotations

import atexit
import functools
import gc
import sys
import traceback

import tensorflow as tf


@functools.cache
def close_iterators_at_exit() -> None:
    """Closes all iterators that are open when the program ends, such as after Ctrl-C or an error during `fit`.

    Some of their threads call Python. Once the interpreter is being taken down no thread gets into Python any more, and
    an iterator that is freed then would wait for its threads for ever.
    """
    atexit.register(_close_iterators)


def _close_iterators() -> None:
    error = getattr(sys, "last_value", None)  # the frames of the error that ended the program hold iterators
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    for iterator in [x for x in gc.get_objects() if issubclass(type(x), tf.data.Iterator)]:
        vars(iterator).clear()  # which frees its resource; it has no method for it
    gc.collect()
