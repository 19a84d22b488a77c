"""Every scheduler class of diffusers: what it is as a plan, and in which settings that is looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]

PREDICTIONS = [{"prediction_type": each} for each in ("epsilon", "v_prediction", "sample")]
TWO = PREDICTIONS[:2]
SPACINGS = [{"timestep_spacing": each} for each in ("leading", "trailing", "linspace")]
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
CLIPS = [{"clip_sample": False}, {"clip_sample_range": 0.8}, {"clip_sample": False, **THRESHOLD}]
THRESHOLDS = [{}, THRESHOLD]
LADDERS = [{}, *({f"use_{each}_sigmas": True} for each in ("karras", "exponential", "beta"))]
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
BETAS = [{}, {"beta_schedule": "scaled_linear"}, {"beta_schedule": "squaredcos_cap_v2"}]
ORDERS = [{"solver_order": each} for each in (1, 2, 3)]
SOLVERS = [{"solver_type": each} for each in ("midpoint", "heun")]
ENDS = [{}, {"final_sigmas_type": "sigma_min"}]
SHIFTS = [{}, {"shift": 3.0}]
NO_SIGNAL = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
DPM = [
    {"algorithm_type": "dpmsolver++"},
    {"algorithm_type": "sde-dpmsolver++"},
    {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
]


SHORT = {"num_train_timesteps": 50}  # for those whose constructor visits all of them, which takes half a second
ANGLE = "its network is told 2 / pi atan(sigma), for which no Model has a word"


def twice(n: int) -> int:
    """Calls of n inference steps, two for each but the last."""
    return 2 * n - 1


def same(n: int) -> int:
    return n


@dataclass(frozen=True)
class Case:
    """A class that is rows.

    Attributes:
        options: lists of settings, one of each list at a time; "step" holds those of `step`, "timesteps" those of
            `set_timesteps`.
        needs: settings that are always there.
        calls: of n inference steps.
        closed: it keeps a state that no row has, from some number of calls on.
        note: for the table.
    """

    options: Sequence[Sequence[Settings]] = ()
    needs: Settings = field(default_factory=dict)
    calls: Any = same
    closed: bool = False
    steps: Sequence[int] = (1, 2, 3, 4, 8, 20)  # inference steps
    note: str = ""


CASES: dict[str, Case] = {
    "CMStochasticIterativeScheduler": Case([[{}, {"clip_denoised": False}]]),
    "CogVideoXDDIMScheduler": Case([PREDICTIONS, [*SPACINGS, NO_SIGNAL]]),
    "CogVideoXDPMScheduler": Case([PREDICTIONS, SPACINGS], note="draws noise twice a step and uses one"),
    "ConsistencyDecoderScheduler": Case([[{}, {"sigma_data": 1.0}]], steps=(2,), note="two calls, always"),
    "CosineDPMSolverMultistepScheduler": Case(
        [TWO, [{}, {"sigma_schedule": "karras"}], ORDERS[:2], SOLVERS], note=ANGLE
    ),
    "DDIMInverseScheduler": Case([TWO, SPACINGS[:2], CLIPS[:2]], note="from an image to its noise"),
    "DDIMParallelScheduler": Case([PREDICTIONS, SPACINGS, CLIPS, [{}, {"step": {"eta": 0.5}}]]),
    "DDIMScheduler": Case(
        [
            PREDICTIONS,
            [*SPACINGS, NO_SIGNAL],
            CLIPS,
            BETAS,
            [{}, {"set_alpha_to_one": False, "steps_offset": 1}],
            [{}, {"step": {"eta": 0.5}}, {"step": {"eta": 0.8, "use_clipped_model_output": True}}],
        ]
    ),
    "DDPMParallelScheduler": Case(
        [PREDICTIONS, SPACINGS, CLIPS, [{"variance_type": each} for each in ("fixed_small", "learned_range")]]
    ),
    "DDPMScheduler": Case(
        [
            PREDICTIONS,
            [*SPACINGS, NO_SIGNAL],
            CLIPS,
            BETAS,
            [{"variance_type": f"fixed_{each}"} for each in ("small", "small_log", "large")]
            + [{"variance_type": "learned_range"}],
        ],
        note="no plan with variance_type='learned', where the network answers a variance itself",
    ),
    "DDPMWuerstchenScheduler": Case(
        [[{}, {"scaler": 2.0}]], note="its network is told a share of the whole time, for which no Model has a word"
    ),
    "DEISMultistepScheduler": Case([PREDICTIONS, SPACINGS, LADDERS, ORDERS]),
    "DPMSolverMultistepInverseScheduler": Case(
        [PREDICTIONS, SPACINGS, LADDERS, ORDERS, [{}, {"algorithm_type": "dpmsolver"}], THRESHOLDS],
        steps=(1, 2, 3, 4, 8, 14),
        note="from an image to its noise; on Karras sigmas and the like its last step divides 0 by 0 from 15 calls on",
    ),
    "DPMSolverMultistepScheduler": Case(
        [
            PREDICTIONS,
            [*SPACINGS, NO_SIGNAL],
            ORDERS,
            SOLVERS,
            DPM,
            THRESHOLDS,
            [{}, {"euler_at_final": True}],
            [
                *LADDERS,
                {"use_lu_lambdas": True},
                {**FLOW, "algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"},
            ],
        ]
    ),
    "DPMSolverSDEScheduler": Case([TWO, SPACINGS, LADDERS], SHORT, calls=twice, closed=True, note="correlated noise"),
    "DPMSolverSinglestepScheduler": Case(
        [
            PREDICTIONS,
            LADDERS,
            THRESHOLDS,
            [*DPM[:2], {}],
            [*ORDERS[:2], {"solver_order": 3, "algorithm_type": "dpmsolver++"}],
        ],
        note="closed with solver_order=3, which has no rows where it draws noise",
    ),
    "EDMDPMSolverMultistepScheduler": Case(
        [
            TWO,
            [{}, {"sigma_schedule": "exponential"}],
            [*ORDERS, {"algorithm_type": "sde-dpmsolver++"}],
            SOLVERS,
            THRESHOLDS,
        ]
    ),
    "EDMEulerScheduler": Case(
        [TWO, [{}, {"sigma_schedule": "exponential"}], ENDS, [{}, {"step": {"s_churn": 10.0, "s_tmin": 0.05}}]]
    ),
    "EulerAncestralDiscreteScheduler": Case([TWO, [*SPACINGS, NO_SIGNAL], BETAS]),
    "EulerDiscreteScheduler": Case(
        [PREDICTIONS, SPACINGS, LADDERS, BETAS, ENDS, [{}, {"step": {"s_churn": 4.0, "s_noise": 1.01}}]]
    ),
    "FlowMapEulerDiscreteScheduler": Case([SHIFTS], note="r is the timestep where a row lands"),
    "FlowMatchEulerDiscreteScheduler": Case(
        [[*SHIFTS, {"stochastic_sampling": True}], LADDERS, [{}, {"step": {"s_churn": 2.0}}]],
        note="invert_sigmas has no plan: it calls the network where there is no noise",
    ),
    "FlowMatchHeunDiscreteScheduler": Case(
        [SHIFTS, [{}, {"step": {"s_churn": 2.0}}]], calls=twice, note="closed with s_churn"
    ),
    "FlowMatchLCMScheduler": Case([SHIFTS, LADDERS]),
    "HeliosScheduler": Case(
        [SHIFTS, [{}, {"scheduler_type": "euler"}]],
        needs={"stages": 1},
        closed=True,
        note="with stages=1; several stages differ in size",
    ),
    "HeunDiscreteScheduler": Case([PREDICTIONS, SPACINGS, LADDERS, CLIPS[:2]], SHORT, calls=twice),
    "IPNDMScheduler": Case([[{}]], note=ANGLE),
    "KDPM2AncestralDiscreteScheduler": Case([TWO, SPACINGS, LADDERS], SHORT, calls=twice),
    "KDPM2DiscreteScheduler": Case([TWO, SPACINGS, LADDERS], SHORT, calls=twice),
    "LCMScheduler": Case([PREDICTIONS, CLIPS, BETAS]),
    "LMSDiscreteScheduler": Case([PREDICTIONS, SPACINGS, LADDERS], SHORT),
    "LTXEulerAncestralRFScheduler": Case([[{}, {"eta": 0.5}, {"eta": 0.0}]]),
    "MiniMaxH3Scheduler": Case(
        [[{}, {"shift": 1.0}]],
        calls=lambda n: n - 1,
        steps=(2, 3, 4, 5, 9, 21),
        note="its network answers x_0 - z and is told 1 - sigma, for which no Model has words",
    ),
    "PNDMScheduler": Case(
        [TWO, SPACINGS, [{}, {"set_alpha_to_one": True}]],
        needs={"skip_prk_steps": True},
        calls=lambda n: n + (n > 1),
        closed=True,
        note="with skip_prk_steps=True, as Stable Diffusion has it; Runge-Kutta steps read twelve calls back",
    ),
    "SASolverScheduler": Case(
        [
            PREDICTIONS,
            SPACINGS,
            LADDERS,
            [{"predictor_order": p, "corrector_order": c} for p, c in ((2, 2), (1, 2), (3, 3), (2, 3))],
            THRESHOLDS,
        ],
        closed=True,
    ),
    "SCMScheduler": Case(
        [[{}, {"sigma_data": 1.0}], [{"timesteps": {"intermediate_timesteps": None}}]],
        note="intermediate_timesteps=None for other than two calls",
    ),
    "TCDScheduler": Case([PREDICTIONS, BETAS, [{}, {"step": {"eta": 0.0}}, {"step": {"eta": 1.0}}]]),
    "UnCLIPScheduler": Case(
        [
            [{}, {"prediction_type": "sample"}],
            [{}, {"variance_type": "learned_range"}],
            [{"clip_sample": False}, {"clip_sample_range": 0.8}],
        ],
        steps=(2, 3, 4, 8, 20),
    ),
    "UniPCMultistepScheduler": Case(
        [
            PREDICTIONS,
            [*SPACINGS, NO_SIGNAL],
            [*LADDERS, {**FLOW, "predict_x0": True, "final_sigmas_type": "zero", "solver_type": "bh2"}],
            ORDERS,
            [{"solver_type": "bh2"}, {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}],
            THRESHOLDS,
            [{}, {"disable_corrector": [0]}],
        ],
        closed=True,
    ),
}

# Constructor arguments of those that are no plan; the reason is what the error says.
REFUSED: dict[str, tuple[Settings, str]] = {
    "AmusedScheduler": ({"mask_token_id": 7}, "its samples are tokens"),
    "BlockRefinementScheduler": ({}, "its samples are tokens"),
    "DiscreteDDIMScheduler": ({}, "its samples are tokens"),
    "EntropyBoundScheduler": ({}, "its samples are tokens"),
    "HeliosDMDScheduler": ({"stages": 1}, "its step also takes dmd_noisy_tensor, dmd_sigmas, dmd_timesteps"),
    "KarrasVeScheduler": (
        {},
        "its step needs sigma_hat, sigma_prev, sample_hat beside x, a time and what the network answers",
    ),
    "PiflowScheduler": ({}, "Piflow model output channels 1 are not divisible by n_grid=10"),
    "RFD4ProteinaScheduler": (
        {"schedule_mode": "log", "noise_mode": "tan", "tsr_k": 1.0, "tsr_sigma": 1.0},
        "its step needs emit_mask beside x, a time and what the network answers",
    ),
    "RePaintScheduler": ({}, "its step needs original_image, mask beside x, a time and what the network answers"),
    "ScoreSdeVeScheduler": ({}, "it has no step"),
    "ScoreSdeVpScheduler": ({}, "it has no step"),
    "VQDiffusionScheduler": ({"num_vec_classes": 9}, "its samples are tokens"),
}


def merged(case: Case, chosen: Sequence[Settings]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Of one of each list of options: the constructor's, those of `step` and those of `set_timesteps`."""
    settings: dict[str, Any] = dict(case.needs)
    for each in chosen:
        settings |= each
    return settings, settings.pop("step", {}), settings.pop("timesteps", {})


def each_once(case: Case) -> list[tuple[int, tuple[Settings, ...]]]:
    """(inference steps, settings), in which each number of steps and each setting takes part at least once."""
    count = max([len(case.steps), *map(len, case.options)])
    return [(case.steps[i % len(case.steps)], tuple(of[i % len(of)] for of in case.options)) for i in range(count)]
