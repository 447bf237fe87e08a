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
        program.add(np.array(column), 1.0)
    return program


def test_prices_say_what_a_row_costs():
    program = cover([6], [[2]])
    values, prices = program.solve()
    assert values.tolist() == [3]
    assert prices.tolist() == [0.5]
    program.add(np.array([3]), 1.0)
    values, prices = program.solve()
    assert values.tolist() == [0, 2]
    assert prices == pytest.approx([1 / 3])


def test_costs_and_bounds_of_variables_are_kept():
    program = Program(np.array([6.0]), np.array([6.0]))
    program.add(np.array([1]), 1.0, most=4.0)
    program.add(np.array([1]), 3.0)
    values, prices = program.solve()
    assert values.tolist() == [4, 2]
    assert prices.tolist() == [3]


def test_integers_cost_the_least():
    columns = [[3, 1], [1, 3], [1, 0], [0, 1]]
    found = cover([7, 7], columns).solve_in_integers(200, 0.0)
    assert found.sum() == 4
    assert (found @ columns >= 7).all()


def test_a_search_that_ends_early_has_what_it_found_or_nothing():
    columns = np.random.default_rng(0).integers(0, 9, (60, 30))
    needs = columns.sum(axis=0)
    found = cover(needs, columns).solve_in_integers(0, 0.0)
    assert found is None or (found @ columns >= needs).all()


def test_what_has_no_solution_is_an_error():
    program = Program(np.array([2.0]), np.array([1.0]))
    program.add(np.array([1]), 1.0)
    with pytest.raises(RuntimeError, match="HiGHS"):
        program.solve()


def test_nothing_is_printed():
    """In a process of its own: C's buffer is written when it ends."""
    code = """
import numpy as np
from bucketline_service.planning.packing.solver import Program
program = Program(np.array([6.0]), np.array([6.0]))
program.add(np.array([2]), 1.0)
program.solve()
program.solve_in_integers(10, 0.0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
