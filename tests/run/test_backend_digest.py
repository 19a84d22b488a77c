"""The digest of a network: another for all that changes what it computes, the same in every process."""

import copy
import functools
import importlib
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fewstep.run.backends.digest import UntoldError, digest_of
from fewstep.run.backends.sources import Sources, is_installed
from fewstep.run.modules import view_of
from support.tree import ROOT
from support.unet_case import CONFIGS, SMALL, random_unet

PROGRAM = """
from fewstep.run.backends.digest import digest_of
from support.unet_case import CONFIGS, random_unet
print(digest_of(random_unet(CONFIGS["classes"])))
"""


@dataclass(frozen=True)
class Config:
    """A config of a network."""

    groups: int = 4
    scales: tuple[float, ...] = (1.0, 2.0)


class Activation:
    """Something that is no module, with a setting."""

    __slots__ = ("slope",)

    def __init__(self, slope: float) -> None:
        self.slope = slope


class Net(nn.Module):
    """A network that holds one of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3)
        self.norm = nn.GroupNorm(2, 2, eps=1e-5)
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
        self.register_buffer("table", torch.arange(6.0).view(2, 3))
        self.config, self.activation, self.function = Config(), Activation(0.1), functional.silu
        self.sizes, self.by_name, self.loose = [1, 2, 3], {"a": 1.0}, torch.ones(2)
        self.array, self.names, self.dtype = np.arange(3), {"x", "y"}, torch.float32
        self.partial = functools.partial(functional.interpolate, mode="nearest")


def weight(net: Any) -> None:
    net.first.weight.data.view(-1)[7] += 1e-6


def swap(net: Any) -> None:
    net.layers._modules = {"0": net.layers[1], "1": net.layers[0]}


MUTATIONS: dict[str, Callable[[Any], Any]] = {
    "one element of a weight": weight,
    "the last element of a buffer": lambda net: net.table.view(-1)[-1:].add_(1),
    "a negative zero": lambda net: net.table.view(-1)[:1].neg_(),
    "the dtype of a tensor": lambda net: setattr(net.first, "bias", nn.Parameter(net.first.bias.bfloat16())),
    "the shape of a buffer": lambda net: setattr(net, "table", net.table.view(3, 2)),
    "a buffer that is none": lambda net: setattr(net, "table", None),
    "an epsilon": lambda net: setattr(net.norm, "eps", 1.0000001e-5),
    "a number of groups": lambda net: setattr(net.norm, "num_groups", 1),
    "a stride": lambda net: setattr(net.first, "stride", (2, 1)),
    "a flag": lambda net: setattr(net.norm, "affine", 1),
    "the mode": lambda net: net.norm.train(False),
    "a field of a config": lambda net: setattr(net, "config", Config(scales=(1.0, 2.5))),
    "a setting in a slot": lambda net: setattr(net.activation, "slope", 0.2),
    "a function": lambda net: setattr(net, "function", functional.relu),
    "an argument of a partial": lambda net: net.partial.keywords.update(mode="bilinear"),
    "an entry of a list": lambda net: net.sizes.append(4),
    "an entry of a dict": lambda net: net.by_name.update(a=2.0),
    "an order": lambda net: net.sizes.reverse(),
    "a tensor that is no buffer": lambda net: net.loose.mul_(2),
    "an entry of an array": lambda net: net.array.__setitem__(0, 9),
    "an element of a set": lambda net: net.names.add("z"),
    "a dtype": lambda net: setattr(net, "dtype", torch.float64),
    "the order of layers": swap,
    "a module more": lambda net: net.add_module("more", nn.Identity()),
    "a class": lambda net: setattr(net, "norm", nn.LayerNorm(2)),
    "a hook": lambda net: net.register_forward_hook(functional.silu),
    "text for a number": lambda net: setattr(net.norm, "eps", "1e-05"),
    "a list for a tuple": lambda net: setattr(net.first, "stride", [1, 1]),
}


def fresh() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_network_that_differs_in_one_thing_has_another_digest(mutation: str) -> None:
    net = fresh()
    before = digest_of(net)
    MUTATIONS[mutation](net)
    assert digest_of(net) != before


def test_every_mutation_has_a_digest_of_its_own() -> None:
    found = set()
    for mutate in MUTATIONS.values():
        net = fresh()
        mutate(net)
        found.add(digest_of(net))
    assert len(found) == len(MUTATIONS)


@pytest.mark.parametrize(
    "same",
    [
        lambda net: fresh(),
        lambda net: copy.deepcopy(net),
        lambda net: view_of(net),
        lambda net: net.requires_grad_(False) and net,
    ],
    ids=["made again", "copied", "viewed", "without gradients"],
)
def test_the_same_network_has_the_same_digest(same: Callable[[Net], Net]) -> None:
    net = fresh()
    before = digest_of(net)
    net.by_name["a"] = float(str(net.by_name["a"]))  # another object of the same value
    assert digest_of(same(net)) == before


@pytest.mark.parametrize(
    "field",
    [{"eps": 1e-6}, {"groups": 4}, {"heads": 2, "head_dim": None}, {"cos_first": False}, {"freq_shift": 1.0}],
    ids=str,
)
def test_a_config_that_changes_no_weight_changes_the_digest(field: dict[str, Any]) -> None:
    plain, other = random_unet(SMALL), random_unet(replace(SMALL, **field))
    other.load_state_dict(plain.state_dict())
    assert digest_of(plain) != digest_of(other)


def test_every_u_net_has_a_digest_and_no_two_the_same() -> None:
    found = {digest_of(random_unet(config)) for config in CONFIGS.values()}
    assert len(found) == len(CONFIGS)


@pytest.mark.slow
def test_another_process_finds_the_same_digest() -> None:
    path = ":".join(str(ROOT / each) for each in ("engine", "kernels", "tests"))
    environment = {"PYTHONPATH": path, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    importlib.import_module("fewstep_kernels.fused.step")  # what others have imported is no part of it
    assert ran.stdout.strip() == digest_of(random_unet(CONFIGS["classes"]))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last),
        torch.arange(24.0).view(4, 6).t(),
        torch.arange(24.0).view(4, 6)[:, ::2],
        torch.ones(1, 1).expand(3, 3),
        torch.tensor(3.0),
        torch.empty(0, 3),
        torch.arange(5).bfloat16(),
        torch.tensor([True, False]),
        torch.tensor([1 + 2j]).conj(),
    ],
    ids=["channels last", "transposed", "with gaps", "expanded", "one", "none", "bfloat16", "flags", "conjugate"],
)
def test_a_tensor_counts_by_its_values_however_it_lies(tensor: torch.Tensor) -> None:
    net = nn.Module()
    net.register_buffer("held", tensor)
    before = digest_of(net)
    net.held = tensor.clone()
    assert digest_of(net) == before
    if tensor.numel():
        net.held = tensor.clone(memory_format=torch.contiguous_format)
        net.held.view(-1)[-1:] = ~net.held.view(-1)[-1:] if tensor.dtype == torch.bool else 77
        assert digest_of(net) != before


def held_in(value: Any) -> nn.Module:
    net = nn.Module()
    net.held = value
    return net


def a_generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "value",
    [lambda x: x, torch.Generator(), a_generator(), iter([1]), open, nn.Linear(1, 1).half().to("meta"), [].append],
    ids=["a function of none", "torch's generator", "a generator", "an iterator", "built in", "meta", "bound"],
)
def test_what_has_no_content_to_tell_is_refused_by_its_place(value: Any) -> None:
    if value is open:
        assert digest_of(held_in(value)) != digest_of(held_in(print))
        return
    with pytest.raises(UntoldError, match=r"(Module.held|Linear._parameters) is "):
        digest_of(held_in(value))


@pytest.mark.parametrize(
    "value",
    [
        OrderedDict(a=1),
        SimpleNamespace(a=1),
        Config(),
        (1, [2, {"b": {3}}]),
        frozenset({1}),
        torch.Size([1]),
        b"1",
        2j,
        Path("a/b"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_have_a_digest(value: Any) -> None:
    assert digest_of(held_in(value)) == digest_of(held_in(copy.deepcopy(value)))


def test_a_network_that_knows_itself_has_a_digest() -> None:
    def circular(value: float) -> nn.Module:
        net = nn.Module()
        object.__setattr__(net, "parent", net)
        net.items = [value]
        net.items.append(net.items)
        return net

    assert digest_of(circular(1.0)) == digest_of(circular(1.0)) != digest_of(circular(2.0))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], type[nn.Module]]:
    """A net in a file, and another file that it takes a function of; imported as they are written."""

    def imported(net: str, helper: str) -> type[nn.Module]:
        for name, text in (("a_net", net), ("a_helper", helper)):
            (tmp_path / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        for each in ("a_net", "a_helper"):
            monkeypatch.setitem(sys.modules, each, load(tmp_path / f"{each}.py", each))
        kind: type[nn.Module] = sys.modules["a_net"].Net
        return kind

    monkeypatch.syspath_prepend(tmp_path)
    return imported


def load(path: Path, name: str) -> Any:
    import importlib.util

    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


NET = """
from torch import nn
from a_helper import scaled

class Net(nn.Module):
    def forward(self, x, t):
        return scaled(x)
"""
HELPER = "def scaled(x): return x * {}\n"


def test_the_code_of_a_network_and_of_what_it_names_counts(package: Callable[[str, str], type[nn.Module]]) -> None:
    before = digest_of(package(NET, HELPER.format(2))())
    assert digest_of(package(NET, HELPER.format(2))()) == before
    assert digest_of(package(NET, HELPER.format(3))()) != before
    assert digest_of(package(NET + "# edited", HELPER.format(2))()) != before


def test_a_method_that_is_put_into_a_class_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    net = fresh()
    before = digest_of(net)
    monkeypatch.setattr(Net, "forward", Activation.__init__, raising=False)
    monkeypatch.setattr(Activation.__init__, "__module__", "copy")
    assert digest_of(net) != before
    monkeypatch.setattr(Net, "forward", replaced(2.0), raising=False)
    with pytest.raises(UntoldError):
        digest_of(net)


def replaced(scale: float) -> Any:
    def forward(self: Any, x: Any, t: Any) -> Any:
        return scale * x

    forward.__module__ = "support.unet_case"
    return forward


def made_within(scale: float) -> nn.Module:
    class Within(nn.Module):
        def forward(self, x: Any, t: Any) -> Any:
            return super().__repr__() and scale * x

        @torch.no_grad()
        def decorated(self, x: Any) -> Any:
            return scale * x

    return Within()


def test_what_a_method_closes_over_counts() -> None:
    assert digest_of(made_within(1.0)) == digest_of(made_within(1.0)) != digest_of(made_within(2.0))


def test_a_method_that_takes_the_place_of_another_of_its_file_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    net = fresh()
    before = digest_of(net)
    monkeypatch.setattr(Net, "extra_repr", slope, raising=False)
    assert digest_of(net) != before


def slope(self: Any) -> str:
    return "a slope"


def test_a_constant_that_is_set_from_outside_counts(
    package: Callable[[str, str], type[nn.Module]], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = package(NET, "SCALE = 2\n" + HELPER.format("SCALE"))()
    before = digest_of(net)
    monkeypatch.setattr(sys.modules["a_helper"], "SCALE", 3)
    assert digest_of(net) != before
    monkeypatch.setattr(sys.modules["a_helper"], "SCALE", 2)
    assert digest_of(net) == before


def test_installed_packages_count_by_version_and_our_own_by_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_installed("torch.nn.modules.conv")
    assert is_installed("json")
    assert not is_installed("fewstep.models.net.unet")
    before = Sources().of("torch.nn.modules.conv")
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert Sources().of("torch.nn.modules.conv") != before
