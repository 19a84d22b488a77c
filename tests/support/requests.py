"""All that an engine can be asked for: functions of two engines on one network, to what they draw."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fewstep import Engine, Image, Inpaint, Resume, Step
from support.small import SHAPE, PureNet, picture, small_engine

ASKED: dict[str, Any] = {"labels": [1, 2], "seeds": [3, 4], "steps": 3}
CHANNELS = 6  # of the answer: as many again as x has, for a learned variance


class Doubling(nn.Module):
    """A decoder: each pixel four times, which is a bit brighter than it was."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(z * 1.1, scale_factor=2.0)


Pair = tuple[Engine, Engine]  # one that runs all at once, and one in batches of two that decodes


def pair(net: PureNet, **options: Any) -> Pair:
    return small_engine(net, **options), small_engine(net, max_batch=2, decoder=Doubling(), **options)


def half_a_mask() -> Tensor:
    mask = torch.zeros(8, 8)
    mask[:, :4], mask[:, 4] = 1.0, 0.5
    return mask


def asked(**request: Any) -> Callable[[Pair], Tensor]:
    return lambda engines: engines[0].sample(**(ASKED | request)).images


def watched(engines: Pair) -> Tensor:
    """What a callback keeps of each step is still what it was at the end."""
    kept: list[Tensor] = []

    def look(step: Step) -> None:
        kept.extend((step.x, step.x_0))

    images = engines[0].sample(**ASKED, callback=look).images
    return torch.stack([*kept, images])


def stopped(engines: Pair) -> Tensor:
    return engines[0].sample(**ASKED, callback=lambda step: step.index < 1).images


def cancelled(engines: Pair) -> Tensor:
    return engines[0].sample(**ASKED, callback=lambda step: step.cancel(0) if step.index == 0 else None).images


def resumed(engines: Pair) -> Tensor:
    states: list[Any] = []
    engines[0].sample(
        **ASKED, sampler="dpmpp_2m", callback=lambda step: states.append([*map(step.state, step.samples)])
    )
    return engines[0].sample(start=Resume(states[0])).images


def probable(engines: Pair) -> Tensor:
    return engines[0].sample(**ASKED, sampler="ddpm", log_prob=True).log_prob / 100


def in_bytes(engines: Pair) -> Tensor:
    return engines[0].sample(**ASKED, output="uint8").images.float() / 127.5 - 1


def in_batches(engines: Pair) -> Tensor:
    return engines[1].sample(labels=[1, 2, 3, 4], seeds=0, steps=2).images


def in_batches_of_bytes(engines: Pair) -> Tensor:
    return engines[1].sample(labels=[1, 2, 3, 4], seeds=0, steps=2, output="uint8").images.float() / 127.5 - 1


def admitted(engines: Pair) -> Tensor:
    """Samples that come while others run, one of them guided, one cancelled."""
    first, second, third = (
        engines[0].samples(labels=[label], seeds=label, steps=steps, sampler=sampler, guidance_scale=scale)
        for label, steps, sampler, scale in ((1, 4, "ddpm", 1.0), (2, 2, "ddim", 3.0), (3, 3, "lcm", 1.0))
    )
    found = []
    with engines[0].session(2, lanes=4, steps=4) as session:
        [one] = session.admit(*first)
        session.advance(1)
        [two] = session.admit(*second)
        session.advance(1)
        session.cancel(two)
        [three] = session.admit(*third)
        session.advance()
        found = [session.take(slot).values for slot in (one, three)]
    return torch.cat(found)


REQUESTS: dict[str, Callable[[Pair], Tensor]] = {
    "labels and seeds": asked(),
    "no labels": asked(labels=None),
    "guidance": asked(guidance_scale=3.0),
    "rescaled guidance": asked(guidance_scale=3.0, guidance_rescale=0.7),
    "one of two guided": asked(guidance_scale=[1.0, 4.0]),
    "samplers and steps of each": asked(sampler=["ddpm", "euler"], steps=[2, 4]),
    "multistep": asked(sampler="dpmpp_2m", steps=4),
    "learned variance": asked(sampler="ddpm", variance="learned_range"),
    "dynamic threshold": asked(sampler="ddpm", clip={"limit": 2.0, "ratio": 0.9}),
    "image start": asked(start=Image(picture(), strength=0.5)),
    "inpainting": asked(start=Inpaint(picture(), half_a_mask())),
    "given noise": asked(noise=torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))),
    "further condition": asked(condition={"style": torch.linspace(-1, 1, 2 * CHANNELS).view(2, CHANNELS)}),
    "callback": watched,
    "stopped": stopped,
    "cancelled": cancelled,
    "resumed": resumed,
    "log-probability": probable,
    "bytes": in_bytes,
    "batches and decoder": in_batches,
    "batches of decoded bytes": in_batches_of_bytes,
    "session": admitted,
}
