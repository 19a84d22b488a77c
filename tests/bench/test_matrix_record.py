"""The matrices of record as data: which cells they have, without measuring any."""

import pytest

from fewstep.bench.contenders import COMPILE, MAX_AUTOTUNE, REDUCE_OVERHEAD
from fewstep.bench.duration import expected, spoken
from fewstep.bench.matrix import RUNS, Asked, everything, record
from fewstep.bench.subjects import NETWORKS
from fewstep.errors import ArgumentError


def test_the_default_matrix_is_three_networks_at_batch_1_and_4() -> None:
    races = record(Asked())
    cells = {(cell.model, cell.case.sampler, cell.case.steps, cell.case.batch) for race in races for cell in race.cells}
    steps = (1, 2, 4, 8)
    wanted = {("digits", "ddim", count, batch) for count in steps for batch in (1, 4)}
    wanted |= {("cifar10-ddpm", "ddim", count, batch) for count in (1, 4) for batch in (1, 4)}
    assert cells == wanted | {("terrain", "consistency", 1, batch) for batch in (1, 4)}
    assert [race.source for race in races] == [
        *({"name": "digits", "steps": count} for count in steps),
        {"name": "cifar10-ddpm"},
        {"name": "terrain"},
    ]
    assert [race.cold for race in races] == [True, False, False, False, False, False]
    assert RUNS == 3
    assert [race.model for race in races if COMPILE in race.settings.beside] == [*["digits"] * 4, "cifar10-ddpm"]
    assert all(race.settings.dtypes == ("float32",) for race in races)
    assert all(race.settings.narrow == (COMPILE,) and race.settings.batches == (1, 4) for race in races)


def test_a_plan_counts_what_a_cell_takes_and_says_it_as_people_do() -> None:
    cells = [(race, case) for race in record(Asked()) for case in race.cases]
    assert 60 < RUNS * sum(expected(race, case, 0.1) for race, case in cells) < 1800
    assert (spoken(40), spoken(700), spoken(9000)) == ("40 seconds", "12 minutes", "2.5 hours")


def test_what_is_asked_for_takes_the_place_of_what_is_of_record() -> None:
    asked = Asked(networks=["cifar10-ddpm"], steps=[3], batches=[2], samplers=["ddpm"], dtypes=["bfloat16"], repeats=2)
    (race,) = record(asked)
    assert [str(case) for case in race.cases] == ["ddpm, 3 steps, batch 2"]
    assert (race.settings.dtypes, race.settings.repeats) == (("bfloat16",), 2)


def test_everything_on_a_cpu_is_all_networks_and_a_large_one_is_reduced() -> None:
    races = everything(Asked())
    names = {race.source["name"] for race in races}
    assert names == {name for name in NETWORKS if not name.startswith("digits/")}
    assert {race.settings.dtypes for race in races} == {("float32", "bfloat16")}
    assert not any({MAX_AUTOTUNE, REDUCE_OVERHEAD} & {*race.settings.beside} for race in races)
    sdxl = next(race for race in races if race.source["name"] == "sdxl")
    assert (sdxl.model, sdxl.source["size"]) == ("sdxl@32", 32)
    assert {(case.steps, case.batch) for case in sdxl.cases} == {(1, 1), (4, 1)}
    models = [race.model for race in races if race.source["name"] == "cifar10-edm"]
    assert models == ["cifar10-edm", "cifar10-edm@16"]


def test_on_a_gpu_max_autotune_is_measured_at_one_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.bench.subjects.Network.lacks_memory", lambda *_: "")
    races = [race for race in everything(Asked(), "cuda") if race.model == "sd15"]
    assert [{case.batch for case in race.cases} for race in races] == [{1, 4}]
    assert all(race.settings.narrow == (MAX_AUTOTUNE,) for race in races)
    assert all(REDUCE_OVERHEAD in race.settings.beside for race in races)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (Asked(networks=["digit"]), "network: got 'digit'"),
        (Asked(backends=["onnx"]), "backends: got 'onnx'"),
        (Asked(dtypes=["float16"]), "dtype: got 'float16'"),
        (Asked(beside=["flax"]), "beside: got 'flax'"),
        (Asked(samplers=["dim"]), "sampler: got 'dim'"),
    ],
)
def test_what_is_not_there_is_named_before_anything_runs(asked: Asked, named: str) -> None:
    for matrix in (record, everything):
        with pytest.raises(ArgumentError, match=named):
            matrix(asked)
