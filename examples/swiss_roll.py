"""The classic demo in the plane: a small network learns to turn noise into a Swiss roll, then to do it in fewer steps.

A teacher is trained on all 40 levels of a cosine schedule. Progressive distillation (Salimans and Ho, 2202.00512) then
makes students of 8, 4, 2 and 1 steps, each from the one before: a student's one step learns to land where several of
its teacher's do. A point is an "image" of shape (2, 1, 1), so the engine samples all of them.

    python examples/swiss_roll.py [folder]        trains in about a minute, prints distances, writes pictures and a GIF
"""

import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import fewstep
from fewstep.diffusion.forward import add_noise, eps_coefficients, q_step, v_target, x_0_coefficients
from fewstep.evaluate import sliced_wasserstein

LEVELS = 40
SCHEDULE = fewstep.schedules.cosine(LEVELS)
STUDENTS = (8, 4, 2, 1)
SHAPE = (2, 1, 1)
SIGNAL = torch.tensor([*SCHEDULE.signal_scale, 1.0], dtype=torch.float32)
NOISE = torch.tensor([*SCHEDULE.noise_scale, 0.0], dtype=torch.float32)


def swiss_roll(count: int, seed: int) -> Tensor:
    """(r cos r, r sin r) / 7 with r uniform in 1.5 pi .. 4.5 pi, and a little noise: [count, 2, 1, 1]."""
    random = np.random.default_rng(seed)
    r = 1.5 * np.pi * (1 + 2 * random.random(count))
    points = np.stack([r * np.cos(r), r * np.sin(r)], axis=1) + 0.25 * random.standard_normal((count, 2))
    return torch.tensor(points / 7, dtype=torch.float32).view(count, *SHAPE)


class Network(nn.Module):
    """v from a point and its time: waves of both at first, then three wide layers."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.register_buffer("waves", 2.0 ** torch.arange(4))
        self.time = nn.Embedding(LEVELS, width)
        self.enter = nn.Linear(2 + 2 * 2 * 4, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.leave = nn.Linear(width, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # [R, 2, 1, 1], [R] -> [R, 2, 1, 1]
        x = x.flatten(1)
        angles = (x[:, :, None] * self.waves).flatten(1)
        h = self.enter(torch.cat([x, angles.sin(), angles.cos()], dim=1)) + self.time(t)
        for layer in self.layers:
            h = h + layer(nn.functional.silu(h))
        return self.leave(nn.functional.silu(h)).view(-1, *SHAPE)


def levels(t: Tensor) -> tuple[Tensor, Tensor]:
    """signal_scale and noise_scale at t [B], each [B, 1, 1, 1]; t = -1 is the clean end."""
    return SIGNAL[t].view(-1, 1, 1, 1), NOISE[t].view(-1, 1, 1, 1)


def ddim_step(network: nn.Module, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """x' = signal' x_0 + noise' eps, with x_0 and eps from the network's v at t."""
    v, (signal, noise), (signal_next, noise_next) = network(x, t), levels(t), levels(t_next)
    k_x, k_m = x_0_coefficients("v", signal, noise)
    l_x, l_m = eps_coefficients("v", signal, noise)
    return signal_next * (k_x * x + k_m * v) + noise_next * (l_x * x + l_m * v)


def target_v(x: Tensor, t: Tensor, landed: Tensor, t_next: Tensor) -> Tensor:
    """The v with which one step from x at t lands on `landed` at t_next. Salimans and Ho, appendix G, in v.

    A step turns (x_0, eps) by an angle: x = signal x_0 + noise eps and landed = signal' x_0 + noise' eps give both.
    """
    (signal, noise), (signal_next, noise_next) = levels(t), levels(t_next)
    turn = signal_next * noise - signal * noise_next
    x_0 = (noise * landed - noise_next * x) / turn
    eps = (signal_next * x - signal * landed) / turn
    return signal * eps - noise * x_0


def fit(network: nn.Module, batches: int, batch: int, rate: float, make_batch) -> list[float]:
    """Minimise the mean square error on what make_batch(i) gives: x, t, v. The weights left are a running mean."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, batches)
    mean = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    losses = []
    for _ in range(batches):
        x, t, v = make_batch(batch)
        loss = (network(x, t) - v).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean.update_parameters(network)
        losses.append(loss.item())
    network.load_state_dict(mean.module.state_dict())
    return losses


def train_teacher(data: Tensor, batches: int, batch: int = 512) -> tuple[Network, list[float]]:
    """The network that predicts v = signal eps - noise x_0 at any of the levels."""
    network = Network()

    def noised(count: int) -> tuple[Tensor, Tensor, Tensor]:
        x_0 = data[torch.randint(len(data), (count,))]
        t, z = torch.randint(LEVELS, (count,)), torch.randn_like(x_0)
        return add_noise(SCHEDULE, x_0, t, z), t, v_target(SCHEDULE, x_0, z, t)

    return network, fit(network, batches, batch, 2e-3, noised)


def distill(
    teacher: Network, teacher_steps: int, steps: int, data: Tensor, batches: int, batch: int = 512
) -> tuple[Network, list[float]]:
    """A student whose every step does what teacher_steps / steps of the teacher's do."""
    student = copy.deepcopy(teacher)
    starts = torch.arange(LEVELS - 1, -1, -(LEVELS // steps))  # trailing: the first step starts at the last level
    stride = LEVELS // teacher_steps

    def followed(count: int) -> tuple[Tensor, Tensor, Tensor]:
        x_0 = data[torch.randint(len(data), (count,))]
        t = starts[torch.randint(steps, (count,))]
        x = landed = add_noise(SCHEDULE, x_0, t, torch.randn_like(x_0))
        with torch.no_grad():
            for i in range(teacher_steps // steps):
                landed = ddim_step(teacher, landed, t - i * stride, t - (i + 1) * stride)
            return x, t, target_v(x, t, landed, t - LEVELS // steps)

    return student, fit(student, batches, batch, 1e-3, followed)


def engine_of(network: nn.Module) -> fewstep.Engine:
    """The engine that samples points with a network."""
    return fewstep.Engine(
        fewstep.Model(network, schedule=SCHEDULE, prediction="v", shape=SHAPE, time="index"),
        device="cpu",
        max_batch=4096,
    )


def distance(make_points, count: int, repeats: int = 3) -> float:
    """Sliced Wasserstein distance between make_points(i) and `count` fresh real points, mean of several draws."""
    real = (swiss_roll(count, 1000 + i) for i in range(repeats))
    return float(np.mean([sliced_wasserstein(make_points(i).flatten(1), x.flatten(1)) for i, x in enumerate(real)]))


def forward_run(x_0: Tensor) -> Tensor:
    """The points on their way into noise, by q(x_t | x_{t-1}): [LEVELS + 1, count, 2]."""
    frames = [x_0]
    for level in range(LEVELS):
        t = torch.full((len(x_0),), level)
        frames.append(q_step(SCHEDULE, frames[-1], t, torch.randn_like(x_0)))
    return torch.stack(frames).flatten(2)


def reverse_run(network: nn.Module, noise: Tensor, steps: int) -> Tensor:
    """The noise on its way to the roll, before the first and after each step: [steps + 1, count, 2]."""
    frames = [noise]
    engine_of(network).sample(len(noise), steps=steps, noise=noise, callback=lambda step: frames.append(step.x))
    return torch.stack(frames).flatten(2)


def canvas(columns: int, rows: int, size: float):
    """A figure and its axes [rows, columns], square, without ticks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size * columns, (size + 0.25) * rows), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_color("#d9dce1")
    return figure, grid


def scatter(axes, points: Tensor, end: Tensor, title: str, paths: Tensor | None = None) -> None:
    """Points [count, 2], coloured by how far from the middle they are at the clean end, and the paths of a few."""
    color = end.norm(dim=1)
    axes.scatter(*points.T, s=2, c=color, cmap="viridis", vmin=0.5, vmax=2.1, linewidths=0)
    for path in () if paths is None else paths[:, :: max(1, paths.shape[1] // 12)].transpose(0, 1):
        axes.plot(*path.T, color="#c2410c", linewidth=0.7, alpha=0.8)
    axes.set_title(title, fontsize=9, loc="left", color="#3b3f46")


def draw(folder: Path, forward: Tensor, runs: dict[str, Tensor], frame_every: int) -> list[Path]:
    """swiss_roll.png: into noise and back, then each student's run; swiss_roll.gif: the same two ways, moving."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    teacher = next(iter(runs.values()))
    shown = (0, 8, 16, 24, 32, LEVELS)
    figure, grid = canvas(len(shown), 3, 2.1)
    for column, i in enumerate(shown):
        scatter(grid[0][column], forward[i], forward[0], f"forward, after {i} levels" if i else "the data")
        scatter(grid[1][column], teacher[i], teacher[-1], f"reverse, after {i} of {LEVELS} steps" if i else "noise")
    for axes, (name, frames) in zip(grid[2], runs.items(), strict=False):
        scatter(axes, frames[-1], frames[-1], name, frames)
    for axes in grid[2][len(runs) :]:
        scatter(axes, forward[0], forward[0], "the data")
    figure.savefig(folder / "swiss_roll.png")

    pictures = []
    for i in range(0, LEVELS + 1, frame_every):
        figure, grid = canvas(2, 1, 2.6)
        scatter(grid[0][0], forward[i], forward[0], f"forward: level {i} of {LEVELS}")
        scatter(grid[0][1], teacher[i], teacher[-1], f"reverse: step {i} of {LEVELS}", teacher[: i + 1])
        figure.canvas.draw()
        pictures.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[:, :, :3]))
    palette = pictures[-1].quantize(64)
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    path = folder / "swiss_roll.gif"
    times = [*[90 * frame_every] * (len(frames) - 1), 1500]  # ms; the roll stays to be looked at
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0)
    return [folder / "swiss_roll.png", path]


def main(
    folder: Path, teacher_batches: int = 6000, student_batches: int = 1500, count: int = 4000, frame_every: int = 1
) -> dict[str, float]:
    """Train, distill, measure and draw; the distances by name."""
    started = time.perf_counter()
    torch.manual_seed(0)
    data = swiss_roll(50_000, seed=1)
    networks: dict[int, nn.Module] = {}
    networks[LEVELS], losses = train_teacher(data, teacher_batches)
    print(f"teacher: mean loss of the last batches {np.mean(losses[-200:]):.4f}, {time.perf_counter() - started:.0f} s")
    for before, steps in zip((LEVELS, *STUDENTS), STUDENTS, strict=False):
        networks[steps], losses = distill(networks[before], before, steps, data, student_batches)
        print(f"{before} steps into {steps}: {np.mean(losses[-200:]):.5f}, {time.perf_counter() - started:.0f} s")

    floor = distance(lambda i: swiss_roll(count, 2000 + i), count)
    found = {"real": floor}
    print(f"sliced Wasserstein distance, {count} points: real-vs-real {floor:.4f}")
    for name, network, steps in [
        (f"teacher, {LEVELS} steps", networks[LEVELS], LEVELS),
        *((f"student, {steps} step{'s' * (steps > 1)}", networks[steps], steps) for steps in STUDENTS),
        *((f"teacher, {steps} step{'s' * (steps > 1)}", networks[LEVELS], steps) for steps in STUDENTS),
    ]:
        engine = engine_of(network)
        found[name] = distance(lambda i: engine.sample(count, steps=steps, seeds=i * count).images, count)  # noqa: B023
        print(f"  {name:17} {found[name]:.4f}  {found[name] / floor:.2f}x")

    noise = torch.randn(1500, *SHAPE)
    runs = {f"teacher, {LEVELS} steps": reverse_run(networks[LEVELS], noise, LEVELS)}
    for steps in STUDENTS:
        runs[f"student, {steps} step{'s' * (steps > 1)}"] = reverse_run(networks[steps], noise, steps)
    paths = draw(folder, forward_run(swiss_roll(1500, seed=3)), runs, frame_every)
    print(f"{', '.join(map(str, paths))}; {time.perf_counter() - started:.0f} s in all")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)  # the network is too small for a second thread to pay
    main(Path(*(sys.argv[1:] or ["out"])))
