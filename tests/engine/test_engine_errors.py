"""What the engine refuses, in one line that names the argument, its value and what is allowed."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep import ArgumentError, Classes, Engine, FewstepError, Image, Inpaint, Model, schedules
from fewstep.samplers import SAMPLERS
from support.small import SHAPE, SmallNet, picture, small_engine

BAD_CALLS: dict[str, tuple[Callable[[Engine], object], str]] = {
    "zero steps": (lambda e: e.sample(labels=[1], steps=0), "steps: got 0; allowed"),
    "too many steps": (lambda e: e.sample(labels=[1], steps=1001), "steps: got 1001; allowed"),
    "a mask beside a closed plan": (
        lambda e: e.sample(labels=[1], sampler="unipc", steps=4, start=Inpaint(picture(), torch.ones(8, 8))),
        "sampler: got 'unipc'; allowed: beside a mask others, such as ddim: it reads its past back from x",
    ),
    "half a step": (lambda e: e.sample(labels=[1], steps=2.5), "steps: got 2.5; allowed"),  # type: ignore[arg-type]
    "unknown sampler": (
        lambda e: e.sample(labels=[1], sampler="ddmi"),
        f"sampler: got 'ddmi'; allowed: {', '.join(SAMPLERS)}",
    ),
    "label too large": (lambda e: e.sample(labels=[10]), "labels: got 10; allowed: integers from 0 to 9"),
    "label a fraction": (lambda e: e.sample(labels=[1.5]), "labels: got 1.5; allowed"),
    "label a word": (lambda e: e.sample(labels=["cat"]), "labels: got 'cat'; allowed: integers from 0 to 9"),  # type: ignore[list-item]
    "label not a number": (lambda e: e.sample(labels=[float("nan")]), "labels: got nan; allowed: integers from 0 to 9"),
    "label a flag": (lambda e: e.sample(labels=[True]), "labels: got True; allowed: integers from 0 to 9"),
    "label not there": (lambda e: e.sample(labels=[None]), "labels: got None; allowed: integers from 0 to 9"),  # type: ignore[list-item]
    "labels without order": (lambda e: e.sample(labels={1}), "labels: got {1}; allowed: integers from 0 to 9"),  # type: ignore[arg-type]
    "no samples": (lambda e: e.sample(n=0), "n: got 0; allowed"),
    "two counts": (
        lambda e: e.sample(labels=[1, 2], seeds=[1]),
        "seeds: got 1 samples; allowed: 2, as labels says",
    ),
    "negative seed": (lambda e: e.sample(labels=[1], seeds=[-1]), "seeds: got -1; allowed"),
    "image of another size": (
        lambda e: e.sample(labels=[1], start=Image(torch.zeros(3, 9, 8), 0.5)),
        "image: got shape (1, 3, 9, 8); allowed",
    ),
    "image of integers": (
        lambda e: e.sample(labels=[1], start=Image(torch.zeros(3, 8, 8, dtype=torch.int32), 0.5)),
        "image: got a tensor of torch.int32; allowed",
    ),
    "image out of range": (
        lambda e: e.sample(labels=[1], start=Image(torch.full(SHAPE, 255.0), 0.5)),
        "image: got values from 255 to 255; allowed: finite values in [-1, 1]",
    ),
    "image with a NaN": (
        lambda e: e.sample(labels=[1], start=Image(torch.full(SHAPE, float("nan")), 0.5)),
        "image: got values from nan to nan; allowed",
    ),
    "an image as it is": (
        lambda e: e.sample(labels=[1], start=picture()),  # type: ignore[arg-type]
        "allowed: fewstep.Image, Inpaint or Resume, or one per sample",
    ),
    "strength of zero": (
        lambda e: e.sample(labels=[1], start=Image(picture(), 0.0)),
        "strength: got 0.0; allowed",
    ),
    "strength without image": (
        lambda e: e.sample(labels=[1], strength=0.5),
        "strength: got 0.5; allowed: nothing: it is said by start=fewstep.Image(x, strength)",
    ),
    "mask of another size": (
        lambda e: e.sample(labels=[1], start=Inpaint(picture(), torch.ones(4, 4))),
        "mask: got shape (1, 1, 4, 4); allowed",
    ),
    "mask out of range": (
        lambda e: e.sample(labels=[1], start=Inpaint(picture(), torch.full((8, 8), 2.0))),
        "mask: got values outside [0, 1]; allowed",
    ),
    "noise of another shape": (lambda e: e.sample(labels=[1], noise=torch.zeros(2, *SHAPE)), "noise: got"),
    "noise a seed": (lambda e: e.sample(labels=[1], noise=3), "noise: got 3; allowed"),  # type: ignore[arg-type]
    "too few generators": (lambda e: e.sample(labels=[1, 2], noise=[torch.Generator()]), "noise: got 1 samples"),
    "condition of another count": (
        lambda e: e.sample(labels=[1], condition={"style": torch.zeros(2, 3)}),
        "condition['style']: got shape (2, 3); allowed",
    ),
    "steps beside a plan": (lambda e: e.sample(labels=[1], plan=e.plan(), steps=3), "steps: got 3; allowed"),
    "renoise misspelt": (
        lambda e: e.sample(labels=[1], start=Inpaint(picture(), torch.ones(8, 8), renoise="never")),  # type: ignore[arg-type]
        "renoise: got 'never'; allowed",
    ),
    "guidance not a number": (
        lambda e: e.sample(labels=[1], guidance_scale=float("nan")),
        "guidance_scale: got nan",
    ),
    "rescale above one": (
        lambda e: e.sample(labels=[1], guidance_scale=2.0, guidance_rescale=1.5),
        "guidance_rescale: got 1.5; allowed",
    ),
    "an option no sampler has": (lambda e: e.plan(steps=4, etta=1.0), "etta"),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_input_names_the_argument_and_what_is_allowed(call: Callable[[Engine], object], message: str) -> None:
    net = SmallNet()
    with pytest.raises(FewstepError) as caught:
        call(small_engine(net))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert net.calls == []


def test_labels_are_for_models_that_take_them() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x

    engine = small_engine(Plain(), conditions=None)
    with pytest.raises(ArgumentError, match=r"labels: got .*this model takes no labels"):
        engine.sample(labels=[1])
    with pytest.raises(ArgumentError, match=r"guidance_scale: got 2\.0; allowed: 1"):
        engine.sample(guidance_scale=2.0)
    no_null = small_engine(conditions=Classes(10))
    with pytest.raises(ArgumentError, match="this model has no null class"):
        no_null.sample(n=2)
    with pytest.raises(ArgumentError, match="guidance_scale"):
        no_null.sample(labels=[1], guidance_scale=2.0)


def test_eps_prediction_raises_at_zero_terminal_snr() -> None:
    with pytest.raises(ArgumentError, match="eps"):
        small_engine(schedule=schedules.linear().rescale_zero_terminal_snr())
    by_v = small_engine(schedule=schedules.linear().rescale_zero_terminal_snr(), prediction="v")
    assert torch.isfinite(by_v.sample(labels=[1]).images).all()


def test_a_module_of_the_wrong_shape_is_named() -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x[:, :1]

    with pytest.raises(ArgumentError, match=r"denoiser: got .* allowed: \[1, 3, 8, 8\]"):
        small_engine(Wrong(), conditions=None).sample()
    with pytest.raises(ArgumentError, match=r"shape \[1, 3, 8, 8\]; allowed: \[1, 6, 8, 8\]"):
        small_engine(defaults={"sampler": "ddpm", "steps": 2, "variance": "learned_range"}).sample(labels=[1])


def test_constructor_names_its_arguments() -> None:
    for options, message in (
        ({"shape": (3,)}, "shape"),
        ({"shape": 16}, "shape"),
        ({"shape": (3, True, 8)}, "shape"),
        ({"schedule": "linear"}, "schedule: got 'linear'; allowed: a Schedule"),
        ({"conditions": 10}, "conditions: got 10; allowed: fewstep.Classes"),
        ({"time": "seconds"}, "time: got 'seconds'; allowed: timestep, unit"),
        ({"decoder": "vae"}, "decoder: got 'str'"),
        ({"dtype": torch.int32}, "dtype: got torch.int32"),
        ({"dtype": "float16"}, "dtype: got 'float16'"),
        ({"shape": (3, 0, 8)}, "shape"),
        ({"max_batch": 0}, "max_batch"),
        ({"conditions": {"kind": "words"}}, "labels.kind"),
        ({"conditions": {"kind": ["classes"]}}, r"labels.kind: got \['classes'\]; allowed: classes, continuous"),
        ({"prediction": "noise"}, "prediction"),
        ({"prediction": np.array(["eps", "v"])}, "prediction: got array"),
        ({"time": np.array(["unit", "edm"])}, "time: got array"),
        ({"runner": np.array(["eager", "auto"])}, "runner: got array"),
        ({"defaults": {"sampler": "dimm"}}, "sampler"),
        ({"device": "gpu"}, "device"),
        ({"runner": "fast"}, "runner"),
    ):
        with pytest.raises(ArgumentError, match=message):
            small_engine(**options)


def test_names_of_classes_are_texts_in_order() -> None:
    for names in (3, None, "ab", {"a", "b"}, {"a": 1, "b": 2}, ["a", 1], iter("a")):
        with pytest.raises(ArgumentError, match=r"classes\.names: got .*; allowed: 2 names, no two alike"):
            Classes(2, names=names)  # type: ignore[arg-type]
    for listed in (["a", "b"], iter("ab"), {"a": 1, "b": 2}.keys(), np.array(["a", "b"])):
        assert Classes(2, names=listed).names == ("a", "b")  # type: ignore[arg-type]


def test_a_module_alone_is_no_model() -> None:
    with pytest.raises(ArgumentError, match=r"model: got 'SmallNet'; allowed: a fewstep.Model: Engine\(Model\(unet"):
        Engine(SmallNet())  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="module: got 'int'"):
        Model(3, schedule=schedules.linear(), shape=SHAPE)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["image", "mask", "renoise", "resume", "generator", "conditioning", "strength"])
def test_an_argument_of_before_says_what_to_give_instead(name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"{name}: got 1; allowed: nothing: it is said by \w+="):
        small_engine().sample(labels=[1], **{name: 1})
