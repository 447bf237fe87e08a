"""Documents stored before run specs had ``steps`` give the same plans as then: see ``tests/recorded_runs.py``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from bucketline_service.maps import MapStore
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.lockstep_plans import Locksteps
from bucketline_service.planning.planner_port import BatchBlock
from bucketline_service.plans.run_images import Sources
from bucketline_service.runs.new_run import valid_ids
from bucketline_service.runs.run_document import RunDocument
from tests.recorded_runs import MAPS, RUNS, Batch, digest, document


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MapStore]:
    folder = tmp_path_factory.mktemp("recorded")
    store = MapStore(folder / "maps")
    for name, csv in MAPS.items():
        (folder / f"{name}.csv").write_text(csv)
        store.put(name, folder / f"{name}.csv", "csv")
    yield store
    store.close()


class Plan:
    """The plan of a stored document, over the maps whose digests it has."""

    def __init__(self, run: str, maps: MapStore) -> None:
        self.document = found = RunDocument.decode(run, document(run))
        self.spec = found.plan_spec(run)
        names = [each.map for each in found.spec.sources]
        self.sources = Sources(names, [maps.get_digest(each) for each in found.map_digests])
        valid = valid_ids(found.spec, found.valid_digests, maps)
        rows = self.sources.rows_of(valid, found.spec.maps is not None)
        images = self.sources.images
        prepared = prepare(self.spec, images, valid_rows=rows)
        planner = new_planner(self.spec, prepared, images, self.sources.int_ids)
        self.locksteps = Locksteps(self.spec, prepared, images, planner)

    def dealt(self, epoch: int, world_size: int) -> list[Batch]:
        """The batches that ``world_size`` ranks receive from the start of the epoch, in the order of the stream."""
        lockstep = self.locksteps.lockstep_for(world_size, self.document.spec.world_size)
        planner = self.locksteps.of(lockstep).planner
        num = planner.num_batches(epoch, world_size)
        positions = np.arange(num - num % world_size, dtype=np.int64)
        return list(self.batches(planner.batches(epoch, positions, world_size)))

    def batches(self, block: BatchBlock) -> Iterator[Batch]:
        ids = self.sources.ids(block.rows)
        names = self.sources.map_names(block.rows) if self.sources.are_several else None
        for i, bucket in enumerate(block.buckets.tolist()):
            here = slice(*block.bounds[i : i + 2].tolist())
            width, height = self.spec.targets[bucket]
            num_frames = int(self.spec.target_frames[bucket]) if self.spec.frame_buckets else None
            repeats = np.flatnonzero(block.repeats[here]).tolist()
            yield Batch(bucket, width, height, num_frames, ids[here], names and names[here], repeats)


@pytest.mark.parametrize("run", RUNS)
def test_a_stored_document_gives_the_plan_that_it_gave(run: str, maps: MapStore) -> None:
    """``plan_spec`` compares its fingerprint. Then every batch is compared, on its own world size and on others."""
    plan = Plan(run, maps)
    recorded = RUNS[run]
    for epoch, (one, two) in recorded["first"].items():
        found = plan.dealt(int(epoch), recorded["spec"]["world_size"])[:2]
        assert [list(batch) for batch in found] == [one, two]
    for world_size, epochs in recorded["streams"].items():
        for epoch, (num_batches, sha256) in epochs.items():
            found = plan.dealt(int(epoch), int(world_size))
            assert (len(found), digest(found)) == (num_batches, sha256), (
                f"epoch {epoch} on {world_size} ranks"
            )
