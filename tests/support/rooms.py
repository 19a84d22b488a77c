"""The rooms of engine/fewstep, in their order, and the modules of each."""

ROOMS: dict[str, tuple[str, ...]] = {
    "ground": (
        "archives",
        "callers",
        "checks",
        "columns",
        "errors",
        "fields",
        "files",
        "memory",
        "mistaken",
        "pictures",
        "staging",
        "version",
    ),
    "diffusion": ("diffusion",),
    "run": ("run",),
    "request": ("request",),
    "models": ("models",),
    "engine": ("", "bounds", "engine", "presets", "results", "samplers", "schedules", "warming"),  # what a user imports
    "train": ("train",),
    "evaluate": ("evaluate",),
    "bench": ("bench",),
    "cost": ("cost",),
    "cli": ("cli",),
}
