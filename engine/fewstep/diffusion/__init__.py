"""The mathematics, in float64 on the host: schedules, levels of noise, samplers, and the plan they make."""
