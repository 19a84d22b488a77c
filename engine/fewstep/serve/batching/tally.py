"""What a batcher has done, counted by the thread that does it and read by any."""

from collections import Counter
from typing import Any


class Tally:
    """Counters that only grow. One thread writes; a reader may see some of them a step older than the others.

    Attributes:
        finished: images, by member.
        failed: tickets, by the reason of `Failed`.
        steps: of sessions, by member; and `rows`, the samples that took part in them, summed.
        step_seconds: how long the steps took, summed by (member, rows of the network's batch in use); `step_counts`:
            how many they were.
        queue_seconds, run_seconds: summed over the images that are finished.
        restarts: samples that had to begin again after a fault beside them.
        faults: steps that failed, by kind.
        swaps: changes of the adapters in some weights.
        deaf: listeners that raised.
    """

    def __init__(self) -> None:
        self.finished, self.failed = Counter[str](), Counter[str]()
        self.steps, self.rows = Counter[str](), Counter[str]()
        self.step_seconds: dict[tuple[str, int], float] = {}
        self.step_counts = Counter[tuple[str, int]]()
        self.queue_seconds = self.run_seconds = self.device_seconds = 0.0
        self.restarts = self.swaps = self.deaf = 0
        self.faults = Counter[str]()

    def step(self, member: str, samples: int, lanes: int, seconds: float) -> None:
        """A step of a session."""
        self.steps[member] += 1
        self.rows[member] += samples
        key = member, lanes
        self.step_counts[key] += 1
        self.step_seconds[key] = self.step_seconds.get(key, 0.0) + seconds
        self.device_seconds += seconds

    def seconds_per_image(self) -> float:
        """Of the device, as far as is known; 0 before the first image."""
        return self.device_seconds / max(1, self.finished.total())

    def read(self) -> dict[str, Any]:
        """The counters, as `Batcher.stats` has them."""
        by_lanes: dict[str, dict[int, dict[str, float]]] = {}
        for (member, lanes), seconds in list(self.step_seconds.items()):
            by_lanes.setdefault(member, {})[lanes] = {"count": self.step_counts[member, lanes], "seconds": seconds}
        steps, rows = dict(self.steps), dict(self.rows)
        return {
            "finished": self.finished.total(),
            "finished_by_member": dict(self.finished),
            "failed": dict(self.failed),
            "steps": steps,
            "rows": rows,
            "occupancy": {member: rows.get(member, 0) / count for member, count in steps.items() if count},
            "step_seconds": by_lanes,
            "device_seconds": self.device_seconds,
            "queue_seconds": self.queue_seconds,
            "run_seconds": self.run_seconds,
            "restarts": self.restarts,
            "faults": dict(self.faults),
            "lora_swaps": self.swaps,
            "listener_errors": self.deaf,
        }
