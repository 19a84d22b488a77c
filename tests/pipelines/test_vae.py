"""The view of an autoencoder beside the untouched one: the same answers, in fewer ops; and what is refused."""

import copy
from collections import Counter
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from peft import LoraConfig
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch.utils._python_dispatch import TorchDispatchMode

from fewstep import ArgumentError
from fewstep.pipelines.vae import accelerated_vae
from support.diffusers_case import relative_difference
from support.vae_case import KL, decoded, encoded, in_dtype, latents, pictures, small_kl, small_tiny, small_vae

kinds = pytest.mark.parametrize("name", [*KL, "TAESD"])


@kinds
def test_the_view_encodes_and_decodes_the_same(name: str) -> None:
    vae = small_vae(name)
    view = accelerated_vae(vae)
    for call, given in ((decoded, latents(vae)), (encoded, pictures(vae))):
        expected, found = call(vae, given), call(view, given)
        difference = relative_difference(found, expected)
        print(f"{name}, {call.__name__}: {difference:.1e}")
        assert difference <= 1e-5
        assert found.is_contiguous()
        assert found.dtype == expected.dtype


@kinds
def test_in_bfloat16_the_view_errs_at_most_twice_as_much(name: str) -> None:
    exact = small_vae(name)
    vae = in_dtype(exact, torch.bfloat16)
    view = accelerated_vae(vae)
    for call, given in ((decoded, latents(exact)), (encoded, pictures(exact))):
        expected = call(exact, given)
        own, theirs = (relative_difference(call(each, given.bfloat16()), expected) for each in (view, vae))
        print(f"{name}, {call.__name__}: {own:.1e} beside {theirs:.1e}")
        assert own <= 2 * theirs


@kinds
def test_the_original_stays_as_it_is(name: str) -> None:
    vae = small_vae(name).train()
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    attributes = [dict(vars(part)) for part in vae.modules()]
    classes = [type(part) for part in vae.modules()]
    view = accelerated_vae(vae)
    decoded(view.eval(), latents(vae))
    view.enable_tiling()
    assert [type(part) for part in vae.modules()] == classes
    assert [vars(part) for part in vae.modules()] == attributes
    assert vae.training
    assert not vae.use_tiling
    assert all(torch.equal(vae.state_dict()[key], value) for key, value in before.items())


def test_tiles_and_slices_decode_and_encode_the_same() -> None:
    vae = small_kl()
    view = accelerated_vae(vae)
    whole = decoded(view, latents(vae, 2, 14, 20))
    for each in (vae, view):
        each.enable_tiling()
        each.enable_slicing()
    tiled = decoded(view, latents(vae, 2, 14, 20))
    assert relative_difference(tiled, decoded(vae, latents(vae, 2, 14, 20))) <= 1e-5
    assert relative_difference(tiled, whole) > 1e-3  # tiles were made
    given = pictures(vae, 2, 28, 40)
    assert relative_difference(encoded(view, given), encoded(vae, given)) <= 1e-5


def test_a_cast_to_float32_around_a_decode_works_as_pipelines_do_it() -> None:
    exact = small_kl("SDXL, a group for each channel")
    view = accelerated_vae(exact.half())
    assert view.dtype == torch.float16
    assert view.config.force_upcast
    z = latents(view).float()
    view.to(dtype=torch.float32)
    assert view.dtype == exact.dtype == torch.float32
    expected = decoded(exact, z)
    assert relative_difference(decoded(view, z), expected) <= 1e-5
    view.to(dtype=torch.float16)
    assert exact.dtype == torch.float16


def test_gradients_reach_the_weights_of_the_original() -> None:
    vae, twin = small_kl(), small_kl()
    view = accelerated_vae(vae)
    for each in (view, twin):
        each.decode(latents(vae)).sample.square().mean().backward()
    own, expected = (torch.cat([p.grad.flatten() for p in each.decoder.parameters()]) for each in (vae, twin))
    assert relative_difference(own, expected) <= 1e-5


def test_what_follows_the_first_convolution_keeps_channels_last_as_on_a_gpu() -> None:
    vae = small_kl("attention at a level")
    view = accelerated_vae(vae)
    x = torch.randn(1, 64, 6, 10, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        h, expected = x.contiguous(memory_format=torch.channels_last), x
        for own, other in zip(
            (view.decoder.mid_block, *view.decoder.up_blocks),
            (vae.decoder.mid_block, *vae.decoder.up_blocks),
            strict=True,
        ):
            h, expected = own(h), other(expected)
            assert relative_difference(h, expected) <= 1e-5
            assert suggest_memory_format(h) == torch.channels_last


def test_a_view_of_a_view_is_one_too() -> None:
    vae = small_kl()
    again = accelerated_vae(accelerated_vae(vae))
    assert relative_difference(decoded(again, latents(vae)), decoded(vae, latents(vae))) <= 1e-5
    assert launches(again, latents(vae)) == launches(accelerated_vae(vae), latents(vae))


def test_a_lora_that_is_added_to_the_view_runs_and_leaves_the_original_alone() -> None:
    vae, twin = small_kl(), small_kl()
    view = accelerated_vae(vae)
    expected = decoded(vae, latents(vae))
    settings = {"target_modules": ["to_q", "to_v", "conv1", "conv2", "conv_shortcut"], "init_lora_weights": False}
    for each in (view, twin):
        torch.manual_seed(5)
        each.add_adapter(LoraConfig(r=4, **settings))
    changed = decoded(twin, latents(vae))
    assert relative_difference(decoded(view, latents(vae)), changed) <= 1e-5
    assert relative_difference(changed, expected) > 0.1
    assert torch.equal(decoded(vae, latents(vae)), expected)


def test_weights_that_offloading_keeps_elsewhere_are_there_when_they_are_used() -> None:
    vae = small_kl()
    view = accelerated_vae(vae)
    expected = decoded(vae, latents(vae))
    cpu_offload(view, execution_device=torch.device("cpu"))
    assert view.decoder.mid_block.resnets[0].conv2.weight.device.type == "meta"
    assert relative_difference(decoded(view, latents(small_kl())), expected) <= 1e-5
    with pytest.raises(ArgumentError, match=r"vae: got AutoencoderKL that is wrapped, .* accelerate it first"):
        accelerated_vae(view)


def test_offloading_that_was_undone_is_no_hindrance() -> None:
    vae = small_kl()
    expected = decoded(vae, latents(vae))
    cpu_offload(vae, execution_device=torch.device("cpu"))
    remove_hook_from_module(vae, recurse=True)
    assert "forward" in vars(vae.decoder.conv_in)  # accelerate leaves it there: the method of the class
    view = accelerated_vae(vae)
    assert relative_difference(decoded(view, latents(vae)), expected) <= 1e-5
    assert launches(view, latents(vae)) == launches(accelerated_vae(small_kl()), latents(vae))
    assert "forward" in vars(vae.decoder.conv_in)


@pytest.mark.slow
def test_the_decoder_of_a_view_compiles_as_one_graph() -> None:
    vae = small_kl()
    compiled = torch.compile(accelerated_vae(vae).decoder, backend="eager", fullgraph=True)
    z = latents(vae)
    with torch.no_grad():
        assert relative_difference(compiled(vae.post_quant_conv(z)), decoded(vae, z)) <= 1e-5


@pytest.mark.slow
def test_the_autoencoder_of_stable_diffusion_in_full_size_decodes_and_encodes_the_same() -> None:
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = small_kl(**levels, block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32)
    view = accelerated_vae(vae)
    for call, given in ((decoded, latents(vae, 1, 4, 6)), (encoded, pictures(vae, 1, 32, 48))):
        difference = relative_difference(call(view, given), call(vae, given))
        print(f"{call.__name__}: {difference:.1e}")
        assert difference <= 1e-5


class Counted(diffusers.models.attention_processor.AttnProcessor2_0):
    """A processor of a user's own."""

    calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Tensor:
        type(self).calls += 1
        result: Tensor = super().__call__(*arguments, **options)
        return result


def test_a_processor_of_the_users_own_is_kept_and_one_set_later_runs() -> None:
    vae = small_kl()
    expected = decoded(vae, latents(vae))
    later = accelerated_vae(vae)
    later.set_attn_processor(Counted())
    vae.set_attn_processor(Counted())
    for count, view in ((1, later), (2, accelerated_vae(vae))):
        assert relative_difference(decoded(view, latents(vae)), expected) <= 1e-5
        assert Counted.calls == count
    later.fuse_qkv_projections()
    assert relative_difference(decoded(later, latents(vae)), expected) <= 1e-5


def launches(vae: Any, z: Tensor) -> Counter[str]:
    """The ops that a decode dispatches, but those that only view."""
    found: Counter[str] = Counter()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if not function.is_view:
                found[function.__name__.split(".")[0]] += 1
            return result

    with Counting():
        decoded(vae, z)
    return found


def test_a_residual_block_is_two_norms_two_convolutions_and_a_sum() -> None:
    vae = small_kl(block_out_channels=(32, 32), mid_block_add_attention=False)  # no shortcuts
    z = latents(vae)
    plain, fused = launches(vae, z), launches(accelerated_vae(vae), z)
    print(f"diffusers {plain.total()}: {dict(plain)}", f"view {fused.total()}: {dict(fused)}", sep="\n")
    blocks = 6  # two of the middle, two of each level
    assert plain["native_group_norm"] == plain["silu"] == 2 * blocks + 1
    assert fused["group_norm_silu"] == 2 * blocks + 1
    assert fused["convolution"] == plain["convolution"]
    assert fused["add"] == blocks  # bias_residual on a GPU
    assert not fused["silu"] + fused["native_group_norm"] + fused["div"]


REFUSED = {
    "not a module": lambda: "vae",
    "a network": lambda: nn.Conv2d(4, 3, 1),
    "ConsistencyDecoderVAE": lambda: object.__new__(diffusers.ConsistencyDecoderVAE),
    "AsymmetricAutoencoderKL": lambda: object.__new__(diffusers.AsymmetricAutoencoderKL),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_another_module_is_refused_by_name(make: Any) -> None:
    module = make()
    with pytest.raises(ArgumentError, match=rf"vae: got '{type(module).__name__}'; allowed: AutoencoderKL or "):
        accelerated_vae(module)


@pytest.mark.slow
def test_one_that_runs_other_code_is_refused() -> None:
    vae = small_tiny()
    vae.decode = partial(vae.decode)
    with pytest.raises(ArgumentError, match=r"vae: got .*AutoencoderTiny that is wrapped, with a decode of its own"):
        accelerated_vae(vae)
    other = small_kl()
    other.decoder.compile()
    with pytest.raises(ArgumentError, match=r"AutoencoderKL whose decoder is compiled; allowed: .* first, then"):
        accelerated_vae(other)


def test_a_copy_of_the_view_is_accelerated_and_has_tensors_of_its_own() -> None:
    vae = small_kl()
    view = accelerated_vae(vae)
    own = copy.deepcopy(view)
    expected = decoded(view, latents(vae))
    assert launches(own, latents(vae)) == launches(view, latents(vae))
    with torch.no_grad():
        vae.decoder.conv_out.bias.add_(1.0)
    assert relative_difference(decoded(own, latents(vae)), expected) == 0
    assert relative_difference(decoded(view, latents(vae)), expected) > 0.1
