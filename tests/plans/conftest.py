from tests.worlds import (
    api,
    coco,
    put_run,
    shared_api,
    shared_replica,
    shared_world,
    world,
)

__all__ = ["api", "coco", "put_run", "shared_api", "shared_replica", "shared_world", "world"]
