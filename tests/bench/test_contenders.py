"""The baselines: each makes the reference's images or says why not, and one that is wrong has no speed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep import Engine, Model, schedules
from fewstep.bench import Settings, Subject, open_subject, run
from fewstep.bench.contenders import (
    BARE,
    BY_CALLS,
    BY_HAND,
    CHANNELS_LAST,
    COMPILE,
    DIFFUSERS,
    EAGER,
    ENGINE,
    FREEZING,
    MAX_AUTOTUNE,
    ONNXRUNTIME,
    RACERS,
    REDUCE_OVERHEAD,
    REGIONAL,
    WAYS,
    Case,
    Compiled,
    Contender,
    converted,
    standin,
)
from fewstep.bench.contenders.plain import Eager
from fewstep.bench.contenders.standin import Standin, beside, by_position, taken
from fewstep.bench.lineup import Lineup, lineup
from fewstep.bench.parity import check
from fewstep.bench.results import Report
from fewstep.cli.bench_view import page
from fewstep.memory import gib
from support.bench_case import tiny_subject

CASE = Case("ddim", 2, 2)
SPEEDS = ("min_ms", "median_ms", "ratio", "images_per_s", "seconds")


class Labelled(nn.Module):
    """A convolution that repeats, moved by a label and by a second time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1)])

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x * (torch.cos(t / 100) + labels)[:, None, None, None].to(x.dtype)


class Wrong(Eager):
    """A backend whose network answers 1.01 times what it should."""

    @property
    def network(self) -> Callable[..., Any]:
        return lambda *inputs, **named: 1.01 * self.subject.module(*inputs, **named)


def labelled() -> Subject:
    conditions = {"kind": "continuous", "min": 0.25, "max": 1.0}
    model = Model(Labelled(), schedule=schedules.linear(), shape=(3, 4, 4), conditions=conditions)
    return Subject(Engine(model, device="cpu", backend="torch"), "labelled", {}, lacks_diffusers="not asked for")


def raced(known: Lineup, case: Case = CASE) -> dict[str, float]:
    """The difference of each baseline that takes part."""
    return {each.name: found.difference for each, found in check(known, case).items() if not each.ours}


def lacking(known: Lineup, kind: str, case: Case = CASE) -> str:
    return known[Contender(kind)].absent(case)


def measured(subject: Subject, *kinds: str) -> Report:
    return run(subject, Settings(steps=(2,), batches=(2,), samplers=["ddim"], repeats=1, beside=kinds, cold=False))


@pytest.fixture
def tiny() -> Subject:
    pytest.importorskip("diffusers")
    return open_subject("cifar10-ddpm/tiny")


@pytest.fixture(autouse=True)
def uncompiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """In place of a compiler one that leaves all as it is, unless a test is long; what it was asked for."""
    asked: list[Mapping[str, Any]] = []

    def compiled(function: Any, **how: Any) -> Any:
        asked.append(how)
        return function

    if request.node.get_closest_marker("long") is None:
        monkeypatch.setattr(torch, "compile", compiled)
        monkeypatch.setattr(nn.Module, "compile", compiled)
    return asked


def test_baselines_with_diffusers_module_make_the_references_images(
    tiny: Subject, uncompiled: list[Mapping[str, Any]]
) -> None:
    kinds = (DIFFUSERS, CHANNELS_LAST, COMPILE, REGIONAL, REDUCE_OVERHEAD, MAX_AUTOTUNE, FREEZING)
    known = lineup(tiny, ["torch"], beside=kinds)
    found = raced(known)
    assert found.keys() == {*kinds} - {REDUCE_OVERHEAD}
    assert all(difference < 2e-5 for difference in found.values()), found
    assert "same program as compile" in lacking(known, REDUCE_OVERHEAD)
    assert all(how["fullgraph"] and how["dynamic"] is False for how in uncompiled)
    assert [how.get("mode") for how in uncompiled].count("max-autotune") == 1
    assert len(uncompiled) == 3 + 5  # whole ones, and the blocks: two down, one between, two up
    own = known[Contender(CHANNELS_LAST)].subject.theirs
    assert own.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert not tiny.theirs.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(module._compiled_call_impl for module in tiny.theirs.modules())


def test_baselines_of_a_labelled_module_of_ones_own_make_the_references_images() -> None:
    subject = labelled()
    known = lineup(subject, ["torch"], beside=(COMPILE, REGIONAL, CHANNELS_LAST, BY_CALLS))
    assert raced(known, Case("ddpm", 3, 3)) == pytest.approx({COMPILE: 0, REGIONAL: 0}, abs=2e-5)
    assert lacking(known, CHANNELS_LAST) == "not asked for"  # what the subject says of diffusers


def test_a_network_without_blocks_is_not_compiled_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = labelled()
    monkeypatch.setattr(Labelled, "forward", lambda module, x, t, labels: x)
    module = nn.ModuleList.__new__(nn.Module)
    nn.Module.__init__(module)
    monkeypatch.setattr("fewstep.bench.contenders.compiled.taken", lambda subject: module)
    known = lineup(subject, ["torch"], beside=[REGIONAL])
    raced(known)
    assert lacking(known, REGIONAL) == "no repeated blocks: it has no nn.ModuleList"


def test_diffusers_own_choice_of_blocks_is_taken_where_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Named(Labelled):
        _repeated_blocks = ("Conv2d",)

        def compile_repeated_blocks(self, **how: Any) -> None:
            asked.append(how)

    asked: list[Mapping[str, Any]] = []
    subject = labelled()
    module = Named()
    monkeypatch.setattr("fewstep.bench.contenders.compiled.taken", lambda subject: module)
    lineup(subject, ["torch"], beside=[REGIONAL])[Contender(REGIONAL)].prepare(CASE)
    assert asked == [{"fullgraph": True, "dynamic": False}]


def test_a_compiler_that_fails_has_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(function: Any, **_: Any) -> Any:
        raise RuntimeError("no working C++ compiler\nfound in a long list")

    monkeypatch.setattr(torch, "compile", fails)
    row = measured(labelled(), COMPILE).row(CASE, Contender(COMPILE))
    assert row.status == "torch.compile: RuntimeError: no working C++ compiler found in a long list"
    assert row.median_ms is None


def test_a_network_that_is_compiled_at_every_call_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = iter(range(100))
    monkeypatch.setattr("fewstep.bench.contenders.compiled._graphs", lambda: next(compiled))
    known = lineup(labelled(), ["torch"], beside=[COMPILE])
    assert raced(known) == {}
    assert "again at every call" in lacking(known, COMPILE)


@pytest.mark.parametrize("kind", [CHANNELS_LAST, FREEZING])
def test_what_does_not_fit_into_memory_says_so(kind: str, tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin, "why_not", lambda needed, what: f"{what} takes at least {gib(needed)}")
    known = lineup(tiny, ["torch"], beside=[kind])
    assert raced(known) == {}
    assert "takes at least" in lacking(known, kind)


def test_a_wrong_baseline_has_no_speed_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RACERS, COMPILE, Wrong)
    report = measured(labelled(), COMPILE, BARE)
    row = report.row(CASE, Contender(COMPILE))
    assert row.status.startswith("wrong: compile and the eager reference differ by")
    assert not any(getattr(row, name) for name in SPEEDS)
    kept = next(each for each in json.loads(json.dumps(report.to_dict()))["rows"] if each["contender"] == COMPILE)
    assert not any(kept[name] for name in SPEEDS)
    names, *lines = [line.split(",") for line in report.to_csv().splitlines()]
    line = next(line for line in lines if COMPILE in line)
    assert len([name for name in SPEEDS if name in names]) == 4
    start = line.index(COMPILE)
    assert line[start] == COMPILE
    shown = [text for text in page(report, []).splitlines() if text.strip().startswith(COMPILE)]
    assert shown
    assert not any("ms" in text.split() for text in shown)


def test_a_baseline_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converted, "find_spec", lambda name: None)
    known = lineup(labelled(), ["torch"], ("float32", "bfloat16"), beside=(BY_HAND, ONNXRUNTIME))
    assert lacking(known, BY_HAND) == "not installed: pip install 'fewstep[cpu]'"
    assert lacking(known, ONNXRUNTIME) == "not installed: pip install 'fewstep[bench]'"
    assert "in float32 alone" in known[Contender(ONNXRUNTIME, dtype="bfloat16")].absent(CASE)


def test_a_runtime_that_refuses_a_network_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("no such op: fold")

    monkeypatch.setattr(converted, "find_spec", lambda name: name)
    monkeypatch.setattr(RACERS[BY_HAND], "convert", fails)
    known = lineup(labelled(), ["torch"], beside=[BY_HAND])
    assert raced(known) == {}
    assert lacking(known, BY_HAND) == "openvino by hand: ValueError: no such op: fold"


def test_an_engine_by_calls_has_the_bits_of_the_engine_and_is_no_row_of_a_cpu_unless_asked_for() -> None:
    subject = labelled()
    assert BY_CALLS not in {racer.contender.kind for racer in lineup(subject, ["torch"]).racers}
    known = lineup(subject, ["torch"], beside=[BY_CALLS])
    racer = known[Contender(BY_CALLS)]
    assert isinstance(racer, RACERS[BY_CALLS])
    assert racer.contender.ours
    assert torch.equal(racer.own_images(CASE, 3), known[Contender(ENGINE)].own_images(CASE, 3))  # type: ignore[attr-defined]
    assert check(known, CASE)[racer.contender].bitwise


def test_what_diffusers_takes_within_a_dict_reaches_it_by_position() -> None:
    class Theirs(nn.Module):
        def forward(self, x: Tensor, t: Tensor, context: Tensor, added: Mapping[str, Tensor]) -> Tensor:
            return x + t + context + added["sizes"] - added["pooled"]

    def told(self: Subject, batch: int, dtype: torch.dtype) -> dict[str, Any]:
        one = torch.ones(batch, dtype=dtype)
        return {"context": 2 * one, "added": {"pooled": 3 * one, "sizes": 5 * one}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Subject, "their_arguments", told)
        subject = replace(labelled(), theirs=Theirs())
        assert list(beside(subject, 2)) == [("context",), ("added", "pooled"), ("added", "sizes")]
        called = Standin(subject, by_position(subject, taken(subject)))
        assert called(torch.zeros(2), torch.ones(2)).tolist() == [5, 5]


@pytest.mark.long
@pytest.mark.parametrize("kind", [COMPILE, FREEZING])
def test_torch_compile_itself_is_right(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RACERS, kind, Compiled)
    report = measured(labelled(), kind)
    row = report.row(CASE, Contender(kind))
    assert row.status == "measured"
    assert row.difference is not None
    assert row.difference < 2e-5
    assert row.calls == 2
    assert row.ready_seconds is not None


@pytest.mark.long
def test_other_runtimes_themselves_are_right() -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    report = measured(labelled(), BY_HAND, ONNXRUNTIME)
    for kind in (BY_HAND, ONNXRUNTIME):
        row = report.row(CASE, Contender(kind))
        assert row.status == "measured"
        assert row.difference is not None
        assert row.difference < 2e-5
        assert row.calls == 2


def test_every_kind_has_a_racer() -> None:
    assert {*RACERS} >= {ENGINE, EAGER, BARE, *WAYS}


def test_who_takes_minutes_for_a_batch_size_takes_part_at_one() -> None:
    known = lineup(tiny_subject(), ["torch"], beside=[BARE, COMPILE], narrow=[COMPILE], batch=1)
    compiled, bare = (known[Contender(kind)] for kind in (COMPILE, BARE))
    assert compiled.absent(Case("ddim", 4, 4)) == "measured at batch 1 alone: it takes minutes for each"
    assert [compiled.absent(Case("ddim", 4, 1)), bare.absent(Case("ddim", 4, 4))] == ["", ""]
