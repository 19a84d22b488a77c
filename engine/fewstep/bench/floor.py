"""What a network's call must do at least, and so the least time that a run can take on a machine.

The operations of a call are those of its convolutions, products of matrices and attention, two for a multiply-add; what
is done element by element is not counted. The bytes are the fewest that a call can move: every weight is read once, and
what it takes and gives is read and written once, in the dtype of the contender.

    floor = calls * max(operations / rate of a product, bytes / rate of a copy)

Both rates are ceilings of large, plain work. A run may come below its floor where its weights stay in a cache from call
to call, or where a convolution is computed with fewer operations than its definition has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from fewstep.bench.contenders import Case
from fewstep.bench.subjects import Subject
from fewstep.run.inputs import SECOND_TIME, Inputs
from fewstep.run.modules import view_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """Of one call of a network.

    Attributes:
        flops: operations for one sample; None where they could not be counted.
        weights: bytes of all parameters and buffers, tables of `nn.Embedding` aside: a call reads a few rows of those.
        moved: bytes of what goes in and comes out for one sample.
    """

    flops: int | None
    weights: int
    moved: int

    def call(self, batch: int) -> dict[str, int | None]:
        """ "flops" and "bytes" of a call on a batch."""
        return {
            "flops": None if self.flops is None else batch * self.flops,
            "bytes": self.weights + batch * self.moved,
        }


@dataclass(frozen=True)
class Count:
    """What one call on one sample showed: operations (None where they could not be counted), elements of the answer."""

    flops: int | None
    answered: int


def count(subject: Subject) -> Count:
    """In one real call on one sample, of a view: what a module keeps of its calls is another's."""
    network, (x, t), named = view_of(subject.engine.module), _taken(subject), _named(subject)
    flops, answer = counted_call(lambda: network(x, t, **named))
    return Count(flops, sum(each.numel() for each in tree_flatten(answer)[0] if isinstance(each, Tensor)))


def work_of(subject: Subject, counted: Count) -> Work:
    """Of the network in the subject's dtype; operations are as many in any."""
    (x, t), named = _taken(subject), _named(subject)
    moved = _bytes([x, t, named]) + counted.answered * x.element_size()
    return Work(counted.flops, _weights(subject.engine.module), moved)


def _taken(subject: Subject) -> tuple[Tensor, Tensor]:
    engine, levels = subject.engine, subject.engine.model.schedule.t
    x = torch.zeros(1, *engine.model.shape, device=engine.device, dtype=engine.dtype)
    return x, torch.full((1,), float(levels[len(levels) // 2]), device=engine.device)


def _named(subject: Subject) -> dict[str, Tensor]:
    second = Inputs.of(subject.engine.module).second_time
    return subject.inputs(1) | ({SECOND_TIME: _taken(subject)[1]} if second else {})


def counted_call(call: Callable[[], object]) -> tuple[int | None, object]:
    """The operations of a call, and its answer; None where torch cannot count them."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, before which some set how it runs

    counter = FlopCounterMode(display=False, custom_mapping=OURS)
    try:
        with torch.no_grad(), counter:
            answer = call()
        return int(counter.get_total_flops()), answer
    except Exception:
        with torch.no_grad():
            return None, call()


def columns(case: Case, seconds: float, figures: Mapping[str, Any]) -> dict[str, float]:
    """The columns of `results.Row` that stand on ceilings.

    Args:
        case: whose steps are calls of the network.
        seconds: the median of a run.
        figures: "flops" and "bytes" of a call, and "ceiling": {"tflops", "gb_s"} of the contender's dtype; where one is
            missing, so is what stands on it.
    """
    ceiling, found = figures.get("ceiling", {}), dict[str, float]()
    floors = []
    for amount, unit, column in (("flops", 1e12, "tflops"), ("bytes", 1e9, "gb_s")):
        if figures.get(amount) is None:
            continue
        done = case.steps * figures[amount] / unit
        found[column] = done / seconds
        if column in ceiling:
            found[f"{column}_share"] = done / seconds / ceiling[column]
            floors.append(done / ceiling[column])
    if len(floors) == 2:
        found |= {"floor_ms": 1e3 * max(floors), "of_floor": seconds / max(floors)}
    return found


def _weights(module: nn.Module) -> int:
    tables = {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding)}
    held = {id(each): each for each in (*module.parameters(), *module.buffers()) if id(each) not in tables}
    return _bytes(list(held.values()))


def _bytes(held: object) -> int:
    leaves = tree_flatten(held)[0]
    return sum(each.numel() * each.element_size() for each in leaves if isinstance(each, Tensor))


def _attention(q: Shape, k: Shape, v: Shape, *_: object, **__: object) -> int:
    """Of q [B, Lq, H, D], k and v [B, Lk, H, D]: q k^T and p v."""
    del v
    return 4 * q[0] * q[1] * q[2] * q[3] * k[1]


def _attention_laid_out(q: Shape, kv: Shape, *_: object, **__: object) -> int:
    """Of q [B, Lq, H, D] and kv [B, 2, H, Lk, D]."""
    return 4 * q[0] * q[1] * q[2] * q[3] * kv[3]


def _on_a_cpu(q: Shape, k: Shape, v: Shape, *_: object, **__: object) -> int:
    """Of q [B, H, Lq, D], k [B, H, Lk, D], v [B, H, Lk, E], which torch's own table lacks."""
    return 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])


OURS: dict[Any, Callable[..., int]] = {
    torch.ops.fewstep.attention: _attention,
    torch.ops.fewstep.attention_laid_out: _attention_laid_out,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _on_a_cpu,
}
