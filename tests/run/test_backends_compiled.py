"""torch.compile as a backend: one graph for each kind of call, or torch with the reason."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep import Engine
from fewstep.errors import BackendWarning
from fewstep.run.backends.compiled import Compiled
from support.backends import on_backend
from support.small import PureNet, SmallNet, small_engine
from support.unet_case import CONFIGS, arguments, random_unet

REQUEST: dict[str, Any] = {"labels": [1, 2], "seeds": 0, "steps": 3}


class Branching(PureNet):
    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        answer = super().forward(x, t, labels)
        return -answer if t.mean() > 300 else answer


def compiled(net: nn.Module, compiler: str = "aot_eager", **options: Any) -> Engine:
    return on_backend(small_engine(net, **options), Compiled(compiler))


def test_more_kinds_of_call_are_compiled_than_torch_allows_for_one_function() -> None:
    engine = compiled(PureNet(), "eager")
    for count in range(1, 11):
        images = engine.sample(count, seeds=0, steps=2).images
        assert torch.equal(images, small_engine(PureNet()).sample(count, seeds=0, steps=2).images)
    assert [call["backend"] for call in engine.stats()["backend"]["calls"]] == ["compile"] * 10


def test_request_under_inference_mode_is_the_same() -> None:
    engine = compiled(PureNet())
    found = engine.sample(**REQUEST).images
    with torch.inference_mode():
        again = engine.sample(**REQUEST).images
    assert torch.equal(found, again)
    assert engine.stats()["backend"]["name"] == "compile"


@pytest.mark.parametrize(
    ("net", "why"),
    [(Branching(), "torch.compile: "), (SmallNet(), "compile the network at every call, since that changes itself")],
    ids=["graph-break", "notes-its-calls"],
)
def test_network_that_is_no_one_graph_is_torchs(net: nn.Module, why: str) -> None:
    with pytest.warns(BackendWarning, match=f"^compile: .*{why}.*; torch runs the network") as told:
        found = compiled(net).sample(**REQUEST).images
    assert len(told) == 1
    assert torch.equal(found, small_engine(net).sample(**REQUEST).images)


def test_our_ops_are_their_definition_there() -> None:
    """A compiler for a CPU sees torch's ops alone, which it can fuse."""
    seen: list[str] = []

    def compiler(graph: Any, inputs: Any, **_: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    config = CONFIGS["classes"]
    unet, given = random_unet(config), arguments(config)
    call = torch.compile(lambda **inputs: unet(**inputs), backend=compiler, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(call(**given), unet(**given), rtol=1e-5, atol=1e-5)
    assert seen
    assert not [name for name in seen if "fewstep" in name]


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_unet_is_the_module_within_the_bound(dtype: torch.dtype) -> None:
    config = CONFIGS["no-labels"]
    options: dict[str, Any] = {"shape": (2, 8, 12), "conditions": None, "dtype": dtype, "defaults": {"steps": 2}}
    engine = Engine(small_engine(random_unet(config), **options).model, backend="compile", dtype=dtype)
    engine.sample(2, seeds=0)
    [call] = engine.stats()["backend"]["calls"]
    print(f"{dtype}: {call['error']:.1e} of {call['bound']:.0e}, ready after {call['compile_seconds']:.0f} s")
    assert call["backend"] == "compile"


@pytest.mark.long
def test_without_a_compiler_for_cpp_torch_runs_and_says_why(tmp_path: Path) -> None:
    code = (
        "from test_backends_compiled import *\n"
        "with pytest.warns(BackendWarning, match='InvalidCxxCompiler'):\n"
        "    Engine(small_engine(PureNet()).model, backend='compile').sample(**REQUEST)\n"
    )
    here = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (here / "run", here, here.parent / "engine", here.parent / "kernels")))
    environment = os.environ | {"PYTHONPATH": path, "PATH": str(tmp_path), "CXX": str(tmp_path / "no-such-compiler")}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "cache")
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)
