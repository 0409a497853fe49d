import random
from collections import defaultdict
from itertools import chain, zip_longest


def fair_order(items, seed):
    """One test of each test function, then a second one of each, and so on; functions and tests in random order."""
    by_function = defaultdict(list)
    for item in random.Random(seed).sample(items, len(items)):
        by_function[item.nodeid.partition("[")[0]].append(item)
    return [item for item in chain.from_iterable(zip_longest(*by_function.values())) if item is not None]
