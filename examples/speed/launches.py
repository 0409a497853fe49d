"""How many kernels an optimized program of XLA launches, from its text."""

from __future__ import annotations

import re

# These are names for values that are there already.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?:\([^=]*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")


def launches(text: str) -> tuple[int, bool]:
    """The number of instructions that run, loops as often as they turn, and whether it is exact.

    A loop whose number of turns depends on the data counts once, and the number is a lower bound.
    """
    computations: dict[str, list[tuple[str, str]]] = {}
    current, entry = "", ""
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if head := HEAD.match(line):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif current and (found := INSTRUCTION.match(line)):
            computations[current].append((found[1], found[2]))
    exact = True

    def count(name: str) -> int:
        nonlocal exact
        total = 0
        for kind, rest in computations[name]:
            if kind in FREE:
                continue
            if kind == "while":
                turns = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
                exact = exact and turns is not None
                parts = [re.search(rf"{part}=%?([\w.\-]+)", rest)[1] for part in ("condition", "body")]
                total += (int(turns[1]) if turns else 1) * sum(map(count, parts))
            elif kind == "call":
                total += count(re.search(r"to_apply=%?([\w.\-]+)", rest)[1])
            elif kind == "conditional":
                branches = re.search(r"branch_computations=\{([^}]*)\}", rest)
                names = (
                    branches[1] if branches else ",".join(re.findall(r"(?:true|false)_computation=(\S+?)[,\s]", rest))
                )
                total += max(count(branch.strip(" %")) for branch in names.split(","))
            else:
                total += 1
        return total

    return count(entry), exact
