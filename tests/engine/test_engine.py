"""The engine as its users call it."""

import threading
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import fewstep
from fewstep import Inpaint, Numbers, Resume, Sample, Step
from fewstep.diffusion.samplers import SAMPLERS, SamplerName, make_plan
from fewstep.engine import Ending
from fewstep.models.model import Prediction
from fewstep.results import read_parameters
from fewstep.run.decode import OUTPUTS
from fewstep.run.noise import initial_noise
from support.small import SHAPE, SmallNet, picture, small_engine


def test_steps_are_model_calls() -> None:
    net = SmallNet()
    samples = small_engine(net, backend="torch").sample(labels=[3, 7], steps=5, seeds=0)  # which calls the module
    assert samples.model_calls == 5
    assert net.calls == [(2, *SHAPE)] * 5
    assert samples.images.shape == (2, *SHAPE)
    assert samples.seeds == [0, 1]
    assert samples.labels == [3, 7]


@pytest.mark.parametrize(("w", "rows"), [(0.0, 2), (1.0, 2), (3.0, 4)], ids=["unconditional", "conditional", "guided"])
def test_guidance_doubles_the_batch_only_where_it_combines(w: float, rows: int) -> None:
    net = SmallNet()
    guided = small_engine(net).sample(labels=[3, 7], seeds=0, guidance_scale=w)
    assert net.calls[0][0] == rows
    if w == 0:
        unlabelled = small_engine().sample(n=2, seeds=0)
        assert torch.equal(guided.images, unlabelled.images)


def test_guidance_is_the_formula() -> None:
    """One step of guided DDIM, written out."""
    engine = small_engine(defaults={"sampler": "ddim", "steps": 1})
    z = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(3))
    samples = engine.sample(labels=[4], guidance_scale=2.5, noise=z)
    with torch.no_grad():
        t = torch.tensor([999.0])
        cond, uncond = (engine.module(z, t, torch.tensor([label])) for label in (4, 10))
    m = uncond + 2.5 * (cond - uncond)
    alphas_cumprod = engine.model.schedule.alphas_cumprod[-1]
    expected = (z - (1 - alphas_cumprod) ** 0.5 * m) / alphas_cumprod**0.5
    torch.testing.assert_close(samples.images, expected, rtol=1e-4, atol=1e-3)


def test_samplers_and_guidance_mix_in_one_batch() -> None:
    engine = small_engine()
    plans = [
        make_plan("ddim", engine.model.schedule, 4, clip=1.0),
        make_plan("ddpm", engine.model.schedule, 6, clip=1.0, guidance_scale=3.0),
        make_plan("lcm", engine.model.schedule, 2, clip=1.0, guidance_scale=0.0),
    ]
    together = engine.sample(labels=[1, 2, 3], seeds=[5, 6, 7], plan=plans)
    assert together.model_calls == 6
    for place, plan in enumerate(plans):
        alone = engine.sample(labels=[1 + place], seeds=[5 + place], plan=plan)
        torch.testing.assert_close(alone.images[0], together.images[place], rtol=1e-4, atol=1e-5)


def test_a_large_request_runs_in_batches() -> None:
    net = SmallNet()
    many = small_engine(net, max_batch=4, backend="torch").sample(n=10, seeds=0, steps=2)
    assert [call[0] for call in net.calls] == [4, 4, 4, 4, 2, 2]
    one = small_engine().sample(n=10, seeds=0, steps=2)
    torch.testing.assert_close(many.images, one.images, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("w", [1.0, 3.0], ids=["one half", "both halves"])
def test_batch_invariant_samples_have_the_same_bits_in_any_company(w: float) -> None:
    engine = small_engine(batch_invariant=True, max_batch=6)
    alone = engine.sample(labels=[7], seeds=[3], sampler="ddpm", guidance_scale=w).images[0]
    for slot, others in ((0, 1), (2, 2), (1, 1)):
        labels, seeds = (
            [*range(slot), 7, *range(others - slot)],
            [*range(10, 10 + slot), 3, *range(20, 20 + others - slot)],
        )
        company = engine.sample(labels=labels, seeds=seeds, sampler="ddpm", guidance_scale=w)
        assert torch.equal(company.images[slot], alone)


def test_batch_invariance_holds_beside_other_plans() -> None:
    engine = small_engine(batch_invariant=True, max_batch=6)
    mine = make_plan("lcm", engine.model.schedule, 3, clip=1.0)
    alone = engine.sample(labels=[7], seeds=[3], plan=mine).images[0]
    guided = make_plan("ddpm", engine.model.schedule, 5, clip=1.0, guidance_scale=4.0, guidance_rescale=0.5)
    company = engine.sample(labels=[1, 7, 2], seeds=[8, 3, 9], plan=[guided, mine, guided])
    assert torch.equal(company.images[1], alone)


def test_two_threads_on_one_engine() -> None:
    engine = small_engine()
    wanted = {label: engine.sample(labels=[label], seeds=[label], steps=8, sampler="ddpm").images for label in range(6)}
    found: dict[int, Tensor] = {}

    def work(labels: range) -> None:
        for label in labels:
            found[label] = engine.sample(labels=[label], seeds=[label], steps=8, sampler="ddpm").images

    threads = [threading.Thread(target=work, args=(range(start, 6, 2),)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[label], wanted[label]) for label in range(6))


def test_a_callback_sees_previews_and_changes_nothing() -> None:
    seen: list[tuple[int, int, float]] = []
    previews: list[Tensor] = []

    def look(step: Step) -> None:
        seen.append((step.index, step.total, float(step.x.std())))
        previews.append(step.x_0)

    watched = small_engine().sample(labels=[1, 2], seeds=0, callback=look)
    assert [index for index, _, _ in seen] == [0, 1, 2, 3]
    assert all(total == 4 for _, total, _ in seen)
    assert all(preview.abs().max() <= 1 for preview in previews)
    assert torch.equal(previews[-1], watched.images)
    assert torch.equal(watched.images, small_engine().sample(labels=[1, 2], seeds=0).images)


def test_a_callback_cancels_one_sample_or_all() -> None:
    whole = small_engine().sample(labels=[1, 2, 3], seeds=0)

    def drop_second(step: Step) -> None:
        if step.index == 1:
            step.cancel(1)

    some = small_engine().sample(labels=[1, 2, 3], seeds=0, callback=drop_second)
    assert some.cancelled == [False, True, False]
    assert torch.equal(some.images[[0, 2]], whole.images[[0, 2]])
    assert not torch.equal(some.images[1], whole.images[1])

    def drop_both(step: Step) -> None:
        step.cancel(0)
        step.cancel(1)

    net = SmallNet()
    each = small_engine(net, backend="torch").sample(labels=[1, 2], seeds=0, callback=drop_both)
    assert each.cancelled == [True, True]
    assert len(net.calls) == each.model_calls == 1

    net = SmallNet()
    engine = small_engine(net, max_batch=2, backend="torch")
    none = engine.sample(labels=[1, 2, 3], seeds=0, callback=lambda step: step.index < 1)
    assert none.cancelled == [True, True, True]
    assert len(net.calls) == none.model_calls == 2
    assert none.images.shape == (3, *SHAPE)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "lcm"])
def test_a_run_resumes_where_a_callback_left_it(sampler: str) -> None:
    states: list[Sample] = []

    def keep(step: Step) -> bool:
        states.extend(step.state(sample) for sample in step.samples)
        return False

    arguments: dict[str, Any] = {"labels": [1, 2], "seeds": [4, 9], "sampler": sampler, "steps": 4}
    small_engine().sample(**arguments, callback=keep)
    resumed = small_engine().sample(start=Resume(states))
    assert resumed.model_calls == 3
    assert torch.equal(resumed.images, small_engine().sample(**arguments).images)


def test_an_image_starts_at_strength_with_the_same_number_of_calls() -> None:
    engine = small_engine()
    weak = engine.sample(labels=[1], seeds=0, start=fewstep.Image(picture(), 0.02), steps=4)
    strong = engine.sample(labels=[1], seeds=0, start=fewstep.Image(picture(), 1.0), steps=4)
    assert weak.model_calls == strong.model_calls == 4
    assert (weak.images - picture()).abs().mean() < 0.2 < (strong.images - picture()).abs().mean()
    assert float(weak.plan.levels.t[0]) == 19


def test_an_image_start_is_the_forward_process() -> None:
    """Before the first call x is q(x_t | image) with the sample's own initial noise."""
    seen: list[Tensor] = []
    engine = small_engine()
    plan = engine.plan(steps=8)
    z = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))

    def first_input(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0][0].clone())

    with engine.module.register_forward_pre_hook(first_input):
        engine.sample(labels=[1], start=fewstep.Image(picture(), 0.5), noise=z, plan=plan)
    signal_scale, noise_scale = plan.levels.signal_scale[4], plan.levels.noise_scale[4]
    torch.testing.assert_close(seen[0], (signal_scale * picture() + noise_scale * z[0]).float())
    assert len(seen) == 4


@pytest.mark.parametrize("renoise", ["initial", "fresh"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "lcm"])
def test_inpainting_keeps_the_known_region(sampler: str, renoise: Literal["initial", "fresh"]) -> None:
    mask = torch.zeros(8, 8)
    mask[:4] = 1
    engine = small_engine()
    start = Inpaint(picture(), mask, renoise=renoise)
    filled = engine.sample(labels=[1, 2], seeds=0, start=start, sampler=sampler)
    assert torch.equal(filled.images[:, :, 4:], picture()[:, 4:].expand(2, -1, -1, -1))
    assert not torch.allclose(filled.images[:, :, :4], picture()[:, :4])
    free = engine.sample(labels=[1, 2], seeds=0, sampler=sampler)
    whole = Inpaint(picture(), torch.ones(8, 8))
    everything = engine.sample(labels=[1, 2], seeds=0, start=whole, sampler=sampler)
    torch.testing.assert_close(everything.images, free.images)


def test_images_come_as_tensors_arrays_and_pictures() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    results = [
        small_engine().sample(labels=[1], seeds=0, start=Inpaint(image, hole)).images
        for image, hole in (
            (tensor, torch.from_numpy(mask / 255)),
            (pixels, mask),
            (Image.fromarray(pixels), Image.fromarray(mask)),
        )
    ]
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


def test_a_generator_draws_as_torch_does() -> None:
    engine = small_engine()
    by_generator = engine.sample(labels=[1, 2], sampler="ddpm", steps=3, noise=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    drawn = torch.stack([torch.randn(2, *SHAPE, generator=generator) for _ in range(3)])
    given = torch.cat([drawn, torch.zeros(1, 2, *SHAPE)])  # the last row adds none
    by_tensor = engine.sample(labels=[1, 2], sampler="ddpm", steps=3, noise=given)
    assert torch.equal(by_generator.images, by_tensor.images)
    assert [each.parameters_of(0)["noise"] for each in (by_generator, by_tensor)] == ["generator", "tensor"]
    one_each = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    pair = engine.sample(labels=[1, 2], noise=one_each).images
    second = engine.sample(labels=[2], noise=[torch.Generator().manual_seed(2)]).images
    torch.testing.assert_close(pair[1:], second)


def test_given_initial_noise_keeps_the_seeds_step_noise() -> None:
    engine = small_engine()
    by_seed = engine.sample(labels=[1], seeds=[11], sampler="ddpm")
    z = initial_noise([11], SHAPE)
    assert torch.equal(engine.sample(labels=[1], seeds=[11], sampler="ddpm", noise=z).images, by_seed.images)


def test_opaque_modules_take_conditioning_and_answer_in_their_own_way() -> None:
    class Answer:
        def __init__(self, sample: Tensor) -> None:
            self.sample = sample

    class Foreign(nn.Module):
        def forward(self, sample: Tensor, timestep: Tensor, style: Tensor, class_labels: Tensor) -> Answer:
            return Answer(0.1 * sample + style[:, :, None, None] + class_labels[:, None, None, None])

    engine = small_engine(Foreign(), conditions=Numbers(0.0, 1.0))
    style, plain = torch.randn(2, 3), torch.zeros(2, 3)
    guided = engine.sample(
        labels=[0.5, 1.0],
        seeds=0,
        condition={"style": (style, plain)},
        guidance_scale=2.0,
    )
    # guidance of a linear module is the module at twice the style
    direct = engine.sample(labels=[0.5, 1.0], seeds=0, condition={"style": 2 * style})
    torch.testing.assert_close(guided.images, direct.images, rtol=1e-4, atol=1e-4)


def test_learned_variance_models_predict_twice_the_channels() -> None:
    engine = small_engine(
        SmallNet(out=6), defaults={"sampler": "ddpm", "steps": 4, "variance": "learned_range", "clip": 1.0}
    )
    assert torch.isfinite(engine.sample(labels=[1], seeds=0, guidance_scale=2.0).images).all()


def test_a_float64_model_runs_in_float64() -> None:
    engine = small_engine(dtype=torch.float64)
    seen: list[torch.dtype] = []
    engine.sample(labels=[1], seeds=0, callback=lambda step: seen.append(step.x.dtype))
    assert set(seen) == {torch.float64}


def test_a_bfloat16_model_keeps_its_state_in_float32() -> None:
    engine = small_engine(dtype=torch.bfloat16)
    seen: list[torch.dtype] = []
    narrow = engine.sample(labels=[1], seeds=0, callback=lambda step: seen.append(step.x.dtype))
    assert set(seen) == {torch.float32}
    torch.testing.assert_close(narrow.images, small_engine().sample(labels=[1], seeds=0).images, atol=0.3, rtol=0)


def test_each_sample_may_have_steps_a_sampler_a_scale_and_a_start_of_its_own() -> None:
    engine = small_engine()
    starts = [None, fewstep.Image(picture(), 0.5), Inpaint(picture(), torch.eye(8))]
    wishes: list[dict[str, Any]] = [
        {"steps": 2, "sampler": "ddim", "guidance_scale": 1.0, "start": starts[0]},
        {"steps": 3, "sampler": "ddpm", "guidance_scale": 2.0, "start": starts[1]},
        {"steps": 4, "sampler": "euler", "guidance_scale": 0.0, "start": starts[2]},
    ]
    together = engine.sample(
        labels=[1, 2, 3],
        seeds=[4, 5, 6],
        steps=[2, 3, 4],
        sampler=["ddim", "ddpm", "euler"],
        guidance_scale=[1.0, 2.0, 0.0],
        start=starts,
    )
    for place, wish in enumerate(wishes):
        alone = engine.sample(labels=[1 + place], seeds=[4 + place], **wish)
        torch.testing.assert_close(alone.images[0], together.images[place], rtol=1e-4, atol=1e-5)
        assert together.plans[place].sampler == wish["sampler"]
        assert together.parameters_of(place) == alone.parameters_of(0)
    assert [together.parameters_of(place).get("strength") for place in range(3)] == [None, "0.5", "1"]


def test_a_picture_carries_its_own_plan(tmp_path: Path) -> None:
    engine = small_engine()
    samples = engine.sample(labels=[1, 2], seeds=0, plan=[engine.plan(4, "ddim"), engine.plan(8, "euler")])
    sheet, first, second = samples.save(tmp_path / "out.png")
    assert [read_parameters(path)["sampler"] for path in (first, second, sheet)] == ["ddim", "euler", "ddim,euler"]
    assert [read_parameters(path)["steps"] for path in (first, second, sheet)] == ["4", "8", "4,8"]
    assert repr(samples).startswith("Samples(2 x 3 x 8 x 8; ddim, 4 steps, euler, 8 steps; 8 model calls")


def test_noise_is_recorded_where_the_user_gave_it_alone() -> None:
    engine = small_engine()
    assert "noise" not in engine.sample(labels=[1], seeds=0, sampler="ddpm").parameters_of(0)  # drawn ahead
    one_each = [torch.zeros(SHAPE), torch.ones(SHAPE)]
    by_list = engine.sample(labels=[1, 2], seeds=0, sampler="ddpm", noise=one_each)
    by_tensor = engine.sample(labels=[1, 2], seeds=0, sampler="ddpm", noise=torch.stack(one_each))
    assert torch.equal(by_list.images, by_tensor.images)
    assert by_list.parameters_of(1)["noise"] == "tensor"
    image = fewstep.Image(picture(), 0.5)
    beside = engine.sample(labels=[1, 2], seeds=0, start=image, noise=torch.stack(one_each))
    assert not torch.equal(beside.images[0], beside.images[1])


def test_a_generator_of_ones_own_depends_on_no_company() -> None:
    """A sample whose plan adds no noise leaves its neighbour's generator, and its own, alone."""
    engine = small_engine()
    plans = [engine.plan(3, "ddim"), engine.plan(3, "ddpm")]
    both = engine.sample(labels=[1, 2], plan=plans, noise=[torch.Generator().manual_seed(seed) for seed in (1, 2)])
    quiet = torch.Generator().manual_seed(1)
    alone = engine.sample(labels=[1], plan=plans[0], noise=[quiet])
    torch.testing.assert_close(both.images[:1], alone.images)
    again = torch.Generator().manual_seed(1)
    torch.randn(1, *SHAPE, generator=again)
    assert torch.equal(quiet.get_state(), again.get_state())


def test_what_a_stop_left_undone_is_nan_and_is_not_decoded() -> None:
    class Counting(nn.Upsample):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Counting.calls += 1
            return super().forward(x)

    engine = small_engine(decoder=Counting(scale_factor=2), max_batch=2)
    Counting.calls = 0
    samples = engine.sample(labels=[1, 2, 3, 4], seeds=0, callback=lambda step: False)
    assert Counting.calls == 1
    assert samples.cancelled == [True] * 4
    assert samples.images.shape == (4, 3, 16, 16)
    assert samples.images[:2].isfinite().all()
    assert samples.images[2:].isnan().all()
    pixels = engine.sample(labels=[1, 2, 3, 4], seeds=0, callback=lambda step: False, output="uint8")
    assert list(pixels.finite) == [True, True, False, False]
    assert not pixels.images[2:].any()


def test_literal_names_are_those_that_there_are() -> None:
    assert set(get_args(SamplerName)) <= set(SAMPLERS)
    assert get_args(Ending) == OUTPUTS
    assert set(get_args(Prediction)) == {each for sampler in SAMPLERS.values() for each in sampler.predictions}
