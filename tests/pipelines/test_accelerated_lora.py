"""LoRA of an accelerated pipeline: merged into the shared weights, seen in the next step, and taken out exactly."""

import re
from typing import Any

import pytest
import torch

import fewstep
from fewstep import ArgumentError
from support.accelerated import images, off
from support.conditional_configs import REDUCED, condition_inputs, random_unet
from support.lora_case import random_lora, with_alpha
from support.pipelines_case import pipeline


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text to image", "xl text to image"])
def test_a_pipeline_with_a_lora_gives_what_diffusers_gives_with_it(kind: str) -> None:
    pipe = pipeline(kind)
    lora = with_alpha(random_lora(pipe.unet, "attn", rank=2), 1.0)
    plain = images(pipe, kind)
    pipe.load_lora_weights(dict(lora), adapter_name="style")
    pipe.set_adapters("style", 0.7)
    expected = images(pipe, kind)
    pipe.unload_lora_weights()

    fewstep.accelerate(pipe)
    pipe.unet.fewstep_lora.load(lora, "style", weight=0.7)
    assert off(images(pipe, kind), expected) <= 1e-4
    assert off(plain, expected) > 1e-3
    fewstep.restore(pipe)
    assert torch.equal(images(pipe, kind), plain)


@torch.no_grad()
def test_a_swap_is_seen_by_the_next_call_and_leaves_nothing_behind() -> None:
    unet = random_unet(REDUCED["sd1"])
    weights = {name: weight.clone() for name, weight in unet.state_dict().items()}
    view = fewstep.accelerate(unet)
    given = condition_inputs(REDUCED["sd1"])
    plain = view(**given).sample
    where = [weight.data_ptr() for weight in unet.parameters()]
    # Of the cross-attention's keys and values alone, which are kept from call to call.
    for name, seed in (("one", 0), ("two", 1)):
        view.fewstep_lora.load(random_lora(unet, "attn2.to_k", seed=seed), name, weight=0.0)
    answers = []
    for shares in ({"one": 1.0}, {"one": 0.0, "two": 1.0}, {"two": 0.0}):
        view.fewstep_lora.set(shares)
        answers.append(view(**given).sample)
        assert off(answers[-1], unet(**given).sample) <= 1e-5  # the original has the same weights
    assert torch.equal(answers[2], plain)
    assert off(answers[0], plain) > 1e-4
    assert off(answers[0], answers[1]) > 1e-4
    assert [weight.data_ptr() for weight in unet.parameters()] == where

    view.fewstep_lora.set({"one": 0.5})
    with pytest.raises(ArgumentError, match=re.escape("unet: got one with LoRA adapters: one, two; allowed: a move")):
        view.to(torch.bfloat16)
    assert fewstep.restore(view) is unet
    assert all(torch.equal(weight, weights[name]) for name, weight in unet.state_dict().items())


@torch.no_grad()
def test_weights_that_others_move_keep_what_was_merged_and_that_is_told() -> None:
    unet = random_unet(REDUCED["sd1"])
    view = fewstep.accelerate(unet)
    view.fewstep_lora.load(random_lora(unet, "attn"), "one")
    given = condition_inputs(REDUCED["sd1"])
    expected = view(**given).sample
    unet.double()
    given |= {name: given[name].double() for name in ("sample", "encoder_hidden_states")}
    with pytest.warns(UserWarning, match="LoRA adapters one are part of the weights now: they can be taken out no mo"):
        assert off(view(**given).sample, expected) <= 1e-5
    assert off(view(**given).sample, expected) <= 1e-5
    assert view.fewstep_lora.weights == {}


@torch.no_grad()
def test_weights_that_others_write_meanwhile_are_those_that_come_back() -> None:
    unet = random_unet(REDUCED["sd1"])
    view = fewstep.accelerate(unet)
    view.fewstep_lora.load(random_lora(unet, "attn"), "one")
    written = {name: weight + 0.01 for name, weight in unet.state_dict().items()}
    unet.load_state_dict(written)
    view.fewstep_lora.unload()
    assert all(torch.equal(weight, written[name]) for name, weight in unet.state_dict().items())

    # Of what lies side by side in ours, each keeps its own.
    attention = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1")
    view.fewstep_lora.load(random_lora(unet, "attn"), "one")
    attention.to_q.weight.fill_(0.5)
    view.fewstep_lora.unload()
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_"
    assert bool((attention.to_q.weight == 0.5).all())
    assert torch.equal(attention.to_k.weight, written[f"{name}k.weight"])
    assert torch.equal(attention.to_v.weight, written[f"{name}v.weight"])


@torch.no_grad()
def test_what_one_view_merges_the_other_of_the_same_unet_sees() -> None:
    unet = random_unet(REDUCED["sd1"])
    one, two = fewstep.accelerate(unet), fewstep.accelerate(unet)
    given = condition_inputs(REDUCED["sd1"])
    before = two(**given).sample
    one.fewstep_lora.load(random_lora(unet, "attn2.to_k"), "one")
    assert off(two(**given).sample, one(**given).sample) == 0
    assert off(two(**given).sample, before) > 1e-4


@torch.no_grad()
def test_what_an_engine_of_the_pipeline_merges_its_accelerated_unet_sees() -> None:
    pipe: Any = fewstep.accelerate(pipeline("text to image"))
    engine = fewstep.Engine.from_pipeline(pipe)
    given = condition_inputs(dict(pipe.unet.config))
    before = pipe.unet(**given).sample
    engine.load_lora(random_lora(pipe.unet, "attn2.to_"), "one")
    after = pipe.unet(**given).sample
    assert off(after, pipe.unet.fewstep_network.original(**given).sample) <= 1e-5
    assert off(after, before) > 1e-3
    engine.unload_lora()
    assert torch.equal(pipe.unet(**given).sample, before)


def test_peft_and_fewsteps_lora_are_told_apart() -> None:
    pipe: Any = fewstep.accelerate(pipeline("text to image"))
    with pytest.raises(ArgumentError, match=r"load_lora_adapter: got .*\(pipe.unet.fewstep_lora.load\)"):
        pipe.load_lora_weights(random_lora(fewstep.restore(pipe.unet), "attn"))
