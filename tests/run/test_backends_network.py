"""A network on a backend is the module: checked at first, watched later, and torch's where anything is amiss."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep import Engine
from fewstep.errors import ArgumentError, BackendWarning
from fewstep.run.backends import network as of_network
from fewstep.run.backends.backend import UnreadyError
from fewstep.run.backends.network import Network
from fewstep.run.backends.parity import distance
from support.backends import CopiedProgram, Copying, copying_engine, on_backend
from support.small import SHAPE, PureNet, SmallNet, small_engine

REQUEST: dict[str, Any] = {"labels": [1, 2], "seeds": 0, "steps": 3}


def images(engine: Engine, **request: Any) -> Tensor:
    return engine.sample(**(REQUEST | request)).images


def calls_of(engine: Engine) -> list[dict[str, Any]]:
    return engine.stats()["backend"]["calls"]


def test_program_runs_every_step_and_its_error_is_told() -> None:
    engine, backend = copying_engine()
    assert torch.equal(images(engine), images(small_engine()))
    [found] = calls_of(engine)
    assert found == {
        "x": [2, 3, 8, 8],
        "backend": "copying",
        "count": 3,
        "make_seconds": 0.0,
        "error": 0.0,
        "bound": 1e-4,
    }
    assert engine.stats()["backend"]["name"] == "copying"
    assert backend.made[0].calls == 3, "the first answer is checked, and given"


def test_same_seeds_give_same_bits_in_first_call_and_later() -> None:
    engine, _ = copying_engine()
    assert torch.equal(images(engine), images(engine))


def test_kind_of_call_is_ready_once_and_kinds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_network, "MOST_KINDS", 3)
    engine, backend = copying_engine()
    for count in (1, 2, 3, 1, 4, 1, 3):
        images(engine, labels=[1] * count)
    assert [program.answer.shape[0] for program in backend.made if program.answer is not None] == [1, 2, 3, 4]
    images(engine, labels=[1, 2])  # the one that was not used for longest is gone
    assert [found["x"][0] for found in calls_of(engine)] == [1, 3, 2]


def test_large_network_keeps_two_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_network, "MOST_BYTES", 1)
    engine, _ = copying_engine()
    for count in (1, 2, 3):
        images(engine, labels=[1] * count)
    assert [found["x"][0] for found in calls_of(engine)] == [2, 3]


def wrong(program: CopiedProgram) -> None:
    with torch.no_grad():
        program.module.conv.weight.mul_(1.01)


def broken(program: CopiedProgram) -> None:
    program.module = nn.Linear(1, 1)  # whose call does not take these arguments


def wide(program: CopiedProgram) -> None:
    program.module = program.module.double()
    own = program.module.forward
    program.module.forward = lambda x, t, **rest: own(x.double(), t, **rest)


def nan(program: CopiedProgram) -> None:
    with torch.no_grad():
        program.module.conv.bias[0] = torch.nan


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(wrong, "differs from torch's by"), (broken, "TypeError"), (wide, "torch.float64"), (nan, "differs")],
    ids=["wrong", "broken", "another-dtype", "nan"],
)
def test_program_that_is_not_the_network_is_left_for_torch_with_one_warning(
    spoil: Callable[[CopiedProgram], None], why: str
) -> None:
    engine = on_backend(small_engine(), Copying(spoil))
    with pytest.warns(BackendWarning, match=f"^copying: .*{why}.*; torch runs the network") as told:
        found = images(engine)
    assert len(told) == 1
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = images(engine)
    assert torch.equal(found, images(small_engine()))
    assert torch.equal(found, again)
    assert engine.stats()["backend"]["name"] == "torch"
    assert why in calls_of(engine)[0]["why"]


def test_program_that_fails_later_is_left_for_torch_with_one_warning() -> None:
    def fail(program: CopiedProgram) -> None:
        own = program.module.forward

        def forward(*arguments: Any, **options: Any) -> Tensor:
            if program.calls == 3:
                raise RuntimeError("the device is gone")
            return own(*arguments, **options)

        program.module.forward = forward

    engine = on_backend(small_engine(PureNet()), Copying(fail))
    with pytest.warns(BackendWarning, match="^copying: RuntimeError: the device is gone; torch") as told:
        found = images(engine)
    assert len(told) == 1
    assert torch.equal(found, images(small_engine()))
    assert torch.equal(found, images(engine))
    [about] = calls_of(engine)
    assert (about["backend"], about["why"]) == ("torch", "RuntimeError: the device is gone")


class Raising(SmallNet):
    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        raise ZeroDivisionError("of the module's own")


class Bare(SmallNet):
    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Any:
        return {"prediction": super().forward(x, t, labels)}


class Narrow(SmallNet):
    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(x, t, labels)[:, :1]


@pytest.mark.parametrize(
    ("net", "error", "match"),
    [
        (Raising(), ZeroDivisionError, "of the module's own"),
        (Bare(), ArgumentError, "denoiser: got an answer of dict"),
        (Narrow(), ArgumentError, r"denoiser: got an answer of shape \[2, 1, 8, 8\]"),
    ],
    ids=["raises", "no-tensor", "another-shape"],
)
def test_what_a_module_does_wrong_its_caller_is_told_as_without_a_backend(
    net: nn.Module, error: type[Exception], match: str
) -> None:
    for engine in (small_engine(net), copying_engine(net)[0]):
        with warnings.catch_warnings(), pytest.raises(error, match=match):
            warnings.simplefilter("error")
            images(engine)


class Sampled(PureNet):
    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Any:
        return super().forward(x, t, labels), "beside"


def test_answer_may_be_the_first_of_a_tuple() -> None:
    engine, _ = copying_engine(Sampled())
    assert torch.equal(images(engine), images(small_engine()))
    assert engine.stats()["backend"]["name"] == "copying"


class Writing(PureNet):
    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(x.mul_(0.5), t, labels)


def test_module_may_write_into_its_input() -> None:
    assert torch.equal(images(copying_engine(Writing())[0]), images(small_engine(Writing())))


class Silent(PureNet):
    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(x, t, labels) * float("nan")


def test_network_that_answers_nan_alone_is_torchs_until_it_answers_something() -> None:
    engine, backend = copying_engine(Silent())
    assert images(engine).isnan().all()
    assert not backend.made


class Noting(PureNet):
    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.last = x
        return super().forward(x, t, labels)


class Caching(PureNet):
    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        if not hasattr(self, "scale"):
            self.scale = torch.tensor(0.5)
        return super().forward(x * self.scale, t, labels)


def test_network_that_changes_when_it_is_called_is_torchs() -> None:
    engine, _ = copying_engine(Noting())
    with pytest.warns(BackendWarning, match="changes its own attributes or buffers"):
        assert torch.equal(images(engine), images(small_engine()))
    assert isinstance(engine.module.last, Tensor)


def test_network_may_keep_what_its_first_call_makes() -> None:
    engine, backend = copying_engine(Caching())
    assert torch.equal(images(engine), images(small_engine(Caching())))
    images(engine)
    assert len(backend.made) == 1


def test_first_check_holds_under_inference_mode_and_autocast_is_torchs() -> None:
    engine, backend = copying_engine(PureNet())
    with torch.inference_mode():
        found = images(engine)
    assert torch.equal(found, images(engine))
    assert len(backend.made) == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(images(engine), images(small_engine(PureNet())))


def test_another_number_of_threads_makes_programs_anew() -> None:
    engine, backend = copying_engine()
    threads = torch.get_num_threads()
    images(engine)
    try:
        torch.set_num_threads(threads + 1)
        images(engine)
    finally:
        torch.set_num_threads(threads)
    assert len(backend.made) == 2


def test_what_torchs_way_takes_to_make_is_counted_where_it_stands_in() -> None:
    class Never(Copying):
        def make(self, *_: Any) -> CopiedProgram:
            raise UnreadyError("never")

    net = PureNet()
    torchs = Network(net, Copying(), torch.float32, only_if_faster=False)
    network = Network(net, Never(), torch.float32, only_if_faster=False, otherwise=torchs)
    with pytest.warns(BackendWarning, match="never"), torch.no_grad():
        network(torch.randn(1, *SHAPE), torch.ones(1))
    assert network.making > torchs.making > 0


def test_threads_of_other_numbers_take_turns_with_programs_of_their_own() -> None:
    """What torch has been told counts for the thread that said it, and for those that come later."""
    engine, backend = copying_engine()
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(torch.get_num_threads).result()
        try:
            torch.set_num_threads(threads + 1)
            assert pool.submit(torch.get_num_threads).result() == threads
            found = [image for _ in range(3) for image in (images(engine), pool.submit(images, engine).result())]
            assert len(backend.made) == 2
            engine.module.get_parameter("conv.weight").data.mul_(2)
            changed = [images(engine), pool.submit(images, engine).result()]
        finally:
            torch.set_num_threads(threads)
    assert all(torch.equal(image, found[0]) for image in found)
    assert torch.equal(*changed)
    assert not torch.equal(changed[0], found[0])
    assert (len(backend.made), engine.stats()["backend"]["changes"]) == (4, 1)


def test_only_the_faster_is_kept() -> None:
    def slow(program: CopiedProgram) -> None:
        own = program.module.forward

        def forward(*arguments: Any, **options: Any) -> Tensor:
            for _ in range(50):
                own(*arguments, **options)
            return own(*arguments, **options)

        program.module.forward = forward

    engine = on_backend(small_engine(), Copying(slow), only_if_faster=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images(engine)
    [about] = calls_of(engine)
    assert about["backend"] == "torch"
    assert about["milliseconds"] > about["torch_milliseconds"]


def test_module_called_by_hand_is_torchs() -> None:
    engine, backend = copying_engine()
    engine.module(torch.randn(1, 3, 8, 8), torch.ones(1))
    assert not backend.made


SOME = torch.tensor([[1.0, 2.0], [0.0, -1.0]])


@pytest.mark.parametrize(
    ("answer", "expected", "found"),
    [
        (SOME * 1.5, SOME, 0.5),
        (SOME[:1], SOME, float("inf")),
        (SOME * float("nan"), SOME, float("inf")),
        (SOME, SOME.clone().index_fill_(0, torch.tensor(0), float("nan")), float("inf")),
        (SOME / 0, SOME / 0, 0.0),
        (-SOME / 0, SOME / 0, float("inf")),
        (0 * SOME, 0 * SOME, 0.0),
    ],
    ids=["half-more", "another-shape", "nan", "nan-expected", "the-same-not-finite", "another-infinity", "zeros"],
)
def test_distance(answer: Tensor, expected: Tensor, found: float) -> None:
    assert distance(answer, expected, SOME) == pytest.approx(found)


def test_rounding_of_an_answer_that_is_next_to_nothing_is_no_error() -> None:
    x, tiny = torch.randn(2, 3, 4, 4), 1e-12
    zero = torch.zeros_like(x)
    assert distance(zero + tiny, zero, x) < 1e-6
    assert distance(zero + 1e-3, zero, x) > 0.1
