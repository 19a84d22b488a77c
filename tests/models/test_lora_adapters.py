"""Adapters in place: what moves, what comes back, and how often the weights are gone through."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep.errors import ArgumentError, ModelError
from fewstep.models.lora import Adapters
from fewstep.models.lora.regions import Region
from support.lora_case import random_lora
from support.memory_traffic import Recorded, as_operands, through_cache
from support.unet_case import CONFIGS, random_unet

FORMS = ["no-labels", "classes", "ncsn++", "flow-map"]


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.named_parameters()}


def same(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in module.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("form", FORMS)
def test_load_set_swap_and_unload_give_every_bit_back_where_it_was(form: str, dtype: torch.dtype) -> None:
    unet = random_unet(CONFIGS[form]).to(dtype)
    before, places = bits(unet), [tensor.data_ptr() for tensor in unet.parameters()]
    adapters = Adapters(unet)
    adapters.load(random_lora(unet, ""), "everything")
    assert not same(unet, before)
    adapters.load(random_lora(unet, "to_", seed=1), "attention", weight=-0.7)
    merged = bits(unet)
    adapters.set({"everything": 0.3, "attention": 1.5})
    adapters.set({"everything": 0, "attention": 1})
    adapters.set({"everything": 1, "attention": -0.7})
    assert same(unet, merged)
    adapters.unload("everything")
    adapters.unload("attention")
    assert same(unet, before)
    assert [tensor.data_ptr() for tensor in unet.parameters()] == places
    assert adapters.weights == {}
    assert adapters.bytes == 0


def test_several_adapters_add_up_to_the_sum_of_their_updates() -> None:
    unet, one, other = (random_unet(CONFIGS["classes"]).double() for _ in range(3))
    first, second = random_lora(unet, ""), random_lora(unet, "to_", seed=1, rank=7)
    before, adapters = bits(unet), Adapters(unet)
    adapters.load(first, "first", weight=0.25)
    adapters.load(second, "second", weight=-2)
    Adapters(one).load(first, weight=0.25)
    Adapters(other).load(second, weight=-2)
    for (name, both), a, b in zip(unet.named_parameters(), one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(both - before[name], (a - before[name]) + (b - before[name]), rtol=0, atol=1e-12)


def test_a_weight_of_zero_touches_nothing_and_takes_nothing() -> None:
    unet = random_unet(CONFIGS["no-labels"])
    before, versions = bits(unet), [tensor._version for tensor in unet.parameters()]
    adapters = Adapters(unet)
    adapters.load(random_lora(unet), "later", weight=0)
    assert [tensor._version for tensor in unet.parameters()] == versions
    assert adapters.weights == {"later": 0.0}
    adapters.set({"later": 1})
    assert adapters.bytes > 0
    adapters.set({"later": 0})
    assert same(unet, before)
    assert adapters.bytes == 0


def test_the_copies_take_as_many_bytes_as_the_layers_that_change() -> None:
    unet = random_unet(CONFIGS["no-labels"])
    adapters = Adapters(unet)
    adapters.load(random_lora(unet, "to_q"), "queries")
    changed = sum(tensor.numel() * 4 // 3 for name, tensor in unet.named_parameters() if name.endswith("qkv.weight"))
    assert adapters.bytes == changed
    adapters.load(random_lora(unet, "to_", seed=1), "attention")
    own = [t.numel() * 4 for n, t in unet.named_parameters() if n.endswith(("qkv.weight", "attention.out.weight"))]
    assert adapters.bytes == sum(t for t in own)


def test_what_somebody_else_loads_into_a_weight_is_its_new_base() -> None:
    unet, other = random_unet(CONFIGS["no-labels"]), random_unet(CONFIGS["no-labels"])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    adapters = Adapters(unet)
    adapters.load(random_lora(unet), "a")
    unet.load_state_dict(other.state_dict())
    adapters.set({"a": 0.5})
    expected = random_unet(CONFIGS["no-labels"])
    expected.load_state_dict(other.state_dict())
    Adapters(expected).load(random_lora(unet), weight=0.5)
    assert same(unet, bits(expected))
    adapters.unload()
    assert same(unet, bits(other))


@pytest.mark.parametrize(
    "move",
    [
        lambda unet: unet.double(),
        lambda unet: unet.to(memory_format=torch.contiguous_format),
        lambda unet: unet.to(torch.bfloat16),
    ],
    ids=["to float64", "to another order in memory", "to bfloat16"],
)
def test_weights_that_were_moved_keep_their_base(move: Any) -> None:
    unet, before = random_unet(CONFIGS["no-labels"]), random_unet(CONFIGS["no-labels"])
    lora = random_lora(unet, "")
    adapters = Adapters(unet)
    adapters.load(lora, "a")
    move(unet)
    move(before)
    adapters.set({"a": 0.5})
    moved = random_unet(CONFIGS["no-labels"])
    Adapters(move(moved)).load(lora, weight=0.5)
    assert same(unet, bits(moved))
    adapters.unload()
    assert same(unet, bits(before))


@pytest.mark.parametrize("at", [0, 3, 7], ids=["the first", "the fourth", "the eighth"])
def test_a_change_that_fails_half_way_leaves_the_bits_from_before(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = random_unet(CONFIGS["classes"])
    adapters = Adapters(unet)
    adapters.load(random_lora(unet, "to_"), "a")
    before, copies, weights = bits(unet), adapters.bytes, adapters.weights
    write, calls = Region.write, []

    def fails_once(region: Region, factors: Any) -> None:
        calls.append(region)
        if len(calls) == at + 1:
            region.rows[:1].fill_(7.0) if region._saved else None
            raise KeyboardInterrupt
        write(region, factors)

    monkeypatch.setattr(Region, "write", fails_once)
    with pytest.raises(KeyboardInterrupt):
        adapters.load(random_lora(unet, "", seed=1), "b")
    monkeypatch.undo()
    assert same(unet, before)
    assert (adapters.bytes, adapters.weights) == (copies, weights)
    adapters.unload()
    assert same(unet, bits(random_unet(CONFIGS["classes"])))


def renamed(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


def with_one(tensors: dict[str, Tensor], change: Any, kind: str = "lora_down") -> dict[str, Tensor]:
    name = next(name for name in tensors if kind in name)
    return tensors | {name: change(tensors[name])}


BAD: dict[str, tuple[Any, str]] = {
    "another model": (
        lambda good: renamed(good, "mid_block", "transformer_blocks"),
        "is for another model: this one lacks 4 of its 16 layers: 'transformer_blocks_attentions_0_to_k'",
    ),
    "another width": (lambda good: with_one(good, lambda t: t[:, 1:]), "the model's layer is [32, 32]"),
    "other ranks": (lambda good: with_one(good, lambda t: t[1:]), "has rank 3, and"),
    "nothing": (lambda good: {}, "holds no tensors"),
    "NaN": (lambda good: with_one(good, lambda t: t * float("nan")), "holds NaN or infinity"),
    "a factor alone": (
        lambda good: {name: t for name, t in good.items() if "to_q.lora_up" not in name},
        "has no factor 'up' beside it",
    ),
    "text encoders alone": (
        lambda good: renamed(good, "lora_unet", "lora_te1"),
        "has nothing for unet; it is for text_encoder (16 layers)",
    ),
    "not a LoRA": (
        lambda good: {name.replace("lora_", ""): t for name, t in good.items()},
        "32 tensors are no part of a LoRA",
    ),
    "too large for the dtype": (lambda good: {name: 1e30 * t for name, t in good.items()}, "is too large for weights"),
    "whose product is too large for the dtype": (
        lambda good: {name: 3000 * t for name, t in good.items()},
        "is too large for weights in float16",
    ),
    "no number as alpha": (
        lambda good: good | {"lora_unet_mid_block_attentions_0_to_q.alpha": torch.ones(2)},
        "has shape [2]; allowed: a number",
    ),
    **{
        f"{ending}": (lambda good, ending=ending: {f"lora_unet_x{ending}": torch.ones(2, 2), **good}, what)
        for ending, what in {
            ".dora_scale": "DoRA",
            ".hada_w1_a": "LoHa",
            ".lokr_w1": "LoKr",
            ".lora_mid.weight": "Tucker",
            ".oft_blocks": "OFT",
            ".diff": "whole differences",
            ".diff_b": "whole differences",
            ".lora_up.bias": "a bias that is updated too",
        }.items()
    },
    "peft's DoRA": (lambda good: {"a.lora_magnitude_vector": torch.ones(2)}, "DoRA"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD.keys())
def test_a_file_that_does_not_fit_is_refused_by_name_and_nothing_changes(spoil: Any, message: str) -> None:
    unet = random_unet(CONFIGS["no-labels"]).half()
    before, adapters = bits(unet), Adapters(unet)
    with pytest.raises(ModelError) as caught:
        adapters.load(spoil(random_lora(unet)), "bad")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same(unet, before)
    assert adapters.weights == {}
    assert adapters.bytes == 0


def test_wrong_arguments_are_named() -> None:
    unet = random_unet(CONFIGS["no-labels"])
    adapters, good = Adapters(unet), random_lora(unet)
    adapters.load(good, "style")
    cases: list[tuple[Any, str]] = [
        (lambda: adapters.load(good, "style"), "a name that no adapter has; there are: 'style'"),
        (lambda: adapters.load(good, ""), "a text of 1 to 200 characters"),
        (lambda: adapters.load(good, "b", weight=float("nan")), "a finite number"),
        (lambda: adapters.load(good, "b", weight="much"), "a finite number"),
        (lambda: adapters.load(7, "b"), "the path of a file or a folder"),
        (lambda: adapters.load("", "b"), "the path of a file or a folder"),
        (lambda: adapters.load({"a": 1}, "b"), "names and dense tensors of floats"),
        (lambda: adapters.set({"stile": 1}), "did you mean 'style'"),
        (lambda: adapters.set({"style": None}), "weights['style']: got None"),
        (lambda: adapters.set(["style"]), "a weight for each name"),
        (lambda: adapters.unload("b"), "name: got 'b'; allowed: style"),
        (lambda: Adapters(unet).unload("b"), "no adapter is loaded"),
    ]
    for action, message in cases:
        with pytest.raises(ArgumentError) as caught:
            action()
        assert message in str(caught.value)
    assert adapters.weights == {"style": 1.0}


class Attentions(nn.Module):
    """The attention layers of one transformer block of each width in Stable Diffusion 1.5."""

    def __init__(self) -> None:
        super().__init__()
        for width in (320, 640, 1280):
            for name in ("to_q", "to_k", "to_v", "to_out"):
                self.add_module(f"attn1_{width}_{name}", nn.Linear(width, width, bias=False))
            for name, entering in (("to_q", width), ("to_k", 768), ("to_v", 768), ("to_out", width)):
                self.add_module(f"attn2_{width}_{name}", nn.Linear(entering, width, bias=False))


@pytest.mark.slow
def test_a_change_is_at_most_three_passes_over_the_weights_it_touches() -> None:
    torch.manual_seed(0)
    net = Attentions()
    adapters, weights = Adapters(net), list(net.parameters())
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    a, b = (random_lora(net, "", rank=16, seed=seed) for seed in (0, 1))
    adapters.load(b, "b", weight=0)
    passes: dict[str, tuple[float, float]] = {}
    for name, change in {
        "load": lambda: adapters.load(a, "a"),
        "set": lambda: adapters.set({"a": 0.5}),
        "swap": lambda: adapters.set({"a": 0, "b": 1}),
        "two": lambda: adapters.set({"a": 1, "b": 1}),
        "unload": lambda: adapters.unload(),
    }.items():
        bases = [region.base for region in adapters._regions.values()]
        with Recorded() as recorded:
            change()
        bases += [region.base for region in adapters._regions.values()]
        watched = [*weights, *(base for base in bases if base is not None)]
        passes[name] = (
            through_cache(recorded.touches, watched) / size,
            as_operands(recorded.touches, watched) / size,
        )
        print(f"{name}: {passes[name][0]:.2f} passes over {size / 1e6:.0f} MB, {passes[name][1]:.2f} as operands")
    assert {name: round(found, 2) for name, (found, _) in passes.items()} == {
        "load": 3.0,
        "set": 2.0,
        "swap": 2.0,
        "two": 2.0,
        "unload": 2.0,
    }
