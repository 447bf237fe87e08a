"""How random the keyed permutations are, by rounds and size: measured, and recorded in quality.json.

The statistics and the keys are the tests' own (``tests/planning/randomness.py``): what is recorded here is what
docs/concepts/mathematics.md states. Other rounds than the planner's are the planner's own code with its two constants
changed temporarily: nothing is reimplemented. ``python -m docs.pictures.quality`` measures again, in a few minutes.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from tests.planning.randomness import p_of_pairs, p_of_whole, whole

from bucketline_service.planning.line import permutation

FEWER_ROUNDS_AT = (65, 257, 1025, 4097, 16_385, 65_537, 1_000_003)
RECORD = Path(__file__).with_name("quality.json")
SIZES = (
    *(6, 10, 16, 17, 25, 36, 49, 64, 65, 128, 257, 512, 513, 1025, 2049, 4097, 16_385, 65_537),
    *(1_000_003, 10**9, 10**12),
)
ROUNDS = (2, 4, 6, 8)
PAIRS, MANY_PAIRS = 200_000, 2_000_000
VALUES = 2_000_000
"""Values in whole permutations, two of them at the least; none of a domain larger than this."""


def measured(n: int, rounds: int, pairs: int, *, shuffled: bool = False) -> dict[str, Any]:
    """The smallest p-value for a network of ``rounds``, or for a domain that is ``shuffled`` for real."""
    found = {}
    with patch.multiple(permutation, ROUNDS=rounds, SMALL=permutation.SMALL if shuffled else 0):
        if n <= VALUES // 2:
            found.update(p_of_whole(whole(n, VALUES // n)))
        if n >= 8:
            found.update(p_of_pairs(n, pairs))
    return {
        "n": n,
        "rounds": rounds,
        "shuffled": shuffled,
        "pairs": pairs if n >= 8 else 0,
        "permutations": VALUES // n if n <= VALUES // 2 else 0,
        "p_values": len(found),
        "smallest": float(f"{min(found.values()):.3g}"),
    }


def orders(n: int, num: int, *, shuffled: bool = False) -> tuple[float, int]:
    """Pearson's statistic of how often each of the n! orders comes among ``num`` permutations by the network, and its
    degrees of freedom."""
    with patch.multiple(permutation, SMALL=permutation.SMALL if shuffled else 0):
        perms = whole(n, num)
    seen = np.unique((perms * n ** np.arange(n)).sum(axis=1), return_counts=True)[1]
    expected = num / math.factorial(n)
    never = math.factorial(n) - len(seen)
    return float(((seen - expected) ** 2 / expected).sum() + never * expected), math.factorial(n) - 1


def measure() -> list[dict[str, Any]]:
    found = [measured(n, rounds, PAIRS) for rounds in ROUNDS for n in SIZES]
    found += [measured(n, 8, PAIRS, shuffled=True) for n in SIZES if n <= permutation.SMALL]
    found += [measured(n, 8, MANY_PAIRS) for n in SIZES if n >= 64]
    return found


def recorded() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(RECORD.read_text())
    return found


def series(rounds: int, pairs: int, *, shuffled: bool = False) -> tuple[list[int], list[float]]:
    """Of the record, sizes and smallest p-values. Domains too small for pairs are in every series of ``PAIRS``."""
    rows = [
        row
        for row in recorded()
        if (row["rounds"], row["shuffled"]) == (rounds, shuffled)
        and (row["pairs"] == pairs or (row["pairs"] == 0 and pairs == PAIRS))
    ]
    return [row["n"] for row in rows], [row["smallest"] for row in rows]


def fewer_rounds() -> list[str]:
    """The rows of docs/concepts/mathematics.md's table of 4 and 6 rounds."""
    columns = [dict(zip(*series(rounds, PAIRS), strict=True)) for rounds in (4, 6)]
    return [f"| {n:,} | {_short(columns[0][n])} | {_short(columns[1][n])} |" for n in FEWER_ROUNDS_AT]


def eight_rounds() -> list[str]:
    """The rows of its table of 8 rounds: of the most pairs that were looked at."""
    few, many = (dict(zip(*series(8, pairs), strict=True)) for pairs in (PAIRS, MANY_PAIRS))
    rows = []
    for n in SIZES:
        pairs = "(whole permutations only)" if n < 8 else f"{MANY_PAIRS if n in many else PAIRS:,}"
        rows.append(f"| {_name(n)} | {pairs} | {_short(many.get(n, few[n]))} |")
    return rows


def _short(p: float) -> str:
    return "0" if p < 1e-300 else f"{p:.3f}" if p >= 0.001 else f"{p:.0e}".replace("e-0", "e-")


def _name(n: int) -> str:
    return f"10^{round(math.log10(n))}" if n > 10**6 and n % 10**6 == 0 else f"{n:,}"


def main() -> None:
    rows = ",\n".join(json.dumps(row) for row in measure())
    RECORD.write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    main()
