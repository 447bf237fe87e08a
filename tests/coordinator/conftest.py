from tests.worlds import api, coco, put_run, store_url, world

__all__ = ["api", "coco", "put_run", "store_url", "world"]
