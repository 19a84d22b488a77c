"""Seeded inputs for each probe of sm_90's instructions, and what runs them: the emulator, or a GPU."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from support.simulation import builder
from support.tree import ROOT, load

SEED = 0
ROW = 128  # bytes of a row of a box


class BoxCase(NamedTuple):
    """A box of a tensor of 16-bit elements: sizes of 4 dims, where the dims lie, the box's sizes and its corner."""

    name: str
    sizes: tuple[int, int, int, int]
    order: tuple[int, int, int]  # of dims 1 to 3 in memory, the nearest first
    rows: tuple[int, int, int]  # the box's sizes in dims 1 to 3; 64 in dim 0
    corner: tuple[int, int, int, int]
    padding: int = 0  # elements between what dim 0 needs and the next row

    @property
    def strides(self) -> tuple[int, int, int]:
        """Elements, of dims 1 to 3."""
        found, step = [0, 0, 0], -(-(self.sizes[0] + self.padding) // 8) * 8
        for dim in self.order:
            found[dim - 1], step = step, step * self.sizes[dim]
        return found[0], found[1], found[2]

    @property
    def elements(self) -> int:
        """Of the memory that the tensor spans."""
        return -(-(self.sizes[0] + self.padding) // 8) * 8 * self.sizes[1] * self.sizes[2] * self.sizes[3]

    @property
    def box_bytes(self) -> int:
        """In shared memory."""
        return ROW * self.rows[0] * self.rows[1] * self.rows[2]

    def arguments(self) -> tuple[list[int], list[int], list[int]]:
        """Sizes, strides in bytes and box, as the module takes them."""
        return list(self.sizes), [2 * each for each in self.strides], [64, *self.rows]


BOXES = (
    BoxCase("whole", (64, 16, 1, 1), (1, 2, 3), (16, 1, 1), (0, 0, 0, 0)),
    BoxCase("40 columns, rows beyond the end", (40, 13, 2, 2), (1, 2, 3), (16, 1, 1), (0, 3, 1, 1)),
    BoxCase("heads within rows", (80, 20, 3, 2), (2, 1, 3), (8, 1, 1), (64, 8, 2, 1)),
    BoxCase("padded rows", (64, 9, 2, 1), (1, 2, 3), (8, 2, 1), (0, 0, 0, 0), padding=16),
    BoxCase("before the start", (72, 6, 3, 2), (1, 2, 3), (8, 2, 2), (-8, -3, -1, -1)),
    BoxCase("an odd corner", (77, 24, 1, 1), (1, 2, 3), (24, 1, 1), (13, 1, 0, 0), padding=3),
    BoxCase("all outside", (64, 8, 1, 1), (1, 2, 3), (8, 1, 1), (0, 8, 0, 0)),
)


class Product(NamedTuple):
    """d (+)= a b by one wgmma, of operands in an image of shared memory; offsets in bytes."""

    name: str
    registers: bool  # a in registers and b with its columns along the rows; else both with their depth along them
    columns: int
    a: int = 0
    a_stride: int = 1024
    a_move: int = 0
    b: int = 8192
    b_leading: int = 0
    b_stride: int = 1024
    b_move: int = 0
    accumulate: bool = True

    @property
    def image_bytes(self) -> int:
        """Of shared memory: all that the product reads, and more."""
        return self.b + (65536 if self.columns == 256 else 40960)

    def operands(self) -> list[int]:
        """As the module takes them."""
        return [self.a, self.a_stride, self.a_move, self.b, self.b_leading, self.b_stride, self.b_move]


def _products() -> Iterator[Product]:
    for columns in (32, 40, 48, 64, 80, 96, 128, 144, 160, 176, 192, 256):  # all that there are
        yield Product(f"depth along rows, {columns}", False, columns, accumulate=columns != 80)
        yield Product(f"columns along rows, {columns}", True, columns, b_leading=8192)
    for move in (32, 64, 96):
        yield Product(f"depth along rows, moved by {move}", False, 80, a_move=move, b_move=move)
    yield Product("depth along rows, other strides", False, 64, a_stride=2048, b=16384, b_stride=3072, b_move=32)
    yield Product("depth along rows, the next panel", False, 128, a=0, b=8192, b_move=16384 + 64)
    yield Product("columns along rows, the next 16 of depth", True, 128, b_leading=8192, b_move=2048)
    yield Product("columns along rows, other strides", True, 80, b_leading=4096, b_stride=2048, b_move=8192)


PRODUCTS = tuple(_products())
KINDS = {"half": torch.float16, "bfloat16": torch.bfloat16}


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(SEED + sum(name.encode()))


def box_data(case: BoxCase) -> Tensor:
    """The tensor's memory: int16, [elements]."""
    return torch.randint(-(2**15), 2**15, (case.elements,), generator=_generator(case.name), dtype=torch.int16)


def box_image(case: BoxCase) -> Tensor:
    """What shared memory holds before a store: int16, [box_bytes / 2]."""
    return torch.randint(
        -(2**15), 2**15, (case.box_bytes // 2,), generator=_generator(case.name + "!"), dtype=torch.int16
    )


def product_image(case: Product, dtype: torch.dtype) -> Tensor:
    """Small integers, so that every order of adding gives the same bits: [image_bytes / 2]."""
    return torch.randint(-8, 9, (case.image_bytes // 2,), generator=_generator(case.name)).to(dtype)


def matrix_image(count: int) -> Tensor:
    """128 fragments of 4 words, 128 rows of 16 bytes that each is written to, zeros: int32, [2048]."""
    generator = _generator(f"stmatrix {count}")
    fragments = torch.randint(-(2**31), 2**31, (128, 4), generator=generator, dtype=torch.int64).to(torch.int32)
    rows = torch.zeros(128, 4, dtype=torch.int32)
    for warp in range(4):  # each warp owns 64 places of 16 bytes, and uses some
        rows[32 * warp : 32 * warp + 32, 0] = 64 * warp + torch.randperm(64, generator=generator)[:32].int()
    return torch.cat([fragments.flatten(), rows.flatten(), torch.zeros(4 * 256, dtype=torch.int32)])


def pipeline_operands(keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """q [128, 64], k and v [keys, 64]: of -1, 0 and 1, so that every order of adding gives the same bits."""
    generator = _generator(f"pipeline {keys}")
    q, k, v = (torch.randint(-1, 2, (rows, 64), generator=generator).bfloat16() for rows in (128, keys, keys))
    return q, k, v


class Probes:
    """The module of tests/csrc/sm90_probes.cpp, on tensors of one device."""

    def __init__(self, module: Any, device: str = "cpu", seed: int = 0) -> None:
        self.module, self.device, self.seed = module, device, seed

    def load(self, case: BoxCase) -> Tensor:
        """The bytes in shared memory: int16."""
        data, out = box_data(case).to(self.device), torch.zeros(case.box_bytes // 2, dtype=torch.int16).to(self.device)
        sizes, strides, box = case.arguments()
        self.module.load(data.data_ptr(), sizes, strides, box, list(case.corner), out.data_ptr(), self.seed)
        return out.cpu()

    def store(self, case: BoxCase) -> Tensor:
        """The tensor's memory, of which a box was overwritten: int16."""
        image, data = box_image(case).to(self.device), box_data(case).to(self.device)
        sizes, strides, box = case.arguments()
        self.module.store(image.data_ptr(), data.data_ptr(), sizes, strides, box, list(case.corner), self.seed)
        return data.cpu()

    def multiply(self, case: Product, kind: str) -> Tensor:
        """Accumulators, [128 threads, tiles, 4]."""
        image = product_image(case, KINDS[kind]).to(self.device)
        out = torch.full((128, case.columns // 8, 4), torch.nan).to(self.device)
        given = (case.registers, kind == "half", case.columns, image.data_ptr(), case.image_bytes, case.operands())
        self.module.multiply(*given, case.accumulate, out.data_ptr(), self.seed)
        return out.cpu()

    def matrices(self, count: int) -> Tensor:
        """256 rows of 16 bytes: int32, [256, 4]."""
        image, out = matrix_image(count).to(self.device), torch.zeros(256, 4, dtype=torch.int32).to(self.device)
        self.module.matrices(count, image.data_ptr(), 4 * image.numel(), out.data_ptr(), self.seed)
        return out.cpu()

    def pipeline(self, keys: int, bug: int = 0) -> tuple[Tensor, dict[str, int]]:
        """What the pipeline gives, [128, 64], and what it did; 0 is no bug."""
        q, k, v = (each.to(self.device) for each in pipeline_operands(keys))
        out = torch.full((128, 64), torch.nan, dtype=torch.bfloat16).to(self.device)
        did = self.module.pipeline(*(each.data_ptr() for each in (q, k, v, out)), keys, bug, self.seed)
        return out.cpu(), did

    def pipeline_bits(self, keys: int) -> Tensor:
        """What it gives, in a dtype that numpy has."""
        return self.pipeline(keys)[0].view(torch.int16)


def answers(probes: Probes) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Every probe by name, and what it answers."""
    for case in BOXES:
        yield f"load: {case.name}", functools.partial(probes.load, case)
        yield f"store: {case.name}", functools.partial(probes.store, case)
    for product in PRODUCTS:
        for kind in KINDS:
            yield f"wgmma {kind}: {product.name}", functools.partial(probes.multiply, product, kind)
    for count in (2, 4):
        yield f"stmatrix x{count}", functools.partial(probes.matrices, count)
    for keys in (64, 640, 600):
        yield f"pipeline: {keys} keys", functools.partial(probes.pipeline_bits, keys)


@functools.cache
def probes(seed: int = 0) -> Probes:
    """The probes in the emulator."""
    source = ROOT / "tests" / "csrc" / "sm90_probes.cpp"
    return Probes(load("sm90_probes", builder().build_kernels(ROOT / "build" / "sim", source)), seed=seed)
