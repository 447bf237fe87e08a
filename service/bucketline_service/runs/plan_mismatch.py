"""A state dict of another plan: what differs, and which run has that plan."""

from __future__ import annotations

from typing import Any

from bucketline_service.errors import PlanMismatch
from bucketline_service.plans.fingerprint import differences
from bucketline_service.runs.registry import Runs
from bucketline_service.runs.run_document import RunDocument

_WORDS = {
    "version": "the planner's version",
    "map": "the map",
    "valid_ids": "valid_ids",
    "buckets": "the buckets (their sizes or batch sizes)",
    "spec": "the rest of the spec",
}
_NO_PART_OF_A_PLAN = ("world_size", "epochs")


def mismatch(
    run: str, document: RunDocument, given: str, owner: tuple[str, RunDocument] | None = None
) -> PlanMismatch:
    """``given``: the state's fingerprint; ``owner``: a run of that plan, and its document."""
    differs = differences(document.fingerprint, given)
    detail = f"the state is of another plan than run {run!r}: {_told(differs)}. "
    about: dict[str, Any] = {"expected": document.fingerprint, "given": given, "differs": differs}
    remedy = "Resume the run that it was saved from, or start this one with resume: start"
    if owner is not None:
        name, of = owner
        fields = _fields(document, of, differs)
        detail += f"It is of the plan of run {name!r}" + (
            f", with another {', '.join(fields)}. " if fields else ". "
        )
        remedy = f"Resume run {name!r}, or start this one with resume: start"
        about |= {"run": name, "fields": fields}
    return PlanMismatch(detail + remedy, **about)


async def explained(runs: Runs, run: str, document: RunDocument, given: str) -> PlanMismatch:
    """The same, with a run of that plan looked for in the store."""
    async for name, found in runs.documents():
        if found is not None and found.fingerprint == given:
            return mismatch(run, document, given, (name, found))
    return mismatch(run, document, given)


def _told(differs: list[str]) -> str:
    words = [_WORDS[part] for part in differs]
    if not words:
        return "their fingerprints differ"
    return f"{', '.join(words)} {'differ' if len(words) > 1 or differs == ['buckets'] else 'differs'}"


def _fields(one: RunDocument, other: RunDocument, differs: list[str]) -> list[str]:
    """The fields of the two specs that differ, but for those that are no part of a plan: a map under another name is
    the same where its content is."""
    ours, theirs = one.spec.to_json(), other.spec.to_json()
    same = {part for part in ("map", "valid_ids") if part not in differs}
    return sorted(
        field
        for field in ours
        if ours[field] != theirs[field] and field not in same and field not in _NO_PART_OF_A_PLAN
    )
