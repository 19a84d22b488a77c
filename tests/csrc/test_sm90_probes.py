"""What each instruction of sm_90 does to bytes: in the emulator, by the PTX manual's tables, and on a GPU."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support import sm90_cases as cases
from support.sm90_cases import BOXES, KINDS, PRODUCTS, BoxCase, Product, probes
from support.tree import ROOT

pytestmark = pytest.mark.slow

GOLDEN = ROOT / "tests" / "data" / "sm90_golden.npz"


def places(case: BoxCase) -> NDArray[np.int64]:
    """Which element of memory each element of the box is, -1 outside of the tensor: [rows, 64]."""
    grids = np.meshgrid(*(np.arange(size) for size in (*case.rows[::-1], 64)), indexing="ij")
    at = [grid + first for grid, first in zip(grids[::-1], case.corner, strict=True)]
    inside = np.all([(each >= 0) & (each < size) for each, size in zip(at, case.sizes, strict=True)], axis=0)
    offset = at[0] + sum(each * stride for each, stride in zip(at[1:], case.strides, strict=True))
    found: NDArray[np.int64] = np.where(inside, offset, -1).reshape(-1, 64)
    return found


def swizzled(rows: NDArray[np.int16]) -> NDArray[np.int16]:
    """CUDA driver API, CU_TENSOR_MAP_SWIZZLE_128B: 16-byte chunk c of row r of 128 bytes lies at c xor r % 8."""
    chunks, out = rows.reshape(-1, 8, 8), np.empty_like(rows).reshape(-1, 8, 8)
    for row in range(len(chunks)):
        for chunk in range(8):
            out[row, chunk ^ row % 8] = chunks[row, chunk]
    return out.reshape(rows.shape)


@pytest.mark.parametrize("case", BOXES, ids=lambda case: case.name)
def test_a_box_lands_swizzled_with_zeros_where_there_is_no_tensor(case: BoxCase) -> None:
    at, data = places(case), cases.box_data(case).numpy()
    expected = swizzled(np.where(at >= 0, data[at], 0).astype(np.int16))
    for seed in range(5):
        assert (probes(seed).load(case).numpy().reshape(-1, 64) == expected).all()


@pytest.mark.parametrize("case", BOXES, ids=lambda case: case.name)
def test_a_box_is_stored_where_there_is_a_tensor_and_nowhere_else(case: BoxCase) -> None:
    at, expected = places(case), cases.box_data(case).numpy().copy()
    box = swizzled(cases.box_image(case).numpy().reshape(-1, 64))  # its own inverse
    expected[at[at >= 0]] = box[at >= 0]
    assert (probes().store(case).numpy() == expected).all()


def element(image: torch.Tensor, byte: NDArray[np.int64]) -> NDArray[np.float64]:
    """What lies at these bytes of rows of 128, whose chunks are swizzled by the address."""
    row, within = byte // 128, byte % 128
    found: NDArray[np.float64] = image.double().numpy()[
        (row * 128 + ((within // 16) ^ row % 8) * 16 + within % 16) // 2
    ]
    return found


def product(case: Product, image: torch.Tensor) -> NDArray[np.float64]:
    """d of PTX ISA's canonical layouts for the 128-byte swizzle, [64, columns]; it begins as ones."""
    rows, depth, columns = np.arange(64)[:, None], np.arange(16), np.arange(case.columns)
    b = case.b + case.b_move
    if case.registers:
        fragments = image[:1024].double().numpy().reshape(4, 8, 4, 4, 2)  # warp, lane / 4, lane % 4, register, half
        a = np.empty((4, 2, 8, 2, 4, 2))  # warp, upper or lower 8 rows, row, left or right 8 of depth, pair, half
        for register in range(4):
            a[:, register % 2, :, register // 2] = fragments[:, :, :, register]
        left = a.reshape(64, 16)
        k, n = depth[:, None], columns
        at = b + n // 64 * case.b_leading + k // 8 * case.b_stride + k % 8 * 128 + 2 * (n % 64)
        right = element(image, at)
    else:
        left = element(image, case.a + case.a_move + rows // 8 * case.a_stride + rows % 8 * 128 + 2 * depth)
        n = columns[:, None]
        right = element(image, b + n // 8 * case.b_stride + n % 8 * 128 + 2 * depth).T
    found: NDArray[np.float64] = left @ right + (1 if case.registers or case.accumulate else 0)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", PRODUCTS, ids=lambda case: case.name)
def test_wgmma_is_the_product_of_what_its_descriptors_name(case: Product, kind: str) -> None:
    expected = product(case, cases.product_image(case, KINDS[kind]))
    found = probes().multiply(case, kind).numpy()
    for thread in range(128):
        for i in range(4):
            row, column = thread // 32 * 16 + thread % 32 // 4 + 8 * (i // 2), 2 * (thread % 4) + i % 2
            assert (found[thread, :, i] == expected[row, column::8]).all()


@pytest.mark.parametrize("count", [2, 4])
def test_stmatrix_puts_each_row_where_its_lane_says(count: int) -> None:
    """PTX ISA, "stmatrix": lane l holds of each matrix row l / 4, elements 2 (l % 4) and the next."""
    image = cases.matrix_image(count).numpy()
    fragments, rows = image[:512].reshape(4, 32, 4), image[512:1024].reshape(4, 32, 4)[:, :, 0]
    expected = np.zeros((256, 4), dtype=np.int32)
    for warp in range(4):
        for matrix in range(count):
            for row in range(8):
                expected[rows[warp, 8 * matrix + row]] = fragments[warp, 4 * row : 4 * row + 4, matrix]
    assert (probes().matrices(count).numpy() == expected).all()


def differences(known: Mapping[str, NDArray[Any]]) -> list[str]:
    """The probes whose answers are not those of the emulator, bit by bit, or that only one of the two knows."""
    found = {name: answer().numpy() for name, answer in cases.answers(probes())}
    same = {name for name, given in found.items() if name in known and given.tobytes() == known[name].tobytes()}
    return sorted({*found, *known} - same)


def test_a_gpu_gives_the_same_bytes() -> None:
    if not GOLDEN.exists():
        pytest.skip(f"not run: no GPU of sm_90 has written {GOLDEN.relative_to(ROOT)} yet")
    assert not differences(np.load(GOLDEN))


@pytest.mark.long
def test_the_script_for_a_gpu_walks_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "golden.py"), "--dry-run", "--out", str(tmp_path / "golden")]
    paths = os.pathsep.join(str(ROOT / each) for each in ("engine", "kernels"))
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    known = dict(np.load(tmp_path / "golden.npz"))
    assert not differences(known)
    assert json.loads((tmp_path / "golden.json").read_text())["checks"] == {"passed": len(known), "failed": 0}
    known["stmatrix x4"][7] ^= 1
    del known["stmatrix x2"]
    assert differences(known) == ["stmatrix x2", "stmatrix x4"]
