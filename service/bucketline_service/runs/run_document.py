"""What the store keeps of a run's spec, and how it is read back."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from bucketline_service.errors import BucketlineError
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.plans.fingerprint import as_put, check_release, fingerprint
from bucketline_service.spec.run_spec import RunSpec
from bucketline_service.store.damage import damaged


@dataclass(frozen=True)
class RunDocument:
    """``map_digests`` and ``valid_digests``, of the valid ids or None, one of each map. ``fitted_sizes``: (width,
    height) of each bucket of a ladder that hangs on the images, as found when the run was put, or None."""

    spec: RunSpec
    fingerprint: str
    map_digests: list[str]
    valid_digests: list[str | None]
    created_at_s: float
    fitted_sizes: list[tuple[int, int]] | None = None

    def encode(self) -> bytes:
        about = {**self.__dict__, "spec": self.spec.to_json()}
        return json.dumps(about, sort_keys=True).encode()

    @classmethod
    def decode(cls, run: str, data: bytes) -> RunDocument:
        """Raises ``Damaged`` where it is none."""
        try:
            return _ADAPTER.validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise damaged(run, "its document", f"{where}: {first['msg']}".lstrip(": ")) from None

    @property
    def digests(self) -> dict[str, str]:
        """Of each map that the run needs, by its name."""
        found = dict(zip([each.map for each in self.spec.sources], self.map_digests, strict=True))
        for each, digest in zip(self.spec.sources, self.valid_digests, strict=True):
            if isinstance(each.valid_ids, str) and digest is not None:
                found[each.valid_ids] = digest
        return found

    def plan_spec(self, run: str) -> PlanSpec:
        """Raises ``PlanMismatch`` for a run of another release, and ``Damaged`` where the fingerprint is not that of
        the rest: then other batches would be handed out under it."""
        check_release(self.fingerprint)
        try:
            plan = as_put(self.spec.plan_spec(self.fitted_sizes, self.spec.maps or ()), self.fingerprint)
            given = fingerprint(plan, self.map_digests, self.valid_digests)
        except (BucketlineError, AssertionError) as error:
            raise damaged(run, "its document", str(error) or "a field is missing") from error
        if given != self.fingerprint:
            raise damaged(run, "its document", f"its fingerprint is that of another plan than {given}")
        return plan


_ADAPTER = TypeAdapter(RunDocument)
