"""The planners that a run can name, each registered once: how it is built, and what sets it apart from the others.

Nothing outside this folder compares a planner's name: the spec's choices, the reference and all checks derive from
``PLANNERS``.
"""

from bucketline_service.planning.planner_kinds.kind import EpochServed, PlannerKind
from bucketline_service.planning.planner_kinds.line import LINE
from bucketline_service.planning.planner_kinds.novelai import NOVELAI

__all__ = ["DEFAULT", "PLANNERS", "EpochServed", "PlannerKind"]

PLANNERS: dict[str, PlannerKind] = {kind.name: kind for kind in (LINE, NOVELAI)}
DEFAULT = LINE
