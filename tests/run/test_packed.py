"""torch on a CPU with packed weights where a layer's shape is worth it: the module's answer, and else the module."""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

from fewstep import Engine, schedules
from fewstep.models.model import Model
from fewstep.run.backends import packed
from fewstep.run.backends.choose import network_for
from fewstep.run.backends.network import Network
from fewstep.run.backends.packed import PackedConv2d, packable, worth_packing

CPU = torch.device("cpu")


class Deep(nn.Module):
    """Layers of all kinds: packed are `small`, `pixel` and `mix`; `wide`, `grouped` and `around` are not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide = nn.Conv2d(3, 4, 3, padding=1)
        self.small = nn.Conv2d(4, 128, 3, padding=1, stride=2)
        self.pixel = nn.Conv2d(128, 128, 1)
        self.grouped = nn.Conv2d(128, 128, 3, padding=1, groups=2)
        self.around = nn.Conv2d(128, 128, 3, padding=1, padding_mode="circular")
        self.mix = nn.Linear(128, 128)
        self.out = nn.Conv2d(128, 12, 3, padding="same")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.grouped(self.pixel(self.small(self.wide(x)))) * (t / 1000)[:, None, None, None].to(x.dtype)
        h = self.mix(self.around(h).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return nn.functional.pixel_shuffle(self.out(h), 2)


def network(module: nn.Module, dtype: torch.dtype = torch.float32) -> Network:
    return network_for(module.to(dtype).eval(), "torch", None, CPU, dtype, batch_invariant=False)


def inputs(lanes: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(lanes, 3, 32, 32, generator=generator).to(dtype, memory_format=torch.channels_last)
    return x, torch.full((lanes,), 300.0)


@torch.no_grad()
def answers(found: Network, *given: Tensor) -> tuple[Tensor, Tensor]:
    """What a network answers, and its module."""
    found.look()
    return found(*given), found.module(*given)


def calls_of(found: Network) -> list[dict[str, Any]]:
    calls = found.stats()["calls"]
    assert isinstance(calls, list)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_answer_is_the_modules_and_says_what_is_packed(dtype: torch.dtype) -> None:
    found = network(Deep(), dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(3):
            ours, theirs = answers(found, *inputs(dtype=dtype, seed=seed))
            assert (ours.double() - theirs.double()).norm() <= (
                1e-6 if dtype == torch.float32 else 1e-2
            ) * theirs.norm()
    [call] = calls_of(found)
    assert (call["backend"], call["count"]) == ("torch", 3)
    if not packed._is_there(dtype):  # a processor for which oneDNN has no bfloat16: the module's own layers
        assert "packed" not in call
        return
    assert call["packed"] == 3
    kinds = {name for name, part in view_of_only(found).named_modules() if isinstance(part, PackedConv2d)}
    assert kinds == {"small", "pixel"}
    assert call["packed_bytes"] == dtype.itemsize * (4 * 128 * 9 + 2 * 128 * 128)


def view_of_only(found: Network) -> nn.Module:
    [ready] = found._ready.values()
    assert ready.program is not None
    view: nn.Module = vars(ready.program)["_view"]
    return view


def test_same_input_has_the_same_bits_in_the_first_call_later_and_in_another_network() -> None:
    found = network(Deep())
    first, again = answers(found, *inputs())[0], answers(found, *inputs())[0]
    assert torch.equal(first, again)
    assert torch.equal(first, answers(network(Deep()), *inputs())[0])


def test_each_kind_of_call_has_weights_of_its_own() -> None:
    found = network(Deep())
    for lanes in (1, 2, 3, 1):
        ours, theirs = answers(found, *inputs(lanes))
        torch.testing.assert_close(ours, theirs)
    assert [call["x"][0] for call in calls_of(found)] == [1, 2, 3]


def test_written_weights_are_packed_anew() -> None:
    found = network(Deep())
    answers(found, *inputs())
    weight = found.module.get_parameter("pixel.weight")
    for write in (weight.mul_, weight.data.mul_):
        with torch.no_grad():
            write(-3)
        ours, theirs = answers(found, *inputs())
        torch.testing.assert_close(ours, theirs)
    assert found.changes == 2


def hooked(module: Deep) -> None:
    module.mix.register_forward_hook(lambda part, given, answer: answer * 2)


def wrapped(module: Deep) -> None:
    own = module.pixel.forward
    module.pixel.forward = lambda x: own(x) * 2  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("change", [hooked, wrapped])
def test_network_that_runs_other_code_runs_as_it_is(change: Callable[[Deep], None]) -> None:
    module = Deep()
    change(module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = network(module)
        ours, theirs = answers(found, *inputs())
    assert torch.equal(ours, theirs)
    assert "why" in calls_of(found)[0]


def test_parts_of_another_class_or_with_a_parametrized_weight_are_left() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    module = Deep()
    module.small = Doubled(4, 128, 3, padding=1, stride=2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parametrizations.spectral_norm(module.mix)
    found = network(module)
    ours, theirs = answers(found, *inputs())
    torch.testing.assert_close(ours, theirs)
    assert calls_of(found)[0]["packed"] == 1


def test_small_networks_other_dtypes_and_contiguous_images_are_the_modules() -> None:
    assert not packable(nn.Conv2d(3, 16, 3))
    assert network_for(Deep().double(), "torch", None, CPU, torch.float64, batch_invariant=False).backend is None
    found = network(nn.Sequential(nn.Conv2d(3, 64, 3)))
    assert found.backend is not None
    found = network(Deep())
    x, t = inputs()
    ours, theirs = answers(found, x[:, :, :4, :4].contiguous(memory_format=torch.channels_last), t)
    assert torch.equal(ours, theirs)
    assert calls_of(found)[0]["why"] == packed.NOTHING
    found = network(Deep().to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
    ours, theirs = answers(found, x.contiguous(), t)
    torch.testing.assert_close(ours, theirs)


def test_who_differentiates_gets_gradients() -> None:
    found = network(Deep())
    answers(found, *inputs())
    x, t = inputs()
    x.requires_grad_()
    found(x, t).square().mean().backward()
    assert x.grad is not None
    assert found.module.get_parameter("pixel.weight").grad is not None


def test_memory_of_packed_weights_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MOST_BYTES", 4 * (4 * 128 * 9 + 128 * 128))
    found = network(Deep())
    ours, theirs = answers(found, *inputs())
    torch.testing.assert_close(ours, theirs)
    assert calls_of(found)[0]["packed"] == 2


def test_torch_that_lacks_the_ops_or_has_them_switched_off_runs_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> Tensor:
        raise RuntimeError("no such order")

    with monkeypatch.context() as off:
        off.setattr(torch._C, "_get_mkldnn_enabled", lambda: False)
        ours, theirs = answers(network(Deep()), *inputs())
        assert torch.equal(ours, theirs)
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_convolution_weight", refuses)
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuses)
    ours, theirs = answers(network(Deep()), *inputs())
    assert torch.equal(ours, theirs)


def test_what_is_packed_depends_on_shapes_alone() -> None:
    conv, pixel = torch.Size([256, 256, 3, 3]), torch.Size([256, 512, 1, 1])
    assert worth_packing(conv, 16, torch.float32)
    assert worth_packing(conv, 1024, torch.float32)
    assert not worth_packing(conv, 4096, torch.float32), "the order of a weight is nothing beside so many pixels"
    assert worth_packing(pixel, 4096, torch.float32), "another product than MKL's"
    assert not worth_packing(pixel, 4096, torch.bfloat16)
    assert not worth_packing(torch.Size([512, 128]), 1, torch.float32), "too little work"


def test_engine_draws_the_same_image() -> None:
    model = Model(Deep(), schedule=schedules.linear(), shape=(3, 32, 32), defaults={"sampler": "ddim", "steps": 3})
    ours = Engine(model, backend="torch")
    theirs = Engine(model, backend="torch")
    theirs._network = Network(theirs.module, None, torch.float32, only_if_faster=False)
    images = [engine.sample(2, seeds=0).images for engine in (ours, theirs)]
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)
    assert ours.stats()["backend"]["calls"][0]["packed"] == 3


def test_who_records_the_ops_sees_torchs_own() -> None:
    class Seen(TorchDispatchMode):
        names: ClassVar[set[str]] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.add(func.namespace)
            return func(*args, **(kwargs or {}))

    found = network(Deep())
    for _ in range(2):
        with Seen():  # type: ignore[no-untyped-call]
            answers(found, *inputs())
        assert Seen.names == {"aten"}
        found = network(Deep())
        answers(found, *inputs())
