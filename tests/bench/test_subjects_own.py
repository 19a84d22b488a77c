"""A caller's own network, by a file and a function or in this process: it is taken, or told what it lacks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep import Engine, Model, schedules
from fewstep.bench.subjects import Subject, open_subject, own_subject
from fewstep.bench.subjects.subject import OWN
from fewstep.errors import ArgumentError, ModelError
from fewstep.models.layouts.diffusers_condition import config_from_diffusers_condition
from fewstep.request.conditions import Prompts
from support.unet_case import random_unet

FILE = """
import torch
from torch import nn
import beside
import fewstep

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, t):
        return self.conv(x) * beside.SCALE

def make_module(): return Small()
def make_model(): return fewstep.Model(Small(), schedule=fewstep.schedules.linear(), shape=(3, 8, 8))
def make_engine(): return fewstep.Engine(make_model(), max_batch=3, device="cpu")
def make_nothing(): return {"a": 1}
def broken(): raise RuntimeError("no weights here")
"""
SAID: dict[str, Any] = {"shape": [3, 8, 8], "schedule": "linear"}


class Steered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor, t: Tensor, seen: Tensor, y: Tensor | None = None) -> Tensor:
        m = x * self.weight * (1 + seen.mean(1))[:, None, None, None]
        return m if y is None else m * (1 + y.to(m))[:, None, None, None]


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "my_file.py").write_text(FILE)
    (tmp_path / "beside.py").write_text("SCALE = 0.5\n")
    return str(tmp_path / "my_file.py")


def drawn(subject: Subject, n: int = 2) -> Tensor:
    return subject.engine.sample(n, steps=2, sampler="ddim", seeds=0, **subject.asked(n)).images


@pytest.mark.parametrize(("function", "said"), [("make_module", SAID), ("make_model", None), ("make_engine", None)])
def test_what_a_function_of_a_file_returns_is_opened(file: str, function: str, said: dict[str, Any] | None) -> None:
    subject = open_subject(f"{file}:{function}", own=said)
    assert drawn(subject).isfinite().all()
    assert subject.weights == OWN
    assert subject.title == f"{file}:{function}, Small, its own weights"
    assert subject.source == {"name": f"{file}:{function}"} | ({"own": said} if said else {})
    assert subject.engine.max_batch == (3 if function == "make_engine" else 16)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{file}:nothing", "has no function 'nothing'; it has: Small, make_module, make_model, make_engine"),
        ("{file}", "names no function in it, as my_file.py:make_model; it has: Small"),
        ("{file}:broken", "broken: raised RuntimeError: no weights here"),
        ("gone.py:make_model", "gone.py: no such file"),
        (
            "{file}:make_module",
            r"shape: got None; allowed: \(channels, height, width\) of one sample, for a torch",
        ),
        ("{file}:make_nothing", "make_nothing: got a dict; allowed: a function that returns a fewstep.Engine"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(file: str, name: str, message: str) -> None:
    with pytest.raises((ArgumentError, ModelError), match=message):
        open_subject(name.format(file=file))


def test_a_file_that_is_no_python_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def make(:\n")
    with pytest.raises(ModelError, match=r"bad.py: cannot be imported: SyntaxError"):
        open_subject(f"{tmp_path / 'bad.py'}:make")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"schedule": "linear"}, "shape: got None"),
        ({"shape": (3, 8, 8)}, "schedule: got None; allowed: the schedule it was trained on, such as 'linear'"),
        ({**SAID, "schedule": "lineal"}, "schedule name: got 'lineal'; allowed: linear"),
        (SAID, r"condition: got no 'seen'; allowed: all that the network's call requires: condition=\{'seen'"),
        ({**SAID, "condition": {"seen": (4,), "other": (4,)}}, "condition: got 'other'"),
        ({**SAID, "condition": {"seen": "four"}}, r"condition\['seen'\]: got 'four'; allowed: a tensor of one sample"),
        ({**SAID, "color": 3}, "color"),
    ],
)
def test_what_a_module_lacks_is_named(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        own_subject(Steered(), **said)


def test_a_module_takes_a_condition_and_labels() -> None:
    schedule = schedules.cosine()
    given = torch.arange(4.0)
    subject = own_subject(Steered(), shape=(3, 8, 8), schedule=schedule, labels=5, condition={"seen": given})
    assert subject.inputs(3)["y"].tolist() == [0, 1, 2]
    assert torch.equal(subject.inputs(3)["seen"][2], given)
    assert subject.source == {}
    assert drawn(subject).isfinite().all()
    random = own_subject(Steered(), shape=(3, 8, 8), schedule=schedule, condition={"seen": (4,)})
    assert random.condition["seen"].shape == (4,)


def test_what_says_itself_is_not_told() -> None:
    model = Model(Steered(), schedule=schedules.linear(), shape=(3, 8, 8))
    for network in (model, Engine(model, device="cpu")):
        with pytest.raises(ArgumentError, match="shape: got"):
            own_subject(network, shape=(3, 4, 4), condition={"seen": (4,)})
        assert drawn(own_subject(network, condition={"seen": (4,)})).isfinite().all()
    subject = own_subject(model, condition={"seen": (4,)})
    assert own_subject(subject) is subject
    with pytest.raises(ArgumentError, match="network: got a dict"):
        own_subject({})


def test_a_text_is_given_as_random_embeddings_and_nothing_is_decoded() -> None:
    from fewstep.bench.subjects.latents import SD15, TINY

    data = {"_class_name": "UNet2DConditionModel", **SD15, **TINY, "sample_size": 4}
    unet = random_unet(config_from_diffusers_condition(data, "test"))
    prompts = Prompts(lambda text, negative: {}, 24)
    known: dict[str, Any] = {"conditions": prompts, "decoder": nn.Conv2d(4, 3, 1)}
    subject = own_subject(Model(unet, schedule=schedules.scaled_linear(), shape=(4, 4, 4), **known))
    assert subject.condition["context"].shape == (77, 24)
    assert drawn(subject).shape == (2, 4, 4, 4)


def test_an_engine_in_bfloat16_is_judged_in_float32() -> None:
    model = Model(Steered(), schedule=schedules.linear(), shape=(3, 8, 8))
    engine = Engine(model, device="cpu", dtype=torch.bfloat16)
    assert own_subject(engine, condition={"seen": (4,)}).engine.dtype == torch.float32
