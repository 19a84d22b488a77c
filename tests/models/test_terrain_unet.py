"""The terrain model, converted, against its ONNX in onnxruntime."""

import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch

from fewstep import Engine
from fewstep.diffusion.samplers import make_plan
from fewstep.diffusion.schedules import from_config
from fewstep.errors import ModelError, OutputError
from fewstep.models.layouts.terrain import convert_terrain
from fewstep.models.load import load_model
from fewstep.models.net.unet import UNet, count_parameters
from fewstep.models.spec import ModelSpec

ONNX = "terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx"
SIGMAS = np.array([80.0, 1.5, 0.01], dtype=np.float32)
DIFFICULTIES = np.array([1.0, 60.0, 100.0], dtype=np.float32)


@pytest.fixture(scope="module")
def onnx_path() -> Path:
    try:
        return Path(str(distribution("adaptive-terrain-diffusion").locate_file(ONNX)))
    except PackageNotFoundError:
        pytest.fail("these tests need the terrain model: pip install --no-deps adaptive-terrain-diffusion==0.4.2")


@pytest.fixture(scope="module")
def noisy() -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(0).standard_normal((3, 1, 128, 128), dtype=np.float32)
    image = np.linspace(-1, 1, 128, dtype=np.float32)[None, None, None]
    return noise * SIGMAS[:, None, None, None] + image


@pytest.fixture(scope="module")
def graph(onnx_path: Path, noisy: npt.NDArray[np.float32]) -> dict[str, torch.Tensor]:
    """What the graph computes: the U-Net's input, time and raw output, and the denoised image."""
    model = onnx.load(onnx_path)
    producers = {name: node for node in model.graph.node for name in node.output}
    consumer = {name: node for node in model.graph.node for name in node.input}
    log = next(node for node in producers.values() if node.op_type == "Log")
    names = {
        "x": consumer["network.input_blocks.0.0.weight"].input[0],
        "t": consumer[log.output[0]].output[0],
        "raw": consumer["network.out.2.weight"].output[0],
        "denoised": "denoised",
    }
    for name in ("x", "t", "raw"):
        model.graph.output.append(onnx.helper.make_tensor_value_info(names[name], onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"noisy": noisy, "sigma": SIGMAS, "difficulty": (DIFFICULTIES - 1) / 99}
    return dict(zip(names, map(torch.from_numpy, session.run(list(names.values()), feeds)), strict=True))


@pytest.fixture(scope="module")
def converted(onnx_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[UNet, ModelSpec]:
    folder = tmp_path_factory.mktemp("models") / "terrain"
    convert_terrain(None, folder)
    return load_model(folder)


@pytest.mark.slow
def test_the_u_net_equals_onnxruntime(converted: tuple[UNet, ModelSpec], graph: dict[str, torch.Tensor]) -> None:
    unet, _ = converted
    with torch.no_grad():
        raw = unet(graph["x"], graph["t"], torch.from_numpy(DIFFICULTIES))
    assert count_parameters(unet) == 10_456_545
    assert graph["raw"].std() > 0.1
    assert (raw - graph["raw"]).abs().max() <= 1e-4


@pytest.mark.slow
def test_its_plan_denoises_as_onnxruntime(
    converted: tuple[UNet, ModelSpec], noisy: npt.NDArray[np.float32], graph: dict[str, torch.Tensor]
) -> None:
    unet, spec = converted
    schedule = from_config(spec.schedule)
    plan = make_plan(schedule=schedule, prediction=spec.prediction, **spec.plan)
    row = {name: float(plan.column(name)[0]) for name in ("t", "c_in", "k_x", "k_m", "clip")}
    assert plan.init_scale == pytest.approx(80.0)
    x = torch.from_numpy(noisy[:1])
    with torch.no_grad():
        m = unet(row["c_in"] * x, torch.tensor([row["t"]]), torch.from_numpy(DIFFICULTIES[:1]))
    x_0 = (row["k_x"] * x + row["k_m"] * m).clamp(-row["clip"], row["clip"])
    assert (x_0 - graph["denoised"][:1]).abs().max() <= 1e-4


@pytest.mark.slow
def test_the_engine_equals_onnxruntime(onnx_path: Path, tmp_path: Path) -> None:
    """The main job end to end: one noise, three difficulties, through `Engine.sample` and the package's own graph."""
    convert_terrain(None, tmp_path / "terrain")
    z = torch.randn(3, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    engine = Engine.from_pretrained(tmp_path / "terrain")
    ours = engine.sample(labels=DIFFICULTIES.tolist(), noise=z).images
    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    feeds = {"noisy": 80 * z.numpy(), "sigma": np.full(3, 80, np.float32), "difficulty": (DIFFICULTIES - 1) / 99}
    theirs = torch.from_numpy(session.run(["denoised"], feeds)[0])
    difference = float((ours - theirs).abs().max())
    print(f"engine against onnxruntime: {difference:.1e}")
    assert difference <= 1e-4


def test_the_card_says_what_it_is(converted: tuple[UNet, ModelSpec]) -> None:
    _, spec = converted
    assert (spec.name, spec.family, spec.shape) == ("terrain", "adm", (1, 128, 128))
    assert spec.labels == {"kind": "continuous", "min": 1.0, "max": 100.0}
    assert "MIT" in spec.licence
    assert "adaptive-terrain-diffusion 0.4.2" in spec.source


def test_a_folder_in_use_is_not_overwritten(onnx_path: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="exists already"):
        convert_terrain(onnx_path, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_another_onnx_is_refused(onnx_path: Path, tmp_path: Path) -> None:
    model = onnx.load(onnx_path)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "network.out.2.weight")
    weight.dims[:] = [1, 16, 6, 3]
    onnx.save(model, tmp_path / "reshaped.onnx")
    with pytest.raises(ModelError, match=r"tensor 'out.2.weight' has shape \[1, 16, 6, 3\]; the config says"):
        convert_terrain(tmp_path / "reshaped.onnx", tmp_path / "out")
    weight.dims[:] = [1, 32, 3, 4]
    onnx.save(model, tmp_path / "short.onnx")
    with pytest.raises(ModelError, match=r"tensor 'network.out.2.weight' is not float32 stored whole in the file"):
        convert_terrain(tmp_path / "short.onnx", tmp_path / "out")
    (tmp_path / "noise.onnx").write_bytes(b"\xff" * 1000)
    with pytest.raises(ModelError, match=r"noise.onnx: is not an ONNX model"):
        convert_terrain(tmp_path / "noise.onnx", tmp_path / "out")
    with pytest.raises(ModelError, match="cannot be read: no such file"):
        convert_terrain(tmp_path / "missing.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_wheel_is_read_and_checked(onnx_path: Path, tmp_path: Path) -> None:
    for name, member in (("good.whl", ONNX), ("other.whl", "other.onnx")):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
            wheel.write(onnx_path, member)
    convert_terrain(tmp_path / "good.whl", tmp_path / "terrain")
    assert load_model(tmp_path / "terrain")[1].name == "terrain"
    with pytest.raises(ModelError, match=r"other.whl: has no terrain_diffusion/weights/"):
        convert_terrain(tmp_path / "other.whl", tmp_path / "out")
    content = (tmp_path / "good.whl").read_bytes()
    (tmp_path / "cut.whl").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"cut.whl: cannot be read"):
        convert_terrain(tmp_path / "cut.whl", tmp_path / "out")
    (tmp_path / "bent.whl").write_bytes(content[:9000] + bytes(1000) + content[10_000:])
    with pytest.raises(ModelError, match=r"bent.whl: cannot be read"):
        convert_terrain(tmp_path / "bent.whl", tmp_path / "out")


def test_without_the_onnx_library_one_line_says_what_to_install(
    onnx_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match=r"pip install 'fewstep\[convert\]'"):
        convert_terrain(onnx_path, tmp_path / "out")
