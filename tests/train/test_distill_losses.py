"""What students learn from: the plans' own coefficients, the teacher's own steps, guidance folded in."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fewstep_kernels
from fewstep import Engine, Model, schedules
from fewstep.diffusion.forward import x_0_coefficients
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import make_plan
from fewstep.errors import ArgumentError
from fewstep.train.losses import Batch
from fewstep.train.methods.consistency import HUBER_C, Consistency
from fewstep.train.methods.progressive import Progressive, substeps
from fewstep.train.teacher import Teacher

SCHEDULE = schedules.cosine(64)
SHAPE = (1, 4, 4)
COUNT = 6


class Curved(nn.Module):
    """A network whose answer bends with x, t, label and guidance scale, so that two steps are not one."""

    def __init__(self, guided: bool = False) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7))
        self.guided = guided

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, guidance: Tensor | None = None) -> Tensor:
        assert (guidance is not None) == self.guided
        shift = 0.01 * t + (0 if labels is None else 0.3 * labels) + (0 if guidance is None else 0.2 * guidance)
        return torch.sin(self.gain * x + shift[:, None, None, None])


class Answers(nn.Module):
    """A student that answers what it is told to, and keeps what it was asked."""

    def __init__(self, m: Tensor) -> None:
        super().__init__()
        self.m = nn.Parameter(m)
        self.asked: list[dict[str, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, **conditioning: Tensor) -> Tensor:
        self.asked.append({"x": x, "t": t, **conditioning})
        return self.m


def plan(steps: int, prediction: str = "v", clip: float | None = None) -> Plan:
    return make_plan("ddim", SCHEDULE, steps, prediction=prediction, clip=clip)


def batch(seed: int = 0, labelled: bool = True) -> Batch:
    random = torch.Generator().manual_seed(seed)
    x_0, noise = (torch.randn(COUNT, *SHAPE, generator=random) for _ in range(2))
    u, spare = (torch.rand(COUNT, generator=random, dtype=torch.float64) for _ in range(2))
    return Batch(x_0, noise, u, spare, {"labels": torch.arange(COUNT) % 3} if labelled else {})


def engine(module: nn.Module, prediction: str = "v", **options: object) -> Engine:
    return Engine(Model(module, schedule=SCHEDULE, prediction=prediction, shape=SHAPE, **options), device="cpu")


@pytest.mark.parametrize(("prediction", "learnt"), [("v", "v"), ("x_0", "x_0"), ("eps", "v"), ("eps", "eps")])
@pytest.mark.parametrize(("few", "many"), [(8, 16), (4, 8), (2, 8), (1, 2)])
def test_with_the_target_a_student_lands_where_its_teacher_does(
    prediction: str, learnt: str, few: int, many: int
) -> None:
    student = plan(few, learnt)
    loss = Progressive(Teacher(Curved(), plan(many, prediction), None, False), student, None)
    x = torch.randn(COUNT, *SHAPE, generator=torch.Generator().manual_seed(1))
    i = torch.arange(COUNT) % few
    m = loss.target(x, i, None, None)
    row = student.table()[i]
    k_x, k_m = (
        torch.tensor(student.column(name)[i], dtype=torch.float32)[:, None, None, None] for name in ("k_x", "k_m")
    )
    landed = fewstep_kernels.posterior_update(x, k_x * x + k_m * m, m, row)
    walked, first = [], engine(Curved(), prediction)
    for sample, start in enumerate(i.tolist()):
        path = [int(t) for t in plan(many, prediction).levels.t][start * many // few :]
        stop = many // few
        frames: list[Tensor] = []
        first.sample(
            1,
            plan=make_plan("ddim", SCHEDULE, len(path), prediction=prediction, spacing=path),
            noise=x[sample : sample + 1],
            callback=lambda step, kept=frames: kept.append(step.x.clone()),  # type: ignore[misc]
        )
        walked.append(frames[stop - 1])
    expected = torch.cat(walked)
    assert (landed - expected).abs().max() < 1e-6 * max(1.0, float(expected.abs().max()))


def test_a_student_that_always_hits_the_target_samples_as_its_teacher() -> None:
    class Exact(nn.Module):
        """Looks its target up by the time it is told."""

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            i = (student.levels.t[None] - t.numpy()[:, None] == 0).argmax(1)
            return loss.target(x, torch.from_numpy(i), None, None)

    student = plan(4)
    loss = Progressive(Teacher(Curved(), plan(16), None, False), student, None)
    few, many = engine(Exact()).sample(3, steps=4, seeds=0), engine(Curved()).sample(3, steps=16, seeds=0)
    assert few.model_calls == 4
    assert (few.images - many.images).abs().max() < 1e-4


@pytest.mark.parametrize("weighting", ["truncated_snr", "snr_plus_one"])
def test_the_loss_is_the_weighted_error_of_x_0(weighting: str) -> None:
    student, given = plan(4), batch()
    loss = Progressive(Teacher(Curved(), plan(8), None, False), student, None, weighting)
    answers = Answers(torch.zeros(COUNT, *SHAPE))
    found = loss(answers, given)["loss"]
    i = (given.u * 4).long()
    signal, noise = (
        torch.from_numpy(s[i.numpy()].copy()) for s in (student.levels.signal_scale, student.levels.noise_scale)
    )
    x_t = signal[:, None, None, None] * given.x_0.double() + noise[:, None, None, None] * given.noise.double()
    assert torch.allclose(answers.asked[0]["x"].double(), x_t, atol=1e-6)
    assert answers.asked[0]["t"].tolist() == student.levels.t[i.numpy()].tolist()
    _, k_m = x_0_coefficients("v", signal, noise)
    snr = (signal / noise) ** 2
    weight = torch.maximum(snr, torch.ones(())) if weighting == "truncated_snr" else snr + 1
    gap = k_m[:, None, None, None] * loss.target(answers.asked[0]["x"], i, given.conditioning["labels"], None)
    expected = (weight * gap.square().flatten(1).mean(1)).mean()
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)
    found.backward()
    assert answers.m.grad is not None
    assert answers.m.grad.abs().min() > 0


def test_a_student_is_shown_what_the_engine_will_show_it() -> None:
    """In Karras time x is x_0 + sigma z, and the network is shown c_in x: the image as its schedule noises it."""
    few, many = (make_plan("euler", SCHEDULE, steps, prediction="v") for steps in (4, 8))
    given, answers = batch(labelled=False), Answers(torch.zeros(COUNT, *SHAPE))
    Progressive(Teacher(Curved(), many, None, False), few, None)(answers, given)
    t = answers.asked[0]["t"].long().numpy()
    signal, noise = (torch.tensor(s[t])[:, None, None, None] for s in (SCHEDULE.signal_scale, SCHEDULE.noise_scale))
    expected = signal * given.x_0.double() + noise * given.noise.double()
    assert torch.allclose(answers.asked[0]["x"].double(), expected, atol=1e-5)


def test_a_teacher_with_a_dynamic_threshold_is_refused() -> None:
    dynamic = make_plan("ddim", SCHEDULE, 8, prediction="v", clip={"limit": 2.0, "ratio": 0.9})
    with pytest.raises(ArgumentError, match=r"teacher: got a plan with a dynamic threshold .* allowed: a fixed clip"):
        Teacher(Curved(), dynamic, None, False)


def test_a_teacher_gets_no_gradient_and_is_frozen() -> None:
    module = Curved()
    loss = Progressive(Teacher(module, plan(8), None, False), plan(4), None)
    loss(Answers(torch.zeros(COUNT, *SHAPE)), batch())["loss"].backward()
    assert module.gain.grad is None
    assert not module.gain.requires_grad


@pytest.mark.parametrize("w", [0.0, 1.0, 2.5])
def test_a_teachers_guided_step_is_the_engines(w: float) -> None:
    null = 3
    teacher = Teacher(Curved(), plan(8, clip=1.0), null, False)
    x = torch.randn(COUNT, *SHAPE, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(COUNT) % null
    stepped = teacher.step(x, torch.zeros(COUNT, dtype=torch.int64), labels, torch.full((COUNT,), w))
    frames: list[Tensor] = []
    whole = engine(Curved(), conditions={"kind": "classes", "count": 3, "null": null}, defaults={"clip": 1.0})
    whole.sample(
        labels=labels.tolist(), steps=8, noise=x, guidance_scale=w, callback=lambda step: frames.append(step.x.clone())
    )
    assert (stepped - frames[0]).abs().max() < 1e-6


def test_guidance_is_uniform_in_its_range_and_the_same_for_teacher_and_student() -> None:
    given = batch()
    teacher = Curved(guided=True)
    seen: list[Tensor] = []
    teacher.register_forward_pre_hook(lambda _, __, named: seen.append(named["guidance"]), with_kwargs=True)
    answers = Answers(torch.zeros(COUNT, *SHAPE))
    Progressive(Teacher(teacher, plan(8), None, True), plan(4), (1.0, 4.0))(answers, given)
    expected = (1 + 3 * given.spare).float()
    assert torch.equal(answers.asked[0]["guidance"], expected)
    assert len(seen) == 2
    assert all(torch.equal(w, expected) for w in seen)


@pytest.mark.parametrize(("many", "few"), [(8, 3), (4, 8), (6, 4)])
def test_plans_whose_levels_do_not_meet_are_refused(many: int, few: int) -> None:
    with pytest.raises(ArgumentError, match=rf"teacher_steps: got {many}; allowed: a multiple of {few}"):
        substeps(plan(many), plan(few))


def test_timesteps_that_round_apart_are_refused() -> None:
    odd = make_plan("ddim", SCHEDULE, 4, prediction="v", spacing=[63, 40, 30, 10])
    with pytest.raises(ArgumentError, match="teacher_steps"):
        substeps(odd, plan(2))


def dirac(t: Tensor, x: Tensor, c: float) -> Tensor:
    """v of the one picture that is c everywhere: z = (x - signal c) / noise."""
    signal, noise = (
        torch.tensor(s[t.long().numpy()], dtype=torch.float32)[:, None, None, None]
        for s in (SCHEDULE.signal_scale, SCHEDULE.noise_scale)
    )
    return signal * (x - signal * c) / noise - noise * c


class Knows(nn.Module):
    """The exact model of a world with a single picture, off by a parameter."""

    def __init__(self, off: float = 0.0) -> None:
        super().__init__()
        self.off = nn.Parameter(torch.tensor(off))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return dirac(t, x, 0.5) + self.off


def consistency() -> Consistency:
    grid = make_plan("ddim", SCHEDULE, 16, prediction="v", spacing="lcm", original_steps=16)
    return Consistency(Teacher(Knows(), grid, None, False), "v", None)


def test_the_exact_consistency_function_has_no_loss_and_another_has() -> None:
    given = batch(labelled=False)
    exact, wrong = (float(consistency()(Knows(off), given)["loss"].detach()) for off in (0.0, 0.3))
    assert exact < 1e-4 < 1e-3 < wrong


class KnowsNoise(nn.Module):
    """The eps of that world: v, told otherwise."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        signal, noise = (
            torch.tensor(s[t.long().numpy()], dtype=torch.float32)[:, None, None, None]
            for s in (SCHEDULE.signal_scale, SCHEDULE.noise_scale)
        )
        return noise * x + signal * dirac(t, x, 0.5)


def test_a_consistency_student_predicts_what_it_does_and_not_what_its_teacher_does() -> None:
    grid = make_plan("ddim", SCHEDULE, 16, prediction="eps", spacing="lcm", original_steps=16)
    loss = Consistency(Teacher(KnowsNoise(), grid, None, False), "v", None)
    exact, wrong = (float(loss(Knows(off), batch(labelled=False))["loss"].detach()) for off in (0.0, 0.3))
    assert exact < 1e-4 < 1e-3 < wrong


def test_only_the_noisier_of_the_two_points_gets_a_gradient() -> None:
    given, module = batch(labelled=False), Knows(0.3)
    flags: list[bool] = []
    module.register_forward_hook(lambda *_: flags.append(torch.is_grad_enabled()))
    consistency()(module, given)["loss"].backward()
    assert flags == [False, True]
    assert module.off.grad is not None
    assert module.off.grad != 0


def test_the_target_is_that_of_the_averaged_weights() -> None:
    given = batch(labelled=False)
    far, near = (float(consistency()(Knows(0.3), given, Knows(off))["loss"].detach()) for off in (0.0, 0.3))
    alone = float(consistency()(Knows(0.3), given)["loss"].detach())
    assert near == alone
    assert far > 2 * near


def test_behind_the_last_level_the_teachers_point_itself_is_the_target() -> None:
    given = batch(labelled=False)
    last = Batch(given.x_0, given.noise, torch.full((COUNT,), 0.999, dtype=torch.float64), given.spare, {})
    loss, module = consistency(), Knows(0.2)
    found = float(loss(module, last)["loss"].detach())
    level = loss.rows - 1
    x_t = fewstep_kernels.add_noise(
        last.x_0,
        *(
            torch.full((COUNT,), float(s[level]))
            for s in (loss.teacher.plan.levels.signal_scale, loss.teacher.plan.levels.noise_scale)
        ),
        last.noise,
    )
    landed = loss.teacher.step(x_t, torch.full((COUNT,), level), None, None)
    assert torch.allclose(landed, torch.full_like(landed, 0.5), atol=1e-3)
    # f = c_skip x + c_out x_0, whose x_0 is off by k_m times what the network is off by.
    _, k_m = x_0_coefficients(
        "v", loss.teacher.plan.levels.signal_scale[level], loss.teacher.plan.levels.noise_scale[level]
    )
    path = loss.teacher.plan.levels
    gap, weight = abs(0.2 * float(np.float64(k_m))), path.signal_scale[level] / path.noise_scale[level]
    assert weight > 1
    assert found == pytest.approx(weight * (math.hypot(gap, HUBER_C) - HUBER_C), rel=0.1)


def test_the_levels_next_to_the_data_hold_the_network_as_firmly_as_the_others() -> None:
    """What the loss asks of the network's output at one level: without the weight, far less where little noise is."""
    given = batch(labelled=False)
    asked = []
    for u in (0.5, 0.999):
        loss, module = consistency(), Knows(5.0)
        at_level = Batch(given.x_0, given.noise, torch.full((COUNT,), u, dtype=torch.float64), given.spare, {})
        loss(module, at_level)["loss"].backward()
        asked.append(abs(float(module.off.grad)))  # type: ignore[arg-type]
    assert asked[1] > 0.5 * asked[0]
