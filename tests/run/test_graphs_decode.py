"""The end of a run, decoder and pixels, under both runners: with a recorder in the capture's place, and on a GPU."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep import Engine, FewstepError, NonFiniteWarning, Resume, Step
from fewstep.run.buffers import State, StaticBuffers
from fewstep.run.decode import Decoder
from fewstep.run.decode import decode as real_decode
from fewstep.run.graphs import runner as graph_runner
from support.recorder import CaptureError
from support.runners import engines, used_three_times
from support.small import SHAPE, SmallNet

BASE: dict[str, Any] = {"labels": [1, 2], "seeds": [3, 4], "sampler": "ddpm"}


class SmallDecoder(nn.Module):
    """Latents [B, 3, 8, 8] to pictures [B, 1, 16, 16], and a count of the times that Python called it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.ConvTranspose2d(3, 1, 2, stride=2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 1.5 * torch.tanh(self.conv(x))  # some beyond [-1, 1], to be clamped


decoders = pytest.mark.parametrize("decoder", [None, SmallDecoder()], ids=["x is the image", "decoded"])
outputs = pytest.mark.parametrize("output", ["float", "uint8"])
lengths = pytest.mark.parametrize("steps", [1, 4, 12], ids=["one step", "unrolled", "step by step"])


@decoders
@outputs
@lengths
def test_graph_equals_eager_bitwise(device: str, decoder: nn.Module | None, output: str, steps: int) -> None:
    eager, graph, runner = engines(device, decoder=decoder)
    arguments = BASE | {"steps": steps, "output": output}
    found = used_three_times(graph, **arguments)
    assert torch.equal(found, eager.sample(**arguments).images)
    assert found.device.type == device
    assert runner.stats()["captures"] == runner.stats()["hits"] == 1


@decoders
@lengths
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=["32", "16", "64 bits"])
def test_pixels_are_those_of_the_float_images(
    device: str,
    decoder: nn.Module | None,
    steps: int,
    dtype: torch.dtype,
) -> None:
    for engine in engines(device, decoder=decoder, dtype=dtype, prediction="x_0")[:2]:
        floats = [engine.sample(**BASE, steps=steps) for _ in range(3)][-1]
        pixels = [engine.sample(**BASE, steps=steps, output="uint8") for _ in range(3)][-1]
        assert pixels.images.dtype == torch.uint8
        assert pixels.images.shape == ((2, 16, 16, 1) if decoder else (2, 8, 8, 3))
        assert np.array_equal(pixels.numpy(), floats.numpy())
        assert len(np.unique(pixels.numpy())) > 20


def test_the_decode_is_in_the_graph_of_an_unrolled_run_and_a_second_one_step_by_step(device: str) -> None:
    decoder = SmallDecoder()
    _, graph, runner = engines(device, decoder=decoder)
    for steps, second in ((1, False), (4, False), (12, True)):
        used_three_times(graph, **BASE, steps=steps, output="uint8")
        entry = runner.cache.items()[-1][1]
        assert (entry.decode is not None) is second
        assert entry.bytes == entry.graph.bytes + (entry.decode.bytes if entry.decode else 0)
        before = decoder.calls
        graph.sample(**BASE, steps=steps, output="uint8")
        assert decoder.calls == before


def test_pixels_are_captured_exactly_once_and_only_where_asked_for(device: str) -> None:
    _, graph, runner = engines(device)
    used_three_times(graph, **BASE)
    ((key, entry),) = runner.cache.items()
    assert key.signature.output is None
    assert entry.buffers.images is entry.buffers.finite is entry.decode is None
    used_three_times(graph, **BASE, output="uint8")
    assert runner.stats()["captures"] == 2
    graph.sample(**BASE)
    graph.sample(**(BASE | {"seeds": 9, "sampler": "lcm"}), output="uint8")
    assert runner.stats()["captures"] == 2
    assert runner.stats()["hits"] == 4


@outputs
def test_outputs_are_never_overwritten(device: str, output: str) -> None:
    _, graph, runner = engines(device, decoder=SmallDecoder())
    kept = used_three_times(graph, labels=[1], seeds=[1], output=output)
    copy = kept.clone()
    ((_, entry),) = runner.cache.items()
    aliased = entry.buffers.images
    assert aliased is not None
    assert torch.equal(aliased, kept)
    graph.sample(labels=[2], seeds=[2], output=output)
    assert torch.equal(kept, copy)
    assert not torch.equal(aliased, kept)  # what the user would have held without the copy


@decoders
@outputs
def test_callbacks_cancel_and_stop(device: str, decoder: nn.Module | None, output: str) -> None:
    eager, graph, runner = engines(device, decoder=decoder, max_batch=2)

    def cancel(step: Step) -> None:
        if step.index == 1 and 0 in step.samples:
            step.cancel(0)

    def stop(step: Step) -> bool:
        return step.index < 1

    for callback, cancelled in ((cancel, [True, False, False]), (stop, [True, True, True])):
        arguments: dict[str, Any] = {"labels": [1, 2, 3], "seeds": 0, "callback": callback}
        wanted = eager.sample(**arguments, output=output)
        found = [graph.sample(**arguments, output=output) for _ in range(3)][-1]
        assert found.cancelled == cancelled
        ran = [True, True, callback is cancel]  # the third is in a batch of its own
        torch.testing.assert_close(found.images, wanted.images, rtol=0, atol=0, equal_nan=True)
        assert [bool(image.isfinite().all()) for image in eager.sample(**arguments).images] == ran
        assert [bool(image.any()) for image in found.images] == (ran if output == "uint8" else [True] * 3)
        assert output == "float" or list(found.finite) == ran
        if all(ran):
            assert np.array_equal(found.numpy(), eager.sample(**arguments).numpy())
        else:
            with pytest.raises(FewstepError, match=r"sample 2 \(seed 2\): there is no image, as it was cancelled"):
                found.numpy()
    assert runner.stats()["hits"] > 0


def test_a_large_request_a_resumed_one_and_any_company(device: str) -> None:
    eager, graph, _ = engines(device, decoder=SmallDecoder(), batch_invariant=True, max_batch=4)
    many: dict[str, Any] = {"labels": list(range(7)), "seeds": 0, "output": "uint8"}
    whole = used_three_times(graph, **many)
    assert torch.equal(whole, eager.sample(**many).images)
    alone = graph.sample(labels=[5], seeds=[5], output="uint8").images
    assert torch.equal(alone, whole[5:6])

    states: list[State] = []

    def keep(step: Step) -> bool:
        states.append(step.state(0))
        return False

    graph.sample(labels=[5], seeds=[5], callback=keep)
    assert torch.equal(graph.sample(start=Resume(states), output="uint8").images, alone)


def test_pixels_of_a_nan_name_the_sample(device: str) -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            zero_at_1 = (torch.arange(len(x), device=x.device) != 1).to(x)
            return x / zero_at_1[:, None, None, None]

    for engine in engines(device, decoder=Breaks())[:2]:
        for _ in range(3):
            with pytest.warns(NonFiniteWarning, match=r"^sample 1 \(seed 4\): the image is not finite"):
                samples = engine.sample(**BASE, output="uint8")
        assert samples.finite == [True, False]
        with pytest.raises(FewstepError, match=r"^sample 1 \(seed 4\): the image is not finite"):
            samples.numpy()
    assert samples.images[0].any()


def test_a_decoder_runs_in_its_own_dtype(device: str) -> None:
    eager, graph, _ = engines(device, decoder=SmallDecoder().double(), dtype=torch.bfloat16)
    images = used_three_times(graph, **BASE)
    assert images.dtype == torch.float32
    assert torch.equal(images, eager.sample(**BASE).images)


def planted(decode: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Engine, Engine]:
    """Both engines, the graph one with a faulty last stage."""
    eager, graph, _ = engines("cpu", SmallNet(), decoder=SmallDecoder())
    monkeypatch.setattr(graph_runner, "decode", decode)
    return eager, graph


@pytest.mark.parametrize("steps", [4, 12], ids=["unrolled", "step by step"])
def test_planted_numbers_by_value_in_the_decode(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    arguments = BASE | {"steps": steps, "output": "uint8"}

    def reads_on_the_host(decoder: Decoder, buffers: StaticBuffers) -> None:
        buffers.x.div_(float(buffers.x.abs().max()))
        real_decode(decoder, buffers)

    with pytest.raises(CaptureError, match="reads a value on the host"):
        used_three_times(planted(reads_on_the_host, monkeypatch)[1], **arguments)

    count = iter(range(100))

    def counts_on_the_host(decoder: Decoder, buffers: StaticBuffers) -> None:
        buffers.x.mul_(1.0 + next(count))
        real_decode(decoder, buffers)

    with pytest.raises(CaptureError, match="by value"):
        used_three_times(planted(counts_on_the_host, monkeypatch)[1], **arguments)

    scale = {"value": 1.0}

    def a_frozen_number(decoder: Decoder, buffers: StaticBuffers) -> None:
        buffers.x.mul_(scale["value"])
        real_decode(decoder, buffers)

    eager, graph = planted(a_frozen_number, monkeypatch)
    same = eager.sample(**arguments).images
    assert torch.equal(used_three_times(graph, **arguments), same)
    scale["value"] = 0.5  # what eager code would now do is not what the graph does
    assert torch.equal(graph.sample(**arguments).images, same)


@pytest.mark.parametrize("steps", [4, 12], ids=["unrolled", "step by step"])
def test_planted_fresh_tensors_in_the_decode(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    arguments = BASE | {"steps": steps, "output": "uint8"}

    def from_host_data(decoder: Decoder, buffers: StaticBuffers) -> None:
        buffers.x.mul_(torch.tensor(1.0))
        real_decode(decoder, buffers)

    with pytest.raises(CaptureError, match="freezes host data"):
        used_three_times(planted(from_host_data, monkeypatch)[1], **arguments)

    def rebinds_the_state(decoder: Decoder, buffers: StaticBuffers) -> None:
        buffers.x = buffers.x * 1.0
        real_decode(decoder, buffers)

    with pytest.raises(CaptureError, match="new address"):
        used_three_times(planted(rebinds_the_state, monkeypatch)[1], **arguments)

    def rebinds_the_images(decoder: Decoder, buffers: StaticBuffers) -> None:
        """Not in the buffers that a replay writes: the images of the capture stay there."""
        real_decode(decoder, buffers)
        assert buffers.images is not None
        buffers.images = buffers.images.clone()
        if buffers.finite is not None:
            buffers.finite = torch.ones_like(buffers.finite)

    with pytest.raises(CaptureError, match="new address"):
        used_three_times(planted(rebinds_the_images, monkeypatch)[1], **arguments)


def test_an_evicted_key_gives_back_both_graphs_and_their_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    eager, graph, runner = engines("cpu", decoder=SmallDecoder())
    runner.cache.budget_bytes = 200
    by_step = BASE | {"steps": 12, "output": "uint8"}
    used_three_times(graph, **by_step)
    ((_, entry),) = runner.cache.items()
    assert entry.bytes == 200
    used_three_times(graph, **BASE, output="uint8")
    assert entry.decode is not None
    for each in (entry.graph, entry.decode):
        with pytest.raises(CaptureError, match="released"):
            each.replay()
    assert torch.equal(used_three_times(graph, **by_step), eager.sample(**by_step).images)
    stale = entry.buffers
    monkeypatch.setattr(graph_runner.GraphRun, "buffers", property(lambda run: stale))
    assert not torch.equal(
        graph.sample(**(by_step | {"seeds": 9})).images, eager.sample(**(by_step | {"seeds": 9})).images
    )


def test_a_run_without_the_second_graph_would_show_the_images_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a decode that is not replayed."""
    eager, graph, _ = engines("cpu", decoder=SmallDecoder())
    arguments = BASE | {"steps": 12, "output": "uint8"}
    used_three_times(graph, **arguments)
    monkeypatch.setattr(graph_runner.GraphRun, "decode", lambda run: None)
    other = arguments | {"seeds": 9}
    assert not torch.equal(graph.sample(**other).images, eager.sample(**other).images)


def test_what_is_no_decoder_and_no_output_is_refused() -> None:
    class Answers(nn.Module):
        def __init__(self, answer: object) -> None:
            super().__init__()
            self.answer = answer

        def forward(self, x: Tensor) -> object:
            return self.answer

    for answer, message in (
        (torch.zeros(1, 3, 8), r"decoder: got an answer of torch.float32 \[1, 3, 8\] to one x; allowed: a module that"),
        (torch.zeros(2, *SHAPE), r"decoder: got an answer of torch.float32 \[2, 3, 8, 8\] to one x"),
        (torch.zeros(1, *SHAPE, dtype=torch.uint8), "decoder: got an answer of torch.uint8"),
        ((torch.zeros(1, *SHAPE),), "decoder: got an answer of tuple to one x"),
    ):
        with pytest.raises(ValueError, match=message):
            engines("cpu", decoder=Answers(answer))
    for shape in (None, (3, 8), (3, 8, 0), (3, 8, 8.5)):
        said = SmallDecoder()
        said.image_shape = lambda _, shape=shape: shape
        with pytest.raises(ValueError, match=r"decoder: got .*an image_shape that answers .*; allowed: .* \(C, H, W\)"):
            engines("cpu", decoder=said)
    with pytest.raises(ValueError, match=r"decoder: got 'function'; allowed: a torch\.nn\.Module"):
        engines("cpu", decoder=lambda x: x)
    with pytest.raises(ValueError, match="output: got 'jpeg'; allowed: float or uint8"):
        engines("cpu")[0].sample(1, output="jpeg")
