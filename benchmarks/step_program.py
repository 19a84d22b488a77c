"""Network and update as one OpenVINO program, beside the network's program with the update on the host.

    PYTHONPATH=engine:kernels python benchmarks/step_program.py             a digit in 4 steps, two threads
    PYTHONPATH=engine:kernels python benchmarks/step_program.py --threads 1

The one program is the converted network followed by x_0 = clip(k_x x + k_m m), x' = a x + b x_0 + e m and
x_in' = c_in_next x', with x, the row's columns and the network's inputs as inputs, so another sampler or seed compiles
nothing. The other is what the engine runs: `HostStep` around the network's program. Both take the same plan from the
same noise; their images are compared first, and may differ by 1e-5 of the largest value. Then they take turns, and so
that each finds the weights of its own program in the caches, each round of one is a run that is not counted and one
that is. Printed are the medians in ms and the median gain.
"""

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import openvino
import torch
from openvino import opset13 as op
from torch import Tensor

from fewstep import Engine
from fewstep.bench.machine import describe_machine
from fewstep.run.backends.bound import BoundProgram
from fewstep.run.backends.call import Call
from fewstep.run.backends.openvino import OpenVino, model_shapes
from fewstep.run.backends.openvino_import import core_of
from fewstep.run.buffers import Place, StaticBuffers
from fewstep_kernels import COLUMN
from fewstep_kernels.host import HostStep

USED = ("k_x", "k_m", "a", "b", "e", "c_in_next", "clip")
TOLERANCE = 1e-5  # of the largest value


class OneSample:
    """A sample's buffers, and the start that every run begins from."""

    def __init__(self, engine: Engine, steps: int) -> None:
        samples = engine.samples(labels=[3], seeds=0, steps=steps)
        _, signature, prepared = engine.prepared(samples, None, watched=False)
        self.buffers = StaticBuffers.allocate(signature)
        self._place = Place(samples[0], 0, 0, 0, prepared[0])

    def begin(self) -> None:
        """Stand before the first row."""
        self.buffers.clear()
        self.buffers.fill([self._place])

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Of the network."""
        return self.buffers.x_in, self.buffers.t, *self.buffers.conditioning.values()


def with_update(network: Any) -> Any:
    """The network's model with the update behind it: two more inputs, x and the columns; it answers x' and x_in'."""
    m = network.get_results()[0].input_value(0)
    x = op.parameter(m.get_shape(), np.float32, name="x")
    columns = op.parameter([len(USED), 1, 1, 1, 1], np.float32, name="columns")
    parts = op.split(columns, op.constant(np.int64(0)), len(USED)).outputs()
    c = dict(zip(USED, (op.squeeze(part, op.constant(np.array([0]))) for part in parts), strict=True))
    x_0 = op.add(op.multiply(c["k_x"], x), op.multiply(c["k_m"], m))
    x_0 = op.minimum(op.maximum(x_0, op.negative(c["clip"])), c["clip"])
    new = op.add(op.add(op.multiply(c["a"], x), op.multiply(c["b"], x_0)), op.multiply(c["e"], m))
    results = [op.result(new), op.result(op.multiply(c["c_in_next"], new))]
    return openvino.Model(results, [*network.get_parameters(), x, columns], "step")


def on_the_host(program: BoundProgram, sample: OneSample, steps: int) -> Callable[[], None]:
    """The engine's loop."""
    host, b = HostStep(), sample.buffers

    def run() -> None:
        for _ in range(steps):
            host.begin_step(b.table, b.index, b.row, b.step, b.t, b.cond_lane, b.uncond_lane, b.r)
            host.denoise_step(b.operands(program(sample.inputs)))

    return run


def in_one(compiled: Any, sample: OneSample, steps: int) -> Callable[[], None]:
    """The loop of the one program: the columns of a row are written, and its answers copied to where it reads them."""
    b, request = sample.buffers, compiled.create_infer_request()
    x_in, x = b.x_in.permute(0, 2, 3, 1).numpy(), b.x.permute(0, 2, 3, 1).contiguous().numpy()
    columns = np.empty((len(USED), 1, 1, 1, 1), dtype=np.float32)
    t, table, places = b.t.numpy(), b.table.numpy(), [COLUMN[name] for name in USED]
    inputs = [x_in, t, *(rows.numpy() for rows in b.conditioning.values()), x, columns]
    answers = [np.empty_like(x), np.empty_like(x_in)]
    for place, memory in enumerate(inputs):
        request.set_input_tensor(place, openvino.Tensor(memory, shared_memory=True))
    for place, memory in enumerate(answers):
        request.set_output_tensor(place, openvino.Tensor(memory, shared_memory=True))

    def run() -> None:
        x[:] = b.x.numpy().transpose(0, 2, 3, 1)
        for step in range(steps):
            row = table[0, step]
            columns[:, 0, 0, 0, 0] = row[places]
            t[:] = row[COLUMN["t"]]
            request.infer(share_outputs=True)
            x[:], x_in[:] = answers
        b.x.numpy()[:] = x.transpose(0, 3, 1, 2)

    return run


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=199)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    engine = Engine.from_pretrained("digits", asked.steps, device="cpu", backend="torch")
    sample = OneSample(engine, asked.steps)
    sample.begin()
    backend = OpenVino(torch.float32, asked.threads)
    call = Call.of(sample.inputs, tuple(sample.buffers.conditioning))
    with torch.no_grad():
        network = backend.convert(engine.module, call, sample.inputs)
        program = BoundProgram(openvino, backend.compile(network, call), torch.float32, {})
        static = network.clone()
        static.reshape(model_shapes(call))
        step = core_of(openvino).compile_model(with_update(static), "CPU", backend.settings())
        runs = {
            "host": on_the_host(program, sample, asked.steps),
            "one program": in_one(step, sample, asked.steps),
        }
        images = {}
        for name, run in runs.items():
            sample.begin()
            run()
            images[name] = sample.buffers.x.clone()
        difference = float((images["host"] - images["one program"]).abs().max() / images["host"].abs().max())
        print("  ".join(f"{name} {value}" for name, value in describe_machine(torch.device("cpu")).items()))
        print(f"largest difference {difference:.1e} of the largest value, at most {TOLERANCE:.0e}")
        if not difference <= TOLERANCE:
            return 1
        found: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(asked.repeats):
            for name, run in runs.items():
                sample.begin()
                run()
                sample.begin()
                started = time.perf_counter()
                run()
                found[name].append(time.perf_counter() - started)
    gain = median(1 - one / host for host, one in zip(*found.values(), strict=True))
    print("  ".join(f"{name} {1e3 * median(times):.3f} ms" for name, times in found.items()), f" gain {gain:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
