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
    """The least sum of variables, each at least 0, which are added column by column. ``lower``, ``upper`` float64[R]:
    between which each row must lie."""

    def __init__(self, lower: _Floats, upper: _Floats) -> None:
        self._highs = _SilentHighs()  # type: ignore[no-untyped-call]  # likewise
        self._highs.setOptionValue("threads", 1)
        self._highs.setOptionValue("random_seed", 0)
        nothing = np.empty(0, dtype=np.int32)
        for low, high in zip(lower.tolist(), upper.tolist(), strict=True):
            self._highs.addRow(low, high, 0, nothing, nothing.astype(np.float64))

    def add(self, column: _I64) -> None:
        """A variable that counts ``column`` int64[R] in each row."""
        rows = np.flatnonzero(column).astype(np.int32)
        values = column[rows].astype(np.float64)
        self._highs.addCol(1.0, 0.0, INFINITY, len(rows), rows, values)

    def solve(self) -> tuple[_Floats, _Floats]:
        """The variables' values, and the rows' dual prices. Where columns were added since, it goes on from the last
        solution. Raises ``RuntimeError`` where there is none."""
        self._run(highspy.HighsModelStatus.kOptimal)
        solution = self._highs.getSolution()
        return np.array(solution.col_value), np.array(solution.row_dual)

    def solve_in_integers(self, start: _I64, max_nodes: int, gap: float) -> _I64:
        """The variables' values where all are integers. ``start``: values that are allowed; they are the answer where
        none that sum to less are found. The search ends where it can gain no more than the share ``gap``, or after
        ``max_nodes`` nodes."""
        num = self._highs.getNumCol()
        is_integer = np.full(num, int(highspy.HighsVarType.kInteger), dtype=np.uint8)
        self._highs.changeColsIntegrality(num, np.arange(num, dtype=np.int32), is_integer)
        self._highs.setOptionValue("mip_max_nodes", max_nodes)
        self._highs.setOptionValue("mip_rel_gap", gap)
        # The start is compared, not handed over: HiGHS 1.16.0 takes one for the optimum where presolve removes columns
        # that it uses.
        self._run(highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kSolutionLimit)
        solution = self._highs.getSolution()
        if not solution.value_valid:
            return start
        values: _I64 = np.rint(np.array(solution.col_value)).astype(np.int64)
        return values if values.sum() < start.sum() else start

    def _run(self, *expected: highspy.HighsModelStatus) -> None:
        self._highs.run()
        status = self._highs.getModelStatus()
        if status not in expected:
            raise RuntimeError(f"HiGHS has not solved it: {self._highs.modelStatusToString(status)}")
