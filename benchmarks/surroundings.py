"""What surrounds the network on a CPU: all of `Engine.sample` but the network's calls, as a share of an image's time.

    PYTHONPATH=engine:kernels python benchmarks/surroundings.py                            a digit in 4 steps, OpenVINO
    PYTHONPATH=engine:kernels python benchmarks/surroundings.py --backend torch --steps 1 --batch 4 --threads 1

In each round an image is drawn, and then the network's last call is repeated by hand as often as the image took it, on
a copy of its inputs. So the image finds the caches as the network left them, as one image after another does. Printed
are the medians of all rounds in ms, and the median share, which promises at most 10 % of a digit in 4 steps. `by hand`
beside `network` tells whether something around the network's calls slows the calls themselves: a thread that waits
busily for more work of its own does, where another library needs the core. A busy machine has emptier caches.
"""

import argparse
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor

from fewstep import Engine
from fewstep.bench.machine import describe_machine
from fewstep.run.backends import BACKENDS, Network

SHARE = 0.1  # of an image
WARM_UP = 10  # rounds


class Timed:
    """An engine's network, its calls timed and the last one kept."""

    def __init__(self, network: Network) -> None:
        self._network, self.seconds = network, 0.0
        self.last: tuple[Tensor, Tensor, Mapping[str, Tensor]]

    def __call__(self, x: Tensor, t: Tensor, **arguments: Tensor) -> Any:
        started = time.perf_counter()
        answer = self._network(x, t, **arguments)
        self.seconds += time.perf_counter() - started
        self.last = x, t, arguments
        return answer

    def copied(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The inputs of the last call."""
        x, t, arguments = self.last
        return x.clone(), t.clone(), {name: each.clone() for name, each in arguments.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


def measured(engine: Engine, steps: int, batch: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each round."""
    network = engine._network
    timed = Timed(network)
    vars(engine)["_network"] = timed
    asked: dict[str, Any] = {"labels": engine.model.conditions.spread(batch), "steps": steps, "seeds": 0}
    engine.sample(batch, **asked)
    x, t, arguments = timed.copied()
    found: dict[str, list[float]] = {"image": [], "network": [], "around": [], "by hand": []}
    for _ in range(WARM_UP + repeats):
        timed.seconds = 0.0
        started = time.perf_counter()
        engine.sample(batch, **asked)
        image, calls = time.perf_counter() - started, timed.seconds
        started = time.perf_counter()
        with torch.no_grad():
            for _ in range(steps):
                network(x, t, **arguments)
        by_hand = time.perf_counter() - started
        for name, seconds in zip(found, (image, calls, image - calls, by_hand), strict=True):
            found[name].append(seconds)
    return {name: rounds[WARM_UP:] for name, rounds in found.items()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--backend", choices=BACKENDS, default="openvino")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=199)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    engine = Engine.from_pretrained(asked.model, asked.steps, device="cpu", backend=asked.backend)
    found = measured(engine, asked.steps, asked.batch, asked.repeats)
    share = median(around / image for around, image in zip(found["around"], found["image"], strict=True))
    print("  ".join(f"{name} {value}" for name, value in describe_machine(torch.device("cpu")).items()))
    print(f"{asked.model}, {asked.steps} steps, batch {asked.batch}, {engine.stats()['backend']['name']}, ms:")
    print("  ".join(f"{name} {1e3 * median(rounds):.3f}" for name, rounds in found.items()))
    print(f"around the network: {share:.1%} of an image, {'at most' if share <= SHARE else 'more than'} {SHARE:.0%}")


if __name__ == "__main__":
    main()
