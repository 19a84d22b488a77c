"""The columns of a plan's row: the numbers one fused update reads for one sample.

A plan is a float table [N, len(COLUMNS)], one row per model call. The update of row i is

    input     x_in = c_in x
    guide     m    = uncond + w (cond - uncond), rescaled by phi, plus g * gradient
    estimate  x_0  = clip(k_x x + k_m m)
    update    x'   = a x + b x_0 + e m + sum_j c_j h^(-j) + s exp(log_std) z
    remember  h    = h_x x + h_0 x_0 + h_m m
    re-noise  x'   = known_signal * known + known_noise * z' outside the mask
"""

COLUMNS: tuple[str, ...] = (
    "t",  # what the model is told
    "r",  # and the time that a flow map goes to, in the same words; t itself for the slope at t
    "c_in",  # model input scale of this row
    "c_in_next",  # model input scale of the row after it
    "k_x",  # x_0 = k_x x + k_m m
    "k_m",
    "a",  # x' = a x + b x_0 + e m + c_j h^(-j) + s z
    "b",
    "e",
    "s",
    "c_1",
    "c_2",
    "c_3",
    "c_4",
    "h_x",  # what is kept as history: h = h_x x + h_0 x_0 + h_m m, of this row's x, clipped x_0 and guided m
    "h_0",
    "h_m",
    "clip",  # limit of |x_0|: inf for none; with a ratio, the largest dynamic limit
    "clip_ratio",  # 0: static clip; else the quantile of |x_0| that becomes the limit (dynamic thresholding)
    "w",  # guidance scale
    "phi",  # guidance rescale, 0 for none
    "g",  # weight of the gradient tensor added to m
    "log_var_min",  # learned variance: log variance between these bounds; 0 and 0 where it is not learned
    "log_var_max",
    "known_signal",  # the known region re-noised to where this row lands
    "known_noise",
    "known_fresh",  # 1: fresh noise each row; 0: the initial noise again
)

COLUMN: dict[str, int] = {name: index for index, name in enumerate(COLUMNS)}
MAX_HISTORY = 4

# A row that leaves x as it is: what an idle slot gathers. Its model input is x itself, its estimate of x_0 too.
IDLE_ROW: tuple[float, ...] = tuple(
    {"c_in": 1.0, "c_in_next": 1.0, "k_x": 1.0, "a": 1.0, "clip": float("inf"), "w": 1.0}.get(name, 0.0)
    for name in COLUMNS
)
