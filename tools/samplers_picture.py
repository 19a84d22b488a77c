"""Draw docs/images/samplers.png: every sampler on one mixture of three Gaussians, from the same noise.

    python tools/samplers_picture.py docs/images/samplers.png

The network is exact, so all that is wrong in a panel is its sampler's. To most it is the denoiser E[x_0 | x] of the
mixture. What samples distilled networks is given what these are distilled to: where the flow of the mixture ends, and
for a flow map where it is at the time r. Paths are drawn as x / sqrt(signal^2 + noise^2), from a Gaussian to the data.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fewstep import schedules
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SAMPLERS, make_plan
from fewstep.diffusion.schedules import Kind, Schedule
from fewstep_kernels.row import COLUMNS

Array = npt.NDArray[np.float64]

CALLS = 7  # a budget that every sampler can spend
ACROSS = 7  # panels
LIMIT = 2.4  # of what a panel shows, in both directions
DISTILLED = ("lcm", "tcd", "consistency", "scm", "flow_map")
SCHEDULES: dict[Kind, Schedule] = {
    "vp": schedules.linear(),
    "flow": schedules.flow(),
    "ve": schedules.karras(time="sigma"),
}

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[-0.9, 0.3], [0.8, 0.9], [1.0, -1.2]])
COVARIANCES = np.array([[[0.09, 0.03], [0.03, 0.05]], [[0.04, -0.02], [-0.02, 0.08]], [[0.06, 0.0], [0.0, 0.03]]])

INK, SOFT, PATH, POINT = "#30323d", "#7a7f8f", "#4477aa", "#1d2b53"
SHADES = ("#fbf6e6", "#f3e6b8", "#e8d084", "#d9b548")  # apart from the blue for every kind of eye


def components(x: Array, signal: float, noise: float) -> tuple[Array, Array]:
    """ln of the weighted density of each component [B, K], and its own E[x_0 | x] [B, K, 2], for x [B, 2]."""
    marginal = signal**2 * COVARIANCES + noise**2 * np.eye(2)
    residual = x[:, None] - signal * MEANS
    whitened = np.einsum("kij,bkj->bki", np.linalg.inv(marginal), residual)
    density = np.log(WEIGHTS) - 0.5 * ((residual * whitened).sum(-1) + np.linalg.slogdet(marginal)[1])
    return density, MEANS + signal * np.einsum("kij,bkj->bki", COVARIANCES, whitened)


def denoise(x: Array, signal: float, noise: float) -> Array:
    """E[x_0 | signal x_0 + noise z = x] of the mixture."""
    density, estimates = components(x, signal, noise)
    share = np.exp(density - density.max(1, keepdims=True))
    return np.asarray(np.einsum("bk,bki->bi", share / share.sum(1, keepdims=True), estimates))


def flow(x: Array, sigma: float, sigma_end: float, substeps: int = 80) -> Array:
    """Where dx/dsigma = (x - E[x_0 | x]) / sigma leads in Karras time, by the midpoint method in ln sigma."""
    sigma, sigma_end = min(sigma, 1e4), max(sigma_end, 1e-3)
    u, du = np.log(sigma), np.log(sigma_end / sigma) / substeps
    for _ in range(substeps):
        middle = x + du / 2 * (x - denoise(x, 1.0, np.exp(u)))
        x = x + du * (middle - denoise(middle, 1.0, np.exp(u + du / 2)))
        u += du
    return x


def answer(plan: Plan, row: int, x: Array) -> Array:
    """m of an exact network in one row: what leads to the right x_0, or for a flow map to the right x_r."""
    r = dict(zip(COLUMNS, plan.rows[row].tolist(), strict=True))
    signal, noise = plan.levels.signal_scale[row : row + 2], plan.levels.noise_scale[row : row + 2]
    sigma = noise[0] / max(signal[0], 1e-4)
    if plan.sampler == "flow_map":
        there = signal[1] * flow(x / max(signal[0], 1e-4), sigma, noise[1] / signal[1])
        return np.asarray((there - (r["a"] + r["b"] * r["k_x"]) * x) / (r["b"] * r["k_m"] + r["e"]))
    distilled = plan.sampler in DISTILLED
    x_0 = flow(x / signal[0], sigma, 0.0) if distilled else denoise(x, signal[0], noise[0])
    return np.asarray((x_0 - r["k_x"] * x) / r["k_m"])


def run(plan: Plan, x: Array, generator: np.random.Generator) -> Array:
    """[N + 1, B, 2] x / sqrt(signal^2 + noise^2) at every level, by the meaning of a row."""
    unit = np.hypot(plan.levels.signal_scale, plan.levels.noise_scale)
    x, past = plan.init_scale * x, []
    seen = [x / unit[0]]
    for row, values in enumerate(plan.rows.tolist()):
        r = dict(zip(COLUMNS, values, strict=True))
        m = answer(plan, row, x)
        x_0 = np.clip(r["k_x"] * x + r["k_m"] * m, -r["clip"], r["clip"])
        kept = r["h_x"] * x + r["h_0"] * x_0 + r["h_m"] * m
        x = r["a"] * x + r["b"] * x_0 + r["e"] * m + r["s"] * generator.standard_normal(x.shape)
        x = x + sum(r[f"c_{j}"] * h for j, h in enumerate(past, start=1))
        past = [kept, *past][: plan.history]
        seen.append(x / unit[row + 1])
    return np.stack(seen)


def plan_of(name: str) -> Plan:
    """Of levels that a few calls can go through, unless the sampler has its own."""
    kind, options = SAMPLERS[name].kinds[0], {"clip": None} if "clip" in SAMPLERS[name].options else {}
    return make_plan(name, SCHEDULES[kind], CALLS, "v" if "v" in SAMPLERS[name].predictions else None, **options)


def said(name: str, plan: Plan) -> str:
    """What stands below the name."""
    order = f"order {SAMPLERS[name].order}" if name not in DISTILLED else "distilled"
    return order + (", draws noise" if plan.stochastic else "")


def draw(path: Path, points: int = 500, paths: int = 15) -> None:
    """Write the picture to a path."""
    from matplotlib.figure import Figure

    down = -(-len(SAMPLERS) // ACROSS)
    figure = Figure(figsize=(1.52 * ACROSS, 1.86 * down), dpi=150, facecolor="white")
    panels = figure.subplots(down, ACROSS, squeeze=False).ravel()
    figure.subplots_adjust(left=0.008, right=0.992, bottom=0.012, top=0.925, wspace=0.06, hspace=0.28)
    axis = np.linspace(-LIMIT, LIMIT, 161)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    density = np.exp(components(grid, 1.0, 0.0)[0]).sum(1).reshape(len(axis), -1)
    heights = np.array([0.015, 0.09, 0.3, 0.6, 1.1]) * density.max()
    start = np.random.default_rng(0).standard_normal((points, 2))
    for panel in panels:
        panel.set_axis_off()
    for panel, name in zip(panels, SAMPLERS, strict=False):
        plan = plan_of(name)
        ways = run(plan, start, np.random.default_rng(1))
        panel.contourf(axis, axis, density, levels=heights, colors=SHADES)
        shown = paths // 3 if plan.stochastic else paths  # fewer of those that cross all others
        panel.plot(*ways[:, :shown].transpose(2, 0, 1), color=PATH, linewidth=0.6, alpha=0.6)
        panel.plot(*start[:shown].T, "o", color="white", markeredgecolor=PATH, markersize=2.4, markeredgewidth=0.6)
        panel.plot(*ways[-1].T, "o", color=POINT, markersize=1.3, alpha=0.5, markeredgewidth=0)
        panel.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal")
        panel.text(0, 1.105, name, transform=panel.transAxes, fontsize=8.5, color=INK, weight="bold")
        panel.text(0, 1.02, said(name, plan), transform=panel.transAxes, fontsize=6.3, color=SOFT)
    page = io.BytesIO()
    figure.savefig(page)
    Image.open(page).convert("RGB").quantize(96).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("path", type=Path, nargs="?", default=Path("docs/images/samplers.png"))
    parser.add_argument("--points", type=int, default=500, help="samples of a panel")
    arguments = parser.parse_args()
    draw(arguments.path, arguments.points)
    print(arguments.path)


if __name__ == "__main__":
    main()
