"""The programmes that HiGHS solves: what the packs rely on."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from bucketline_service.planning.packing.solver import INFINITY, Program


def cover(needs, columns):
    program = Program(np.array(needs, dtype=float), np.full(len(needs), INFINITY))
    for column in columns:
        program.add(np.array(column))
    return program


def test_prices_say_what_a_row_costs():
    program = cover([6], [[2]])
    values, prices = program.solve()
    assert values.tolist() == [3]
    assert prices.tolist() == [0.5]
    program.add(np.array([3]))
    values, prices = program.solve()
    assert values.tolist() == [0, 2]
    assert prices == pytest.approx([1 / 3])


def test_integers_sum_to_the_least():
    columns = [[3, 1], [1, 3], [1, 0], [0, 1]]
    start = np.array([0, 0, 7, 7])
    found = cover([7, 7], columns).solve_in_integers(start, 200, 0.0)
    assert found.sum() == 4
    assert (found @ columns >= 7).all()


def test_the_start_is_the_answer_where_the_search_ends_before_it_finds_a_better_one():
    columns = np.random.default_rng(0).integers(0, 9, (60, 30))
    start = np.full(60, 40)
    found = cover(start @ columns - 3000, columns).solve_in_integers(start, 0, 0.0)
    assert found.sum() <= start.sum()
    assert (found @ columns >= start @ columns - 3000).all()
    # no better one is there
    single = cover([3], [[1], [1]])
    assert single.solve_in_integers(np.array([2, 1]), 200, 0.0).tolist() == [2, 1]


def test_what_has_no_solution_is_an_error():
    program = Program(np.array([2.0]), np.array([1.0]))
    program.add(np.array([1]))
    with pytest.raises(RuntimeError, match="HiGHS"):
        program.solve()


def test_nothing_is_printed():
    """In a process of its own: C's buffer is written when it ends."""
    code = """
import numpy as np
from bucketline_service.planning.packing.solver import Program
program = Program(np.array([6.0]), np.array([6.0]))
program.add(np.array([2]))
program.solve()
program.solve_in_integers(np.array([3]), 10, 0.0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
