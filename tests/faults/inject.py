"""How each kind of fault is brought about, and brought to an end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx

from tests.client.coordinators import Coordinator
from tests.faults.board import ACKS, UNAVAILABLE
from tests.faults.job import PATIENT_S, SHORT_S, Job
from tests.faults.proxy import (
    DELAY,
    KILL,
    LATE,
    Order,
    Proxy,
)
from tests.faults.schedule import MESSAGE_KINDS, Fault
from tests.faults.world import STORE_TIMEOUT_S


def inject(job: Job, fault: Fault) -> None:
    """The whole fault, up to the point where every rank has committed a step after it."""
    if fault.gap:
        job.wait("the job goes on", job.grown(ACKS, fault.gap))
    if fault.kind in ACTIONS:
        if fault.along:
            proxies, action = _wires(job, fault.along)
            for proxy in proxies:
                proxy.order(_orders(fault, action))
        ACTIONS[fault.kind](job, fault)
    else:
        on_the_wire(job, fault)
    job.recover()
    job.world.calm()


# --- processes --------------------------------------------------------------------------------------------------


def coordinator_killed(job: Job, fault: Fault) -> None:
    coordinator = _replica(job)
    with job.fault(fault.name, fault.kind):
        coordinator.kill()
        time.sleep(fault.hold_s)
        coordinator.start()


def coordinator_killed_in_request(job: Job, fault: Fault) -> None:
    """While it handles a request, before anyone knows the result."""
    lock, killed = threading.Lock(), list[Coordinator]()

    def kill(coordinator: Coordinator) -> None:
        with lock:  # of two, the first one that is asked
            if not killed:
                coordinator.signal(signal.SIGKILL)
                killed.append(coordinator)

    with job.fault(fault.name, fault.kind):
        for proxy, coordinator in zip(_client_proxies(job), job.world.coordinators, strict=False):
            proxy.order([Order(KILL, hook=partial(kill, coordinator))])
        job.wait("a request has come", lambda: bool(killed))
        job.world.calm()
        killed[0].kill()
        killed[0].start()


def all_coordinators_killed(job: Job, fault: Fault) -> None:
    with job.fault(fault.name, fault.kind):
        for coordinator in job.world.coordinators[: job.num_replicas]:
            coordinator.kill()
        time.sleep(fault.hold_s)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Coordinator.start, job.world.coordinators[: job.num_replicas]))


def redis_killed(job: Job, fault: Fault) -> None:
    with job.fault(fault.name, fault.kind):
        job.world.redis.kill()
        _is_told_to_come_back(job)
        time.sleep(fault.hold_s)
        job.world.redis.start()


def redis_restored(job: Job, fault: Fault) -> None:
    """From an older append-only file, which lacks steps of all ranks and, one time in two, a worker's lease."""
    with job.fault(fault.name, fault.kind):
        copy = job.folder / f"store-{fault.number}"
        job.world.copy_store(copy)
        if fault.num_messages % 2:
            rank = fault.rank % job.world_size
            job.kill(rank)
            job.start_worker(rank)
        job.wait("there is something to forget", job.grown(ACKS, 2))
        job.world.restore_store(copy)
        job.log.write("restored")


def redis_stopped(job: Job, fault: Fault) -> None:
    """It accepts commands but answers none, for longer than coordinators wait; then it executes them all."""
    with job.fault(fault.name, fault.kind):
        job.world.redis.pause()
        _is_told_to_come_back(job)  # when the coordinator has waited for long enough
        time.sleep(fault.hold_s)
        job.world.redis.resume()


def redis_slow(job: Job, fault: Fault) -> None:
    delay_s = STORE_TIMEOUT_S * (0.2 + 2 * fault.hold_s)  # some within the coordinators' patience, some not
    _spoil(job, fault, [job.world.store_proxy], [Order(DELAY, delay_s)] * (2 * fault.num_messages))


def _is_told_to_come_back(job: Job) -> None:
    """A coordinator without its store says so, and when to retry."""
    told = httpx.get(f"{_replica(job).url}/v1/runs/{job.run}/ranks", timeout=60)
    assert (told.status_code, told.json()["code"]) == (503, "store_unavailable"), told.text
    assert int(told.headers["Retry-After"]) > 0


def worker_killed(job: Job, fault: Fault) -> None:
    rank = fault.rank % job.world_size
    with job.fault(fault.name, fault.kind):
        job.kill(rank)
        job.start_worker(rank)


def worker_stopped(job: Job, fault: Fault) -> None:
    """The stopped worker continues long after another one has taken its rank."""
    rank = fault.rank % job.world_size
    with job.fault(fault.name, fault.kind):
        zombie = job.stop(rank)
        job.start_worker(rank)
        job.wait("its follower has committed steps", job.grown(ACKS, 1 + fault.num_messages // 3, [rank]))
        job.go_on(zombie)


def job_restarted(job: Job, fault: Fault) -> None:
    with job.fault(fault.name, fault.kind):
        job.restart(*_resume(job, fault))


def job_restarted_over_a_zombie(job: Job, fault: Fault) -> None:
    with job.fault(fault.name, fault.kind):
        zombie = job.restart(*_resume(job, fault), zombie=fault.rank % job.world_size)
        assert zombie is not None
        job.wait("the new generation has committed steps", job.grown(ACKS))
        job.go_on(zombie)


def store_outlasts_deadline(job: Job, fault: Fault) -> None:
    _outlast(job, fault, [job.world.store_proxy])


def coordinators_outlast_deadline(job: Job, fault: Fault) -> None:
    _outlast(job, fault, _client_proxies(job))


def _outlast(job: Job, fault: Fault, proxies: list[Proxy]) -> None:
    """With clients that wait for a short time only, and only for this one fault."""
    with job.fault(f"{fault.name}-deadlines", "short_deadlines", outlasts_deadline=True):
        job.restart(*_resume(job, fault), timeout_s=SHORT_S)
        job.wait("the job goes on", job.grown(ACKS))
        with job.fault(fault.name, fault.kind, outlasts_deadline=True):
            passed = job.grown(UNAVAILABLE)
            for proxy in proxies:
                (proxy.refuse if fault.num_messages % 2 else proxy.silence)()
            job.wait("every rank's deadline has passed", passed)
            for proxy in proxies:
                proxy.heal()
        job.recover()
        job.restart(*_resume(job, fault), timeout_s=PATIENT_S)


def _resume(job: Job, fault: Fault) -> tuple[object, int]:
    """From a checkpoint on another number of ranks, or from the cursors on the same."""
    if fault.from_cursor:
        return "cursor", job.world_size
    return job.checkpoint(fault.age), fault.world_size


def _replica(job: Job) -> Coordinator:
    """The one that clients are at: of two, the other may be idle since a fault."""
    return job.world.coordinators[_client_proxies(job).index(_busiest(_client_proxies(job)))]


# --- the wire ---------------------------------------------------------------------------------------------------


def on_the_wire(job: Job, fault: Fault) -> None:
    proxies, action = _wires(job, fault.kind)
    if action in MESSAGE_KINDS:
        _spoil(job, fault, proxies, _orders(fault, action))
        return
    with job.fault(fault.name, fault.kind):
        for proxy in proxies if fault.replica % 3 == 0 else [_busiest(proxies)]:
            {"cut": proxy.cut, "refuse": proxy.refuse, "silence": proxy.silence}[action]()
        time.sleep(fault.hold_s)
        job.world.calm()


def _wires(job: Job, kind: str) -> tuple[list[Proxy], str]:
    side, _, action = kind.partition("_")
    return _client_proxies(job) if side == "client" else [job.world.store_proxy], action


def _client_proxies(job: Job) -> list[Proxy]:
    return job.world.client_proxies[: job.num_replicas]


def _busiest(proxies: list[Proxy]) -> Proxy:
    return max(proxies, key=lambda proxy: proxy.num_connections)


def _orders(fault: Fault, action: str) -> list[Order]:
    return [Order(action, fault.hold_s if action in (DELAY, LATE) else 0.0)] * fault.num_messages


def _spoil(job: Job, fault: Fault, proxies: list[Proxy], orders: list[Order]) -> None:
    """So many messages in all, on whichever of the wires they come."""

    def num_done() -> int:
        return sum(proxy.num_done for proxy in proxies)

    with job.fault(fault.name, fault.kind):
        wanted = num_done() + len(orders)
        for proxy in proxies:
            proxy.order(orders)
        job.wait("the messages have been spoilt", lambda: num_done() >= wanted)
        job.world.calm()


ACTIONS: dict[str, Callable[[Job, Fault], None]] = {
    action.__name__: action
    for action in (
        coordinator_killed, coordinator_killed_in_request, all_coordinators_killed, redis_killed, redis_restored,
        redis_stopped, redis_slow, worker_killed, worker_stopped, job_restarted, job_restarted_over_a_zombie,
        store_outlasts_deadline, coordinators_outlast_deadline,
    )
}  # fmt: skip
