"""Linear and integer programmes, solved by HiGHS (Huangfu & Hall, "Parallelizing the dual revised simplex method",
2018; https://highs.dev).

On one thread, from one seed, with a limit of nodes and none of time: the same programme has the same answer on every
machine with the same version of HiGHS. Between versions ties may fall otherwise.
"""

from __future__ import annotations

import highspy
import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
_I64 = NDArray[np.int64]

INFINITY = highspy.kHighsInf


class _SilentHighs(highspy.Highs):
    def enableCallbacks(self) -> None:  # noqa: N802  # the name that is overridden
        # the constructor calls it, and it prints a banner unless output is off by then
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]  # highspy gives it no types


class Program:
    """The least cost of variables of at least 0, added one by one. ``lower``, ``upper`` float64[R]: between
    which the sum of each row must lie."""

    def __init__(self, lower: _Floats, upper: _Floats) -> None:
        self._highs = _SilentHighs()  # type: ignore[no-untyped-call]  # likewise
        self._highs.setOptionValue("threads", 1)
        self._highs.setOptionValue("random_seed", 0)
        nothing = np.empty(0, dtype=np.int32)
        for low, high in zip(lower.tolist(), upper.tolist(), strict=True):
            self._highs.addRow(low, high, 0, nothing, nothing.astype(np.float64))

    def add(self, column: _I64, cost: float, most: float = INFINITY) -> None:
        """A variable of at most ``most`` that counts ``column`` int64[R] in the rows."""
        rows = np.flatnonzero(column).astype(np.int32)
        self._highs.addCol(cost, 0.0, most, len(rows), rows, column[rows].astype(np.float64))

    def solve(self) -> tuple[_Floats, _Floats]:
        """The variables' values, and the rows' dual prices. Where variables were added since, it goes on from the last
        solution. Raises ``RuntimeError`` where there is none."""
        self._run(highspy.HighsModelStatus.kOptimal)
        solution = self._highs.getSolution()
        return np.array(solution.col_value), np.array(solution.row_dual)

    def solve_in_integers(self, max_nodes: int, gap: float) -> _I64 | None:
        """The variables' values where all are integers. The search ends where it can gain no more than the share
        ``gap``, or after ``max_nodes`` nodes; None where it has found nothing by then. Raises ``RuntimeError`` where
        there is nothing to find."""
        num = self._highs.getNumCol()
        is_integer = np.full(num, int(highspy.HighsVarType.kInteger), dtype=np.uint8)
        self._highs.changeColsIntegrality(num, np.arange(num, dtype=np.int32), is_integer)
        self._highs.setOptionValue("mip_max_nodes", max_nodes)
        self._highs.setOptionValue("mip_rel_gap", gap)
        # a restart solves the first node again, which takes most of the time of so short a search
        self._highs.setOptionValue("mip_allow_restart", False)
        self._run(highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kSolutionLimit)
        solution = self._highs.getSolution()
        if not solution.value_valid:
            return None
        values: _I64 = np.rint(np.array(solution.col_value)).astype(np.int64)
        return values

    def _run(self, *expected: highspy.HighsModelStatus) -> None:
        self._highs.run()
        status = self._highs.getModelStatus()
        if status not in expected:
            raise RuntimeError(f"HiGHS has not solved it: {self._highs.modelStatusToString(status)}")
