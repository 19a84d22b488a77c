"""What counts as a launch, a byte and a sync: ops counted by hand, then the engine's loop and diffusers'."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewstep import schedules
from fewstep.cost import Cost, CostCounter, report
from fewstep.cost.counter import DEVICE
from fewstep.cost.loops import SCHEDULERS, count_diffusers, count_engine
from fewstep.cost.subjects import Subject, cifar10_ddpm, sd_latents
from fewstep.diffusion.samplers import SAMPLERS, make_plan
from fewstep.models.net import blocks
from fewstep.models.net.build import empty_unet
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet
from fewstep.run.loop import sample_loop
from fewstep_kernels import (
    COLUMNS,
    STEP_OPS,
    StepOperands,
    add_layer_norm,
    begin_step,
    bias_residual,
    cfg_combine,
    denoise_step,
    geglu,
    group_norm_silu,
    layer_norm,
    layer_ops,
    step_log_prob,
    step_statistics,
    timestep_embedding,
)

SAMPLED = tuple(name for name, sampler in SAMPLERS.items() if "vp" in sampler.kinds)
OF_BOTH = tuple(name for name, kind in SCHEDULERS if kind == "vp")
GUIDANCE = ("none", "guided", "guided, rescaled")


def empty(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*size, dtype=dtype, device=DEVICE)


def counted(work: Callable[[], object]) -> Cost:
    with torch.no_grad(), CostCounter() as counter:
        work()
    return sum((call.cost for call in counter.calls), Cost())


def timesteps() -> Tensor:
    """Made within a counter, a small tensor keeps its values."""
    return torch.arange(4).to(DEVICE)


# The rules

X, Y, ROW = empty(2, 3, 4), empty(2, 3, 4), empty(1, 4)  # 96, 96 and 16 bytes


@pytest.mark.parametrize(
    ("work", "launches", "size"),
    [
        (lambda: X + Y, 1, 3 * 96),
        (lambda: X + X, 1, 2 * 96),
        (lambda: X * ROW, 1, 96 + 16 + 96),
        (lambda: X * ROW.expand(3, 4), 1, 96 + 16 + 96),
        (lambda: X * 2, 1, 2 * 96),
        (lambda: X * torch.tensor(2.0), 1, 2 * 96),
        (lambda: X.mul_(Y), 1, 3 * 96),
        (lambda: X[:1].copy_(Y[1:]), 1, 2 * 48),
        (lambda: X.zero_(), 1, 96),
        (lambda: torch.cat([X, Y]), 1, 4 * 96),
        (lambda: torch.randn(2, 3, 4, device=DEVICE), 1, 96),
        (lambda: X.transpose(0, 1).contiguous(), 1, 2 * 96),
        (lambda: X.to(torch.bfloat16), 1, 96 + 48),
        (lambda: (X - 1).relu() + Y, 3, 2 * 96 + 2 * 96 + 3 * 96),
    ],
    ids=[
        "two operands", "the same one twice", "broadcast", "expanded", "a number", "a tensor on the host", "in place",
        "copied into a slice", "overwritten", "joined", "drawn", "a view made contiguous", "cast", "a chain",
    ],
)  # fmt: skip
def test_launches_and_bytes_are_those_counted_by_hand(work: Callable[[], object], launches: int, size: int) -> None:
    assert counted(work) == Cost(launches, size, 0)


@pytest.mark.parametrize(
    "work",
    [
        lambda: X.view(6, 4).reshape(24),
        lambda: X.permute(2, 0, 1)[1:, None].expand(3, 5, 2, 3),
        lambda: X.chunk(2),
        lambda: list(X),
        lambda: X.detach().flatten(1).squeeze().transpose_(0, 1),
        lambda: X.contiguous().to(torch.float32),
        lambda: torch.empty_like(X),
        lambda: X.new_empty(3),
        lambda: torch.ones(3).sqrt() + torch.arange(3),
    ],
    ids=["reshape", "permute", "chunk", "iterate", "in place", "no-op", "empty_like", "new_empty", "host"],
)
def test_views_allocations_and_host_work_cost_nothing(work: Callable[[], object]) -> None:
    assert counted(work) == Cost()


@pytest.mark.parametrize(
    ("work", "launches", "syncs"),
    [
        (lambda t: t[2].item(), 0, 1),
        (lambda t: bool(t[2] > 1), 1, 1),
        (lambda t: torch.linspace(0, 1, 10)[t[2]], 0, 1),
        (lambda t: torch.linspace(0, 1, 10)[2].item(), 0, 0),
        (lambda t: (t == 2).nonzero(), 2, 1),
        (lambda t: t.cpu(), 1, 1),
        (lambda t: t.copy_(torch.arange(4)), 1, 1),
        (lambda t: t.copy_(torch.arange(4), non_blocking=True), 1, 0),
        (lambda t: [each + 1 for each in t], 4, 0),
    ],
    ids=[
        "item", "if", "index on the host", "host item", "nonzero", "copied back", "copied there", "not blocking",
        "iterated",
    ],
)  # fmt: skip
def test_syncs_are_those_counted_by_hand(work: Callable[[Tensor], object], launches: int, syncs: int) -> None:
    placing = Cost(1, 32, 1)  # of the timesteps themselves
    assert counted(timesteps) == placing
    total = counted(lambda: work(timesteps()))
    assert (total.launches, total.syncs) == (placing.launches + launches, placing.syncs + syncs)


def test_small_tensors_keep_their_values_through_views_and_writes() -> None:
    with CostCounter():
        t = timesteps()
        t[1:].mul_(10)
        t.add_(1)
        assert [int(each) for each in t] == [1, 11, 21, 31]
        assert t[(t > 15).nonzero()[0, 0]].item() == 21
        assert t.tolist() == [1, 11, 21, 31]


def test_a_value_that_is_not_known_is_not_made_up() -> None:
    with CostCounter(), pytest.raises(RuntimeError, match="asked for"):
        empty(2)[0].item()
    with CostCounter(), pytest.raises(RuntimeError, match="asked for"):
        t = timesteps()
        t.copy_(empty(4, dtype=torch.int64))
        t[0].item()


def test_attention_of_torch_is_one_launch_and_its_transpose_a_view() -> None:
    q, k = empty(2, 4, 9, 8), empty(2, 4, 77, 8)

    def work() -> Tensor:
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, k)
        return mixed.transpose(1, 2).reshape(2, 9, 32)

    assert counted(work) == Cost(1, 4 * (2 * q.numel() + k.numel()), 0)


def test_what_torch_does_in_several_launches_counts_so() -> None:
    x, weight, bias, scale, shift = empty(2, 4, 3, 3), empty(5, 4, 1, 1), empty(5), empty(4), empty(4)
    answer = 4 * 2 * 5 * 9
    plain = Cost(1, 4 * (72 + 20) + answer, 0)
    assert counted(lambda: functional.conv2d(x, weight)) == plain
    assert counted(lambda: functional.conv2d(x, weight, bias)) == plain + Cost(1, 2 * answer + 4 * 5, 0)
    moments, factors = 4 * 2 * (2 * 2), 4 * 2 * (2 * 4)  # mean and scale of 2 groups, two factors of 4 channels
    normed = Cost(3, (4 * 72 + moments) + (moments + 2 * 4 * 4 + factors) + (factors + 2 * 4 * 72), 0)
    assert counted(lambda: functional.group_norm(x, 2, scale, shift)) == normed
    assert counted(lambda: functional.group_norm(x, 2)) == Cost(2, 3 * 4 * 72 + 2 * moments, 0)


# Our ops against what the fused implementations launch


def integers(*values: int) -> Tensor:
    return torch.tensor(values, device=DEVICE)


def step_calls(guided: bool = True) -> dict[str, tuple[Callable[..., Any], str, tuple[Any, ...]]]:
    """Each op of a step: the function, the fused module that has its counterpart, and arguments."""
    x, row, two = empty(2, 3, 8, 8), empty(2, len(COLUMNS)), integers(0, 1)
    m = empty(4 if guided else 2, 3, 8, 8)
    other, weights = integers(2, 3) if guided else two, (empty(128), empty(128))
    tokens, numbers = empty(2, 64, 320), (empty(320), empty(320))
    return {
        "begin_step": (
            begin_step, "step", (empty(2, 9, len(COLUMNS)), two.clone(), row, two.clone(), empty(len(m)), two, other),
        ),
        "step_statistics": (step_statistics, "statistics", (empty(2, 2), x, m, row, two, other)),
        "step_log_prob": (
            step_log_prob, "log_prob", (empty(2, 9), m, row, two.clone(), two.clone(), two, 3),
        ),
        "denoise_step": (
            denoise_step, "step",
            (StepOperands(
                x, m.clone(), empty(2, 2, 3, 8, 8), x.clone(), m, row, two.clone(), two.clone(), two, other
            ),),
        ),
        "cfg_combine": (cfg_combine, "guidance", (x, x.clone(), empty(2), empty(2))),
        "layer_norm": (layer_norm, "layer_norms", (tokens, *numbers, 1e-5)),
        "add_layer_norm": (add_layer_norm, "layer_norms", (tokens, tokens.clone(), *numbers, 1e-5)),
        "geglu": (geglu, "gated", (tokens,)),
        "bias_residual": (bias_residual, "biased", (m, empty(3), m.clone())),
        "timestep_embedding": (timestep_embedding, "timesteps", (empty(2), 320, True, 0.0)),
        **{
            f"group_norm_silu {size}": (group_norm_silu, "norms", (empty(1, 128, size, size), *weights, 32, 1e-6))
            for size in (4, 32, 128)
        },
    }  # fmt: skip


@pytest.mark.parametrize("guided", [False, True], ids=["one lane a sample", "two lanes a sample"])
@pytest.mark.parametrize("name", step_calls())
def test_an_op_of_ours_counts_what_its_fused_implementation_launches(
    name: str, guided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = pytest.importorskip("fewstep_kernels.fused.launch", exc_type=ImportError)
    module = pytest.importorskip(f"fewstep_kernels.fused.{step_calls()[name][1]}", exc_type=ImportError)
    op, _, arguments = step_calls(guided)[name]
    launched: list[object] = []
    monkeypatch.setattr(launch.Launch, "run", lambda launch: launched.append(launch))
    getattr(module, name.split()[0])(*arguments)
    assert counted(lambda: op(*arguments)).launches == len(launched) > 0


def test_group_norm_is_one_launch_for_a_small_map_and_two_that_both_read_a_large_one() -> None:
    def norm(size: int) -> Cost:
        return counted(lambda: group_norm_silu(empty(1, 128, size, size), empty(128), empty(128), 32, 1e-6))

    small, large = norm(8), norm(128)
    assert small == Cost(1, 4 * (2 * 128 * 8 * 8 + 2 * 128), 0)
    assert large.launches == 2
    x = 4 * 128 * 128 * 128
    assert 3 * x < large.bytes < 3.1 * x


# The engine


@pytest.mark.slow
@pytest.mark.parametrize("make", [cifar10_ddpm, sd_latents], ids=["cifar10-ddpm", "sd-latents"])
@pytest.mark.parametrize("sampler", SAMPLED)
@pytest.mark.parametrize("batch", [1, 3])
def test_between_two_network_calls_the_engine_launches_twice(
    make: Callable[[], Subject], sampler: str, batch: int
) -> None:
    subject = make()
    plan = make_plan(sampler, subject.schedule, 3)
    for guided in (plan, plan.with_guidance(3.0)):
        ran = count_engine(subject, guided, batch)
        assert [(step.launches, step.syncs) for step in ran.between] == [(2, 0)] * 3
        assert ran.ops == {"fewstep::begin_step": 3, "fewstep::denoise_step": 3}


@pytest.mark.parametrize("clip", [None, {"limit": 1.0, "ratio": 0.99}], ids=["rescale", "dynamic threshold"])
def test_the_statistics_pass_is_a_third_launch(clip: dict[str, float] | None) -> None:
    subject = sd_latents()
    plan = make_plan("ddim", subject.schedule, 2, clip=clip)
    ran = count_engine(subject, plan.with_guidance(3.0, rescale=0.0 if clip else 0.7), 2)
    assert [(step.launches, step.syncs) for step in ran.between] == [(3, 0)] * 2
    assert set(ran.ops) == {"fewstep::begin_step", "fewstep::step_statistics", "fewstep::denoise_step"}


def test_the_engines_bytes_are_the_state_once_each_way_and_small_change() -> None:
    subject, image = sd_latents(), 4 * 4 * 64 * 64
    plan = make_plan("ddim", subject.schedule, 4)
    row, table, index = 4 * len(COLUMNS), 4 * len(COLUMNS) * 9, 8
    begin = (table + 3 * index) + (row + 2 * index + 4)  # index and both lanes read; row, step, index, t written
    step = row + 4 * index + (2 * image) + (2 * image)  # x and m read, x and x_in written
    assert count_engine(subject, plan, 1).between[0].bytes == begin + step


def test_an_op_too_many_in_the_loop_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from fewstep.cost import loops

    def wasteful(operands: StepOperands) -> None:
        denoise_step(operands)
        operands.x.clamp_(-1, 1)

    ops = STEP_OPS._replace(denoise_step=wasteful)
    monkeypatch.setattr(loops, "sample_loop", lambda *arguments: sample_loop(*arguments, ops))
    ran = loops.count_engine(sd_latents(), make_plan("ddim", schedules.linear(), 2), 1)
    assert [step.launches for step in ran.between] == [3, 3]


def test_the_network_is_counted_apart_and_grows_with_the_batch_in_bytes_alone() -> None:
    subject = cifar10_ddpm()
    plan = make_plan("ddim", subject.schedule, 1)
    one, two = (count_engine(subject, plan, batch).network for batch in (1, 2))
    assert one.launches == two.launches > 100
    assert one.bytes < two.bytes < 2 * one.bytes
    assert one.syncs == 0
    parameters = sum(4 * weights.numel() for weights in subject.network.parameters())
    assert one.bytes > parameters


class OpsOfTheHost(TorchDispatchMode):
    """The ops that a real run on the CPU computes something with."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        held = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        if tree_leaves(result)[0].untyped_storage().data_ptr() not in held:
            self.names.append(func.name())
        return result


def residual_on_gpu(residual: Tensor, layer: nn.Conv2d, x: Tensor) -> Tensor:
    """What a residual block ends in on a GPU."""
    assert layer.bias is not None
    return layer_ops.conv2d_residual_on_gpu(x, layer.weight, layer.bias, residual, 1)


def pointwise_on_gpu(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return layer_ops.pointwise_on_gpu(x, layer.weight, layer.bias)


@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_the_networks_ops_without_memory_are_those_of_a_real_run(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory formats decide about copies, so these must be followed too."""
    monkeypatch.setattr(blocks, "_beside", residual_on_gpu)
    monkeypatch.setattr(blocks, "_pointwise", pointwise_on_gpu)
    config = UNetConfig(
        in_channels=1,
        out_channels=2,
        channels=(8, 16),
        layers=1,
        down_attention=(True, True),
        up_attention=(False, True),
        down=("conv_asymmetric",),
        up=("conv",),
        groups=4,
        mid_attention_groups=4,
    )
    x, t = torch.zeros(batch, 1, 16, 16).to(memory_format=torch.channels_last), torch.zeros(batch)
    network, without_memory = UNet(config).eval(), empty_unet(config).eval()
    there = x.to(DEVICE), t.to(DEVICE)
    with OpsOfTheHost() as real:
        network(x, t)
    with CostCounter() as counter:
        without_memory(*there)
    assert len(real.names) > 50
    assert [call.op for call in counter.calls] == real.names


def test_a_networks_convolutions_stay_channels_last() -> None:
    last = torch.channels_last
    x, wide, narrow = empty(2, 8, 4, 4), empty(8, 8, 3, 3), empty(8, 8, 1, 1)
    with torch.no_grad(), CostCounter():
        for image, weight, expected in (
            (x, wide, False),
            (x, narrow, False),
            (x, wide.contiguous(memory_format=last), True),
            (x.contiguous(memory_format=last), narrow, True),
        ):
            made = torch.nn.functional.conv2d(image, weight)
            assert made.is_contiguous(memory_format=last) == expected


# diffusers

PINNED = "0.42.1"
THEIRS = {  # launches of each of four steps, and syncs of all, unguided
    "ddpm": ([20, 20, 20, 16], 46),
    "ddim": ([9, 9, 9, 9], 22),
    "euler": ([9, 7, 7, 7], 2),
    "lcm": ([22, 20, 20, 16], 14),
}
ADDED = {"none": 0, "guided": 4, "guided, rescaled": 11}  # cat, sub, mul, add; std, std, div, mul, mul, mul, add


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("sampler", OF_BOTH)
def test_diffusers_counts_are_those_of_the_pinned_version(sampler: str, guidance: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    subject = sd_latents()
    plan = make_plan(sampler, subject.schedule, 4)
    if guidance != "none":
        plan = plan.with_guidance(7.5, 0.7 * (guidance == "guided, rescaled"))
    ran, again = (count_diffusers(subject, plan, batch) for batch in (1, 4))
    assert ran is not None
    assert again is not None
    launches = [step.launches for step in ran.between]
    assert launches == [step.launches for step in again.between]
    assert min(launches) >= 7 + ADDED[guidance]
    if diffusers.__version__ == PINNED:
        per_step, syncs = THEIRS[sampler]
        assert launches == [count + ADDED[guidance] for count in per_step]
        assert sum(step.syncs for step in ran.between) == syncs


def test_a_ddim_step_of_diffusers_is_what_its_source_says() -> None:
    """t' = t - 500 and t' >= 0 twice; t and t' as indices twice; 3 products, a difference, a quotient, a sum."""
    pytest.importorskip("diffusers")
    subject = sd_latents()
    ran = count_diffusers(subject, make_plan("ddim", subject.schedule, 2), 1)
    assert ran is not None
    elementwise = {"aten::mul.Tensor": 6, "aten::div.Tensor": 2, "aten::add.Tensor": 2}
    of_timesteps = {"aten::ge.Scalar": 4, "aten::sub.Tensor": 2 + 2}
    read_back = {"aten::_local_scalar_dense": 6 + 4}  # the last step's t' is below 0 and no index
    assert ran.ops == elementwise | of_timesteps | read_back


def test_consistency_and_flow_models_have_counterparts_and_other_kinds_of_prediction_have_none() -> None:
    pytest.importorskip("diffusers")
    subject = sd_latents()
    for schedule, prediction, sampler in (
        (schedules.karras(), "consistency", "consistency"),
        (schedules.flow(), "flow", "euler"),
    ):
        other = replace(subject, schedule=schedule, prediction=prediction)
        (part,) = report([other], guidance_scale=1).subjects
        theirs = {row.sampler: row.diffusers for row in part.rows}
        assert theirs[sampler] is not None
        assert min(step.launches for step in theirs[sampler].between) > 2
    (part,) = report([replace(subject, prediction="score")], guidance_scale=1).subjects
    assert {row.diffusers for row in part.rows} == {None}
