"""From Redis' answers to the port's records. Raises ``Damaged`` if an answer is not a record."""

from __future__ import annotations

from collections.abc import Sequence

from bucketline_service.store.damage import damaged, reading
from bucketline_service.store.port import (
    Commit,
    CommitRequest,
    Cursor,
    Generation,
    GenerationId,
    ImageReport,
    ImageReports,
    Outcome,
    RankRecord,
    RunRecord,
)
from bucketline_service.store.redis import keys


def pack_commit(request: CommitRequest) -> str:
    """The request in the format that ``commit.lua`` reads."""
    to_epoch, to_step = request.cursor or ("-", "-")
    from_epoch, from_step = request.not_before or ("-", "-")
    return (
        f"{request.rank} {request.lease} {keys.pack_id(request.generation)} {request.trusted:d} "
        f"{float(request.now_s)!r} {to_epoch} {to_step} {from_epoch} {from_step}"
    )


def unpack_commit(answer: bytes, generation: Generation) -> Commit:
    outcome, epoch, step = answer.decode().split(" ")
    return Commit(Outcome(outcome), Cursor(int(epoch), int(step)), generation)


def run_record(run: str, packed: bytes | None, document: bytes | None) -> RunRecord:
    if document is None:
        raise damaged(run, "its document", "it is missing")
    return RunRecord(document, generation(run, packed))


def generation(run: str, packed: bytes | None) -> Generation:
    if packed is None:
        raise damaged(run, "the generation", "it is not a string")
    with reading(run, "the generation"):
        return keys.unpack_generation(packed)


def rank(run: str, rank: bytes | int, packed: bytes) -> tuple[GenerationId, RankRecord]:
    shown = rank.decode(errors="replace") if isinstance(rank, bytes) else rank
    with reading(run, f"the record of rank {shown}"):
        return keys.unpack_rank(int(rank), packed)


def image_reports(
    run: str,
    num_images: int,
    after: int,
    not_kept: Sequence[bytes],
    images: Sequence[bytes],
    packed: Sequence[bytes | None],
) -> ImageReports:
    """``after``: the number before the first one of ``images``."""
    with reading(run, "a report of an image"):
        num_not_kept = sum(int(value.split(b" ")[0]) for value in not_kept)
        found: list[ImageReport] = [
            keys.unpack_report(number, image, report or b"")
            for number, (image, report) in enumerate(zip(images, packed, strict=True), after + 1)
        ]
    return ImageReports(found, num_images, num_not_kept)
