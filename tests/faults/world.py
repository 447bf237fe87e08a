"""The system under faults: a real Redis, coordinators on it, and a proxy in front of each of them."""

from __future__ import annotations

import os
import random
import shutil
from contextlib import ExitStack
from pathlib import Path

from bucketline import Operator
from tests.client.coordinators import Coordinator
from tests.faults.proxy import Proxy, read_http, read_resp
from tests.redis_server import RedisServer
from tests.redis_sets import free_ports

STORE_TIMEOUT_S = 0.7
MAP, NUM_IMAGES = "pictures", 720


def pictures() -> bytes:
    """A map of sizes as cameras and screens make them."""
    sizes = random.Random(1)
    rows = [f"{i},{sizes.randrange(400, 2000)},{sizes.randrange(400, 2000)}" for i in range(NUM_IMAGES)]
    return "\n".join(["id,width,height", *rows]).encode()


class World:
    """Clients know ``urls``; the driver asks the coordinators themselves (``direct_urls``)."""

    def __init__(self, folder: Path, num_replicas: int) -> None:
        self._stack = ExitStack()
        with ExitStack() as stack:
            self.redis = stack.enter_context(RedisServer())
            # none that an outgoing connection may get while nobody listens there
            ports = iter(free_ports(1 + 2 * num_replicas))
            self.store_proxy = Proxy(next(ports), read_resp, ("127.0.0.1", self.redis.port)).start()
            stack.callback(self.store_proxy.close)
            store = f"redis://127.0.0.1:{self.store_proxy.port}/0"
            self.coordinators: list[Coordinator] = []
            self.client_proxies: list[Proxy] = []
            for _ in range(num_replicas):
                port = next(ports)
                flags = ("--port", str(port), "--store", store, "--store-timeout-s", str(STORE_TIMEOUT_S))
                self.coordinators.append(Coordinator(folder, *flags))
                stack.callback(self.coordinators[-1].kill)
                self.client_proxies.append(Proxy(next(ports), read_http, ("127.0.0.1", port)).start())
                stack.callback(self.client_proxies[-1].close)
            self.operator = Operator([coordinator.url for coordinator in self.coordinators])
            stack.callback(self.operator.close)
            self.operator.put_map(MAP, pictures(), format="csv")
            self._stack = stack.pop_all()

    @property
    def direct_urls(self) -> list[str]:
        return [coordinator.url for coordinator in self.coordinators]

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{proxy.port}" for proxy in self.client_proxies]

    def copy_store(self, target: Path) -> None:
        """Redis' append-only file, as it is on disk now."""
        target.mkdir()
        for source in self.redis.directory.glob("appendonly*"):
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, target / source.name)

    def restore_store(self, source: Path) -> None:
        """What a bad backup does: Redis dies, and comes back as it was at the copy."""
        self.redis.kill()
        for old in self.redis.directory.glob("appendonly*"):
            (shutil.rmtree if old.is_dir() else os.remove)(old)
        shutil.copytree(source, self.redis.directory, dirs_exist_ok=True)
        self.redis.start()

    def calm(self) -> None:
        """No fault on any wire."""
        for proxy in (self.store_proxy, *self.client_proxies):
            proxy.heal()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
