"""What an accelerated U-Net would not do is refused by its name: found in it at first, or asked for later."""

import re
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnAddedKVProcessor, AttnProcessor, SlicedAttnProcessor
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

import fewstep
from fewstep import ArgumentError, ModelError
from support.accelerated import images, off
from support.conditional_configs import REDUCED, condition_inputs, random_unet
from support.pipelines_case import conditional_unet, pipeline

LORA = LoraConfig(r=2, target_modules=["to_q", "to_k"])
FREEU = {"s1": 0.9, "s2": 0.2, "b1": 1.2, "b2": 1.4}


def small() -> Any:
    return random_unet(REDUCED["sd1"])


def attention(unet: Any) -> Any:
    return unet.mid_block.attentions[0].transformer_blocks[0].attn2


def exchanged(unet: Any) -> None:
    unet.conv_in = nn.Conv2d(4, 32, 3, padding=1, bias=False)


def wrapped(unet: Any) -> None:
    unet.mid_block.forward = lambda *args, **kwargs: args[0]


def seamless(unet: Any) -> None:
    for part in unet.modules():
        if isinstance(part, nn.Conv2d):
            part.padding_mode = "circular"


def quantized(unet: Any) -> None:
    unet.conv_in.weight = nn.Parameter(torch.ones(32, 4, 3, 3, dtype=torch.int8), requires_grad=False)


# What others do to a U-Net, before it is accelerated or after, and what is said.
CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "peft": (lambda unet: inject_adapter_in_model(LORA, unet), "LoRA layers of peft"),
    "a processor": (
        lambda unet: attention(unet).set_processor(AttnAddedKVProcessor()),
        "the attention processor AttnAddedKVProcessor in mid_block",
    ),
    "an own processor": (lambda unet: setattr(attention(unet), "processor", print), "the attention processor builtin"),
    "freeu": (lambda unet: UNet2DConditionModel.enable_freeu(unet, **FREEU), "FreeU in up_blocks.0"),
    "a hook inside": (lambda unet: unet.mid_block.register_forward_hook(print), "a hook in mid_block"),
    "a forward inside": (wrapped, "a forward of its own on the instance in mid_block"),
    "offloaded parts": (lambda unet: add_hook_to_module(unet.conv_in, ModelHook()), "hooks that offload, cast or"),
    "another layer": (exchanged, "conv_in.bias"),
    "an activation": (lambda unet: setattr(unet, "conv_act", nn.GELU()), "conv_act: got 'GELU'; allowed: SiLU"),
    "seamless": (seamless, "conv_in.padding_mode: got 'circular'; allowed: 'zeros', as the config says"),
    "a backward hook": (lambda unet: unet.conv_in.register_full_backward_hook(print), "a hook in conv_in"),
    "quantized": (quantized, "conv_in.weight: got Parameter of torch.int8"),
    "two dtypes": (lambda unet: unet.conv_in.half(), "torch.float16 on cpu and torch.float32 on cpu"),
    "no weights": (lambda unet: unet.to("meta"), "tensors on the meta device"),
    "fused projections": (
        lambda unet: UNet2DConditionModel.fuse_qkv_projections(unet),
        "the attention processor FusedAttnProcessor2_0",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_comes_into_it_is_named_at_the_next_call_and_when_it_is_there_before(change: str) -> None:
    do, message = CHANGES[change]
    with torch.no_grad():
        unet = small()
        view = fewstep.accelerate(unet)
        view(**condition_inputs(REDUCED["sd1"]))
        do(unet)
        with pytest.raises(ArgumentError, match=re.escape(message)):
            view(**condition_inputs(REDUCED["sd1"]))
        assert fewstep.restore(view) is unet
        with pytest.raises(ArgumentError, match=re.escape(message)):
            fewstep.accelerate(unet)


def test_weights_of_inference_mode_are_for_inference_mode() -> None:
    with torch.inference_mode():
        unet = small()
    with pytest.raises(
        ArgumentError, match=r"weight: got a parameter that was made in torch.inference_mode\(\); allow"
    ):
        fewstep.accelerate(unet)
    with torch.inference_mode():
        given = condition_inputs(REDUCED["sd1"])
        assert off(fewstep.accelerate(unet)(**given).sample, unet(**given).sample) <= 1e-5


ASKED: dict[str, tuple[Callable[[Any], object], str]] = {
    "freeu": (lambda unet: unet.enable_freeu(**FREEU), "enable_freeu: got an accelerated U-Net; allowed: a U-Net w"),
    "peft": (lambda unet: unet.add_adapter(LORA), "add_adapter: got an accelerated U-Net; allowed: a U-Net without Lo"),
    "a LoRA": (lambda unet: unet.load_lora_adapter({}), "load_lora_adapter: got"),
    "processors": (lambda unet: unet.load_attn_procs({}), "load_attn_procs: got"),
    "an IP-Adapter": (lambda unet: unet._load_ip_adapter_weights([{}]), "an IP-Adapter"),
    "fused projections": (lambda unet: unet.fuse_qkv_projections(), "fuse_qkv_projections: got"),
    "casting": (lambda unet: unet.enable_layerwise_casting(torch.float16), "enable_layerwise_casting: got"),
    "group offload": (lambda unet: unet.enable_group_offload(torch.device("cpu")), "enable_group_offload: got"),
    "a backend": (lambda unet: unet.set_attention_backend("native"), "set_attention_backend: got"),
    "compiling": (lambda unet: unet.compile(), "compile: got an accelerated U-Net; allowed: an accelerated U-Net, or"),
    "compiling blocks": (lambda unet: unet.compile_repeated_blocks(), "compile_repeated_blocks: got"),
    "a processor": (lambda unet: unet.set_attn_processor(AttnAddedKVProcessor()), "processor: got 'AttnAdded"),
    "another hook": (lambda unet: add_hook_to_module(unet, ModelHook()), "unet: got hooks that offload, cast or cache"),
    "offload of layers": (lambda unet: cpu_offload(unet, torch.device("cpu")), "unet: got hooks that offload"),
    "a forward": (lambda unet: setattr(unet, "forward", print), "forward: got"),
}


@pytest.mark.parametrize("asked", ASKED)
def test_what_is_asked_of_it_later_is_named_and_leaves_it_as_it_was(asked: str) -> None:
    do, message = ASKED[asked]
    view = fewstep.accelerate(small())
    given = condition_inputs(REDUCED["sd1"])
    with torch.no_grad():
        before = view(**given).sample
        with pytest.raises(ArgumentError, match=re.escape(message)):
            do(view)
        assert torch.equal(view(**given).sample, before)
        assert off(fewstep.restore(view)(**given).sample, before) <= 1e-5


@pytest.mark.slow
def test_a_pipelines_own_ways_to_ask_are_refused_too() -> None:
    pipe = fewstep.accelerate(pipeline("text to image"))
    expected = images(pipe, "text to image")
    with pytest.raises(ArgumentError, match="enable_freeu"):
        pipe.enable_freeu(**FREEU)
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    state = {f"{layer}.lora_A.weight": torch.ones(2, 64), f"{layer}.lora_B.weight": torch.ones(64, 2)}
    with pytest.raises(
        ArgumentError, match=r"fuse it before \(pipe.fuse_lora\(\), .*or load it into the accelerated U-Net"
    ):
        pipe.load_lora_weights(state)
    assert torch.equal(images(pipe, "text to image"), expected)
    pipe = fewstep.restore(pipe)
    pipe.load_lora_weights(state)
    with pytest.raises(ArgumentError, match=r"pipe.unet: got a UNet2DConditionModel with LoRA layers of peft"):
        fewstep.accelerate(pipe)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    fused = images(pipe, "text to image")
    assert off(fused, expected) > 1e-3
    assert off(images(fewstep.accelerate(pipe), "text to image"), fused) <= 1e-4


def test_other_ways_to_compute_attention_and_what_was_undone_are_no_hindrance() -> None:
    unet = small()
    given = condition_inputs(REDUCED["sd1"])
    with torch.no_grad():
        expected = unet(**given).sample
        add_hook_to_module(unet, ModelHook())
        with pytest.raises(ArgumentError, match="remove_all_hooks"):
            fewstep.accelerate(unet)
        remove_hook_from_module(unet)
        assert isinstance(unet.forward, MethodType)
        unet.enable_freeu(**FREEU)
        unet.disable_freeu()
        view = fewstep.accelerate(unet)
        for processor in (AttnProcessor(), SlicedAttnProcessor(2)):
            view.set_attn_processor(processor)
            assert off(view(**given).sample, expected) <= 1e-5
        view.set_attention_slice("auto")
        view.disable_freeu()
        calls: list[int] = []
        view.register_forward_hook(lambda *parts: calls.append(1))  # on the U-Net itself: run as ever
        assert off(view(**given).sample, expected) <= 1e-5
        assert calls == [1]


@pytest.mark.slow
def test_a_pipeline_can_be_offloaded_once_it_is_accelerated() -> None:
    pipe = pipeline("text to image")
    expected, unet = images(pipe, "text to image"), pipe.unet
    fewstep.accelerate(pipe).enable_model_cpu_offload(device="cpu")  # a GPU's place is taken by the CPU
    moves: list[Any] = []
    pipe.unet._hf_hook.pre_forward = lambda module, *args, **kwargs: (moves.append(module), (args, kwargs))[1]
    assert off(images(pipe, "text to image"), expected) <= 1e-4
    assert moves == [pipe.unet] * 4
    assert "_hf_hook" not in vars(unet)
    with pytest.raises(ArgumentError, match=r"one that is offloaded; allowed: .*pipe.remove_all_hooks\(\) first"):
        fewstep.restore(pipe)
    pipe.remove_all_hooks()
    assert off(images(pipe, "text to image"), expected) <= 1e-4
    assert fewstep.restore(pipe).unet is unet
    assert "forward" not in vars(unet)
    assert torch.equal(images(pipe, "text to image"), expected)
    fewstep.accelerate(pipe)
    with pytest.raises(ArgumentError, match=r"a AlignDevicesHook; allowed: none but pipe.enable_model_cpu_offload"):
        pipe.enable_sequential_cpu_offload(device="cpu")


def test_a_pipeline_that_was_offloaded_and_is_no_more_can_be_accelerated() -> None:
    pipe = pipeline("text to image")
    expected = images(pipe, "text to image")
    for part in (pipe.unet, pipe.vae, pipe.vae.decoder):
        add_hook_to_module(part, ModelHook())
    with pytest.raises(ArgumentError, match="offload"):
        fewstep.accelerate(pipe)
    for part in (pipe.unet, pipe.vae, pipe.vae.decoder):
        remove_hook_from_module(part)
    fewstep.accelerate(pipe)
    assert off(images(pipe, "text to image"), expected) <= 1e-4


def test_training_is_refused_where_it_would_be_lost() -> None:
    given = condition_inputs(REDUCED["sd1"])
    view = fewstep.accelerate(small().train())
    with torch.no_grad():
        view(**given)
    with pytest.raises(ArgumentError, match=r"an accelerated one in training mode; .*its weights get no gradients"):
        view(**given)
    view.eval()
    view(**given)
    dropping = fewstep.accelerate(random_unet(REDUCED["sd1"] | {"dropout": 0.5}))
    with torch.no_grad():
        dropping(**given)
        with pytest.raises(ArgumentError, match="it drops nothing out"):
            dropping.train()(**given)


class OwnPipeline(DiffusionPipeline):
    """Of nobody."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet)


def test_what_is_no_known_pipeline_or_unet_is_named_with_what_is() -> None:
    class Mine(UNet2DConditionModel):
        pass

    own = OwnPipeline(small())
    for wrong in (own, nn.Conv2d(1, 1, 1), Mine(**REDUCED["sd1"]), "folder", None):
        with pytest.raises(
            ArgumentError, match="allowed: UNet2DConditionModel or UNet2DModel, or one of the pipelines S"
        ):
            fewstep.accelerate(wrong)
        with pytest.raises(ArgumentError, match=r"allowed: what fewstep.accelerate gave"):
            fewstep.restore(wrong)
    pipe = pipeline("text to image")
    vae = pipe.vae
    pipe.unet = Mine(**REDUCED["sd1"])
    with pytest.raises(ArgumentError, match=r"pipe.unet: got 'Mine'; allowed: UNet2DConditionModel or UNet2DModel"):
        fewstep.accelerate(pipe)
    assert pipe.vae is vae
    gated = conditional_unet("sd1", attention_type="gated")
    with pytest.raises(ModelError, match=r"pipe_or_unet\.config: attention_type"):
        fewstep.accelerate(gated)
