"""Views share tensors with the module they are of, and nothing else that can be set on one of them."""

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from fewstep import ArgumentError
from fewstep.pipelines.vae import accelerated_vae
from fewstep.pipelines.views import runs_its_class, shared_view
from support.vae_case import decoded, latents, small_kl


class Shifted(nn.Linear):
    """A counterpart: the layer's answer and 1."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 2))


def view_with_a_shift(module: nn.Sequential) -> Any:
    return shared_view(module, {module[3]: Shifted})


def test_only_the_parts_named_run_other_code() -> None:
    module = network().eval()
    view, x = view_with_a_shift(module), torch.ones(2, 3)
    assert torch.equal(view(x), module(x) + 1)
    assert [type(part) for part in view] == [nn.Linear, nn.Dropout, nn.BatchNorm1d, Shifted]
    assert type(module[3]) is nn.Linear


def test_a_part_that_is_there_twice_is_one_part_of_the_view() -> None:
    layer = nn.Linear(3, 3)
    module = nn.Sequential(layer, nn.Sequential(layer))
    view: Any = shared_view(module, {layer: Shifted})
    assert view[0] is view[1][0]
    assert type(view[0]) is Shifted


LOADS = {
    "in place": lambda module, state: module.load_state_dict(state),
    "assigned": lambda module, state: module.load_state_dict(state, assign=True),
    "cast": lambda module, state: module.double().float().load_state_dict(state),
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
@pytest.mark.parametrize("through", ["the original", "the view"])
def test_a_later_load_is_seen_by_both(load: Any, through: str) -> None:
    module = network().eval()
    view, x = view_with_a_shift(module), torch.ones(2, 3)
    before = module(x)
    state = {key: value + 1 for key, value in module.state_dict().items()}
    load(module if through == "the original" else view, state)
    assert torch.equal(view(x), module(x) + 1)
    assert not torch.equal(module(x), before)


def test_the_state_of_a_view_is_that_of_the_original() -> None:
    module = network()
    own, other = view_with_a_shift(module).state_dict(), module.state_dict()
    assert list(own) == list(other)
    assert all(own[key].data_ptr() == other[key].data_ptr() for key in own)


def test_mode_attributes_and_parts_that_are_set_later_are_the_ones_own() -> None:
    module = network().train()
    view = view_with_a_shift(module).eval()
    view[1].p = 0.1
    view[0] = nn.Identity()
    assert module.training
    assert all(part.training for part in module)
    assert module[1].p == 0.5
    assert type(module[0]) is nn.Linear


def test_a_cast_of_the_view_casts_the_shared_tensors() -> None:
    module = network()
    view = view_with_a_shift(module).double()
    for part in (module, view):
        assert all(tensor.dtype == torch.float64 for tensor in (*part.parameters(), part[2].running_mean))
    assert [id(p) for p in view.parameters()] == [id(p) for p in module.parameters()]


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda view: pickle.loads(pickle.dumps(view))], ids=["copy", "pickle"]
)
def test_a_copy_has_tensors_of_its_own_and_runs_the_same_code(copied: Any) -> None:
    module = network().eval()
    own, x = copied(view_with_a_shift(module)), torch.ones(2, 3)
    assert torch.equal(own(x), module(x) + 1)
    with torch.no_grad():
        module[3].bias.add_(1.0)
    assert torch.allclose(own(x), module(x))


def test_a_method_of_the_class_that_lies_on_the_instance_is_not_the_views() -> None:
    module = network().eval()
    module[3].forward = module[3].forward  # as offloading leaves it behind
    view, x = view_with_a_shift(module), torch.ones(2, 3)
    assert torch.equal(view(x), module(x) + 1)
    assert "forward" in vars(module[3])


def test_a_part_that_is_hooked_or_wrapped_is_to_be_called() -> None:
    plain, hooked, wrapped = (nn.Linear(2, 2) for _ in range(3))
    hooked.register_forward_hook(lambda *_: None)
    wrapped.forward = wrapped.forward  # type: ignore[method-assign]
    assert runs_its_class(plain, nn.Linear)
    assert not any(runs_its_class(each, nn.Linear) for each in (hooked, wrapped, Shifted(2, 2)))


def wrapped_inside() -> nn.Module:
    module = network()
    module[0].forward = partial(module[0].forward)
    return module


OTHER_CODE = {
    "scripted": (lambda: torch.jit.script(nn.Linear(2, 2)), "that is scripted or traced"),
    "traced by fx": (lambda: torch.fx.symbolic_trace(nn.Linear(2, 2)), "that is scripted or traced"),
    "wrapped inside": (wrapped_inside, "Sequential whose 0 is wrapped, with a forward of its own on the instance"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is:DeprecationWarning")
@pytest.mark.parametrize(("make", "message"), OTHER_CODE.values(), ids=OTHER_CODE)
def test_a_module_that_runs_other_code_than_its_class_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^network: got .*{message}; allowed: .* accelerate it first, then"):
        shared_view(make(), {}, "network")


def test_a_view_is_saved_as_the_original_is(tmp_path: Path) -> None:
    vae = small_kl()
    view: Any = accelerated_vae(vae)
    assert isinstance(view, diffusers.AutoencoderKL)
    view.save_pretrained(tmp_path)
    again = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    assert torch.equal(decoded(again, latents(vae)), decoded(vae, latents(vae)))
