"""The warm-up manifest: what was served, kept in a file, is captured by the next engine before anybody asks."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep import ArgumentError, Engine, Image, Inpaint, ModelError, OutputError, Resume, Sample, Step
from fewstep.diffusion.samplers import Clip, make_plan
from support.runners import engines
from support.small import SHAPE, small_engine

# How each is called, how often, and the entries that say so.
MIXED: dict[str, tuple[dict[str, Any], int, list[dict[str, Any]]]] = {
    "pixels": (
        {"labels": [1, 2], "guidance_scale": 3.0, "output": "uint8"},
        7,
        [{"n": 2, "steps": 4, "sampler": "ddim", "guidance_scale": 3.0, "output": "uint8"}],
    ),
    "plain": ({"n": 3, "seeds": 7}, 6, [{"n": 3, "steps": 4, "sampler": "ddim"}]),
    "watched": (
        {"n": 1, "callback": lambda step: None},
        5,
        [{"n": 1, "steps": 4, "sampler": "ddim", "callback": True}],
    ),
    "a guidance of each call, rescaled": (
        {"n": 1, "plan": small_engine().plan(3, "ddpm").with_guidance([1.0, 2.0, 4.0], rescale=0.5)},
        4,
        [{"n": 1, "steps": 3, "sampler": "ddpm", "guidance_per_call": [1.0, 2.0, 4.0], "guidance_rescale": 0.5}],
    ),
    "a dynamic threshold": (
        {"n": 1, "clip": Clip(2.0, ratio=0.9)},
        3,
        [{"n": 1, "steps": 4, "sampler": "ddim", "options": {"clip": {"limit": 2.0, "ratio": 0.9}}}],
    ),
    "inpainted": (
        {"n": 2, "steps": 12, "start": Inpaint(torch.zeros(SHAPE), torch.ones(8, 8))},
        2,
        [{"n": 2, "steps": 12, "sampler": "ddim", "inpaint": True}],
    ),
    "in two batches, with noise": (
        {"n": 7, "steps": 2, "noise": torch.zeros(7, *SHAPE)},
        1,
        [
            {"n": 4, "steps": 2, "sampler": "ddim", "noise": True},
            {"n": 3, "steps": 2, "sampler": "ddim", "noise": True},
        ],
    ),
}


def serve(engine: Engine) -> list[dict[str, Any]]:
    """Every kind of request in turns, and the entries of a manifest of them."""
    for turn in range(7):
        for arguments, times, _ in reversed(MIXED.values()):
            if turn < times:
                engine.sample(**arguments)
    return [entry for _, _, entries in MIXED.values() for entry in entries]


def test_a_manifest_lists_each_kind_once_most_used_first(device: str) -> None:
    for engine in engines(device, max_batch=4)[:2]:
        wanted = serve(engine)
        assert engine.manifest() == wanted


def test_after_a_warm_up_from_the_file_nothing_new_is_captured(device: str, tmp_path: Path) -> None:
    eager, _, _ = engines(device, max_batch=4)
    path = tmp_path / "warm" / "up.json"
    serve(eager)
    requests = eager.manifest(path)
    assert json.loads(path.read_text()) == {"format": 2, "requests": requests}
    for source in (path, str(path), requests):
        _, graph, runner = engines(device, max_batch=4)
        graph.warm_up(source)
        assert runner.stats()["captures"] == len(requests)
        before = runner.stats()["hits"]
        serve(graph)
        assert runner.stats()["captures"] == len(requests)
        assert runner.stats()["eager_runs"] == 0
        assert runner.stats()["hits"] == before + sum(times * len(entries) for _, times, entries in MIXED.values())


def test_other_values_are_the_same_kind() -> None:
    engine = small_engine()
    for arguments in (
        {"labels": [1], "seeds": [5]},
        {"labels": [2], "seeds": [8]},
        {"labels": [2], "start": Image(torch.zeros(SHAPE), 0.5)},
        {"plan": make_plan("ddim", engine.model.schedule, 4, clip=0.5, spacing="leading")},
    ):
        engine.sample(**arguments)  # type: ignore[arg-type]
    assert engine.manifest() == [{"n": 1, "steps": 4, "sampler": "ddim"}]


def test_no_guidance_is_said_where_the_model_has_a_scale_of_its_own() -> None:
    engine = small_engine(defaults={"guidance_scale": 3.0})
    engine.sample(labels=[1])
    engine.sample(labels=[1, 2], guidance_scale=1.0)
    requests = engine.manifest()
    assert requests == [
        {"n": 1, "steps": 4, "sampler": "ddim", "guidance_scale": 3.0},
        {"n": 2, "steps": 4, "sampler": "ddim", "guidance_scale": 1.0},
    ]
    again = small_engine(defaults={"guidance_scale": 3.0})
    for request in requests:
        again.sample(**request)
    assert again.manifest() == requests


def test_what_an_entry_cannot_say_is_not_listed() -> None:
    engine, states = small_engine(), list[Sample]()

    def keep(step: Step) -> bool:
        states.append(step.state(0))
        return False

    engine.sample(1, callback=keep)
    watched = engine.manifest()
    engine.sample(start=Resume(states))
    engine.sample(plan=[engine.plan(2), engine.plan(3)])
    engine.sample(1, condition={"labels": torch.tensor([3])})
    engine.sample(1, start=Image(torch.zeros(SHAPE), 0.5), plan=engine.plan(8))
    engine.warm_up([{"n": 5}])
    assert engine.manifest() == watched == [{"n": 1, "steps": 4, "sampler": "ddim", "callback": True}]


def test_where_the_budget_is_short_the_most_used_are_kept() -> None:
    _, graph, runner = engines("cpu")
    runner.cache.budget_bytes = 200
    graph.warm_up([{"n": 1}, {"n": 2}, {"n": 3}])
    assert {key.signature.samples for key, _ in runner.cache.items()} == {1, 2}


GOOD = {"n": 4, "steps": 4, "guidance_scale": 3.0}
BAD_FILES: dict[str, tuple[object, str]] = {
    "no object": ([], "got []; allowed: a JSON object"),
    "no format": ({"requests": []}, "format: is missing"),
    "a later format": ({"format": 3, "requests": []}, "format: got 3; allowed: an integer from 1 to 2"),
    "another field": ({"format": 1, "requests": [], "seed": 1}, "unknown field 'seed'; allowed: format, requests"),
    "no requests": ({"format": 1}, "requests: got None; allowed: a list of at most 1000 objects"),
    "no list": ({"format": 1, "requests": GOOD}, "requests: got {"),
    "no entry": ({"format": 1, "requests": [GOOD, 4]}, "requests[1]: got 4; allowed: an object"),
    "no count": ({"format": 1, "requests": [{"steps": 4}]}, "requests[0]: n: is missing"),
    **{
        f"{name} = {value!r}": ({"format": 1, "requests": [GOOD, GOOD | {name: value}]}, f"requests[1]: {message}")
        for name, value, message in (
            ("n", 0, "n: got 0; allowed: an integer from 1 to 100000"),
            ("n", True, "n: got True; allowed"),
            ("steps", 2.5, "steps: got 2.5; allowed: an integer from 1 to 100000"),
            ("sampler", "ddmi", "sampler: got 'ddmi'; supported: ddpm, ddim, euler"),
            ("guidance_scale", "3", "guidance_scale: got '3'; allowed: a number"),
            ("guidance_scale", [1.0, "3"], "guidance_scale[1]: got '3'; allowed: a number"),
            ("guidance_rescale", 1.5, "guidance_rescale: got 1.5; allowed: a number from 0 to 1"),
            ("output", "jpeg", "output: got 'jpeg'; supported: float, uint8"),
            ("callback", 1, "callback: got 1; allowed: true or false"),
            ("seeds", [1], "unknown field 'seeds'; allowed: callback, guidance_rescale"),
        )
    },
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_refused_by_entry_and_field(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "warm.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        small_engine().warm_up(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_what_the_model_does_not_take_names_the_entry(tmp_path: Path) -> None:
    path = tmp_path / "warm.json"
    path.write_text(json.dumps({"format": 1, "requests": [GOOD, GOOD | {"steps": 1001}]}))
    with pytest.raises(ArgumentError) as caught:
        small_engine().warm_up(path)
    assert str(caught.value).startswith(f"{path}: requests[1]: steps: got 1001; allowed: ")
    with pytest.raises(ArgumentError, match=r"^requests\[0\]: n: got 0; allowed"):
        small_engine().warm_up([{"n": 0}])
    with pytest.raises(ModelError, match=r"none\.json: "):
        small_engine().warm_up(tmp_path / "none.json")


def test_a_manifest_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    engine = small_engine()
    engine.sample(1)
    with pytest.raises(OutputError, match="is a directory"):
        engine.manifest(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_session_is_listed_in_its_own_words_and_warms_up(device: str, tmp_path: Path) -> None:
    _, graph, _ = engines(device)
    words: dict[str, Any] = {"slots": 2, "lanes": 5, "steps": 16, "history": 0, "features": ["stochastic", "preview"]}
    graph.session(**words).close()
    path = tmp_path / "warm.json"
    assert graph.manifest(path) == [{"session": words | {"output": "float"}}]
    assert graph.manifest() == graph.manifest()
    _, again, runner = engines(device)
    again.warm_up(path)
    assert runner.stats()["captures"] == 1
    again.session(**words).close()
    assert (runner.stats()["captures"], runner.stats()["eager_runs"]) == (1, 0)


BAD_SESSIONS = {
    "no slots": ({"slots": 0}, "slots: got 0; allowed: an integer from 1"),
    "one lane": ({"lanes": 1}, "lanes: got 1; allowed: an integer from 2"),
    "another feature": ({"features": ["speed"]}, "features: got 'speed'; allowed: stochastic, statistics"),
    "another field": ({"seeds": 1}, "unknown field 'seeds'"),
}


@pytest.mark.parametrize(("change", "message"), BAD_SESSIONS.values(), ids=BAD_SESSIONS)
def test_a_bad_session_is_refused_by_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"slots": 2, "lanes": 5, "steps": 8, "history": 0, "output": "float", "features": []}
    path = tmp_path / "warm.json"
    path.write_text(json.dumps({"format": 2, "requests": [{"session": good | change}]}))
    with pytest.raises(ModelError, match=re.escape(f"{path}: requests[0]: session: {message}")):
        small_engine().warm_up(path)


def test_a_list_of_scales_in_a_file_of_before_has_one_for_each_call(tmp_path: Path) -> None:
    path = tmp_path / "warm.json"
    old = {"n": 2, "steps": 3, "sampler": "ddpm", "guidance_scale": [1.0, 2.0, 4.0], "guidance_rescale": 0.5}
    path.write_text(json.dumps({"format": 1, "requests": [old, {"n": 1, "mask": True}]}))
    _, graph, runner = engines("cpu")
    graph.warm_up(path)
    plan = graph.plan(3, "ddpm").with_guidance([1.0, 2.0, 4.0], rescale=0.5)
    graph.sample(2, plan=plan, seeds=0)
    graph.sample(1, start=Inpaint(torch.zeros(SHAPE), torch.ones(8, 8)), seeds=0)
    assert (runner.stats()["captures"], runner.stats()["eager_runs"]) == (2, 0)
    new = [{**old, "guidance_per_call": old["guidance_scale"]}, {"n": 1, "inpaint": True}]
    del new[0]["guidance_scale"]
    path.write_text(json.dumps({"format": 2, "requests": new}))
    _, again, other = engines("cpu")
    again.warm_up(path)
    assert {key for key, _ in other.cache.items()} == {key for key, _ in runner.cache.items()}
