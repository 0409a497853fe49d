"""The order of a sample of the tests."""

from types import SimpleNamespace

from helpers.fair_order import fair_order


def items(**counts):
    return [
        SimpleNamespace(nodeid=f"test_file.py::{name}[{n}]") for name, count in counts.items() for n in range(count)
    ]


def functions(ordered):
    return [item.nodeid.split("::")[1].partition("[")[0] for item in ordered]


def test_every_function_has_its_turn_before_one_has_its_second():
    few = items(grid=500, alone=1, pair=2)
    order = functions(fair_order(few, 0))
    assert set(order[:3]) == {"grid", "alone", "pair"}
    assert set(order[3:5]) == {"grid", "pair"}
    assert order[5:] == ["grid"] * 498


def test_nothing_is_lost_and_the_seed_decides():
    many = items(a=20, b=30, c=1)
    first = [item.nodeid for item in fair_order(many, 1)]
    assert sorted(first) == sorted(item.nodeid for item in many)
    assert first == [item.nodeid for item in fair_order(many, 1)]
    assert first != [item.nodeid for item in fair_order(many, 2)]
