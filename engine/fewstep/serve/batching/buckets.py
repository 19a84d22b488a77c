"""The sizes that a session may have: one where it computes only the lanes in use, or where bits may depend on none."""

from dataclasses import dataclass

from fewstep.engine import Engine


@dataclass(frozen=True, order=True)
class Bucket:
    """A size.

    Attributes:
        lanes: rows of the network's batch that samples may own; a session has one more, which is scratch.
        slots: samples at once.
    """

    lanes: int
    slots: int


def buckets_of(engine: Engine, slots: int) -> tuple[Bucket, ...]:
    """The sizes of an engine's sessions for at most so many samples, smallest first.

    A batch-invariant engine has one, the size of every batch that it runs. A CPU computes only the lanes in use, so the
    largest serves all. Else every lane costs its share of a step whether it is used or not, and the sizes are powers
    of two: each may have a captured graph, and there are few.
    """
    if engine.batch_invariant:
        return (Bucket(engine.max_batch, engine.max_batch),)
    if engine.device.type == "cpu" and engine.stats()["runner"] == "eager":
        return (Bucket(2 * slots, slots),)
    sizes, lanes = [], 1
    while lanes < 2 * slots:
        sizes.append(Bucket(lanes, min(lanes, slots)))
        lanes *= 2
    return (*sizes, Bucket(2 * slots, slots))


def bucket_for(buckets: tuple[Bucket, ...], lanes: int) -> Bucket:
    """The smallest that has so many lanes, or the largest there is."""
    return next((bucket for bucket in buckets if bucket.lanes >= lanes), buckets[-1])
