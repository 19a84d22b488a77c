"""What nvcc makes of loops is counted right, and is what the designs of attention are for."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.simulation import cuda_builder
from support.tree import ROOT, load

# A loop over keys with a rescaling that is branched around, inside one over queries, and a wait that comes back.
SASS = """
        /*0000*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], RZ, !UPT ;  /* 0x1 */
        /*0010*/                   FMNMX R1, R2, R3, !PT ;                                /* 0x1 */
        /*0020*/              @!P1 BRA 0x0e0 ;                                            /* 0x1 */
        /*0030*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;  /* 0x1 */
        /*0040*/                   HGMMA.64x32x16.F32.BF16 R88, R96, gdesc[UR4].tnspB, R88, gsb0 ;  /* 0x1 */
        /*0050*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;                        /* 0x1 */
        /*0060*/                   MUFU.EX2 R4, R4 ;                                      /* 0x1 */
        /*0070*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;                        /* 0x1 */
        /*0080*/              @!P2 BRA 0x0a0 ;                                            /* 0x1 */
        /*0090*/                   FMUL R88, R88, R5 ;                                    /* 0x1 */
        /*00a0*/                   F2FP.BF16.F32.PACK_AB R96, R4, R4 ;                    /* 0x1 */
        /*00b0*/               @P3 BRA 0x030 ;                                            /* 0x1 */
        /*00c0*/                   HGMMA.64x32x16.F32.BF16 R88, R96, gdesc[UR4].tnspB, R88, gsb0 ;  /* 0x1 */
        /*00d0*/               @P0 BRA 0x000 ;                                            /* 0x1 */
        /*00e0*/                   BRA 0x030 ;                                            /* 0x1 */
"""


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/sass_counts.py."""
    return load("sass_counts", ROOT / "tools" / "sass_counts.py")


def test_loops_are_told_from_waits_and_counted_without_what_is_inside(tool: ModuleType) -> None:
    code = tool.instructions(SASS)
    keys, queries = tool.loop_over_keys(code, 16), tool.loop_over_queries(code)
    assert keys.total == 9
    assert {name: number for name, number in keys.counts.items() if number} == {
        "MUFU": 1, "FMUL": 1, "F2FP": 1, "HGMMA": 2,
    }  # fmt: skip
    assert keys.exposed == {"BRA": 2, "FMUL": 1, "F2FP": 1}
    assert queries.total == 5
    assert {name: number for name, number in queries.counts.items() if number} == {"FMNMX": 1, "HGMMA": 2}


def test_two_tiles_in_one_round_are_halved(tool: ModuleType) -> None:
    assert tool.loop_over_keys(tool.instructions(SASS.replace("R96, gdesc[UR4].tnspB", "gdesc[UR4]")), 16).total == 4.5


def counted(tool: ModuleType, design: str) -> Any:
    """The loop of two consumers at head dim 32."""
    cuda_builder()
    for (_, consumers, *_), code in tool.functions(tool.Variant("sm90", 32, "bfloat16", design)):
        if consumers == "2":
            return tool.loop_over_keys(code, 32)
    raise AssertionError("no kernel of two consumers")


@pytest.mark.long
def test_a_packed_design_packs_beside_the_exponentials(tool: ModuleType) -> None:
    """128 keys by 16 rows of a warp: 64 exponentials and 32 words of p a thread; two steps of depth, 8 of keys."""
    exact, packed = (counted(tool, design) for design in ("Exact", "PackedLazy"))
    for loop in (exact, packed):
        assert loop.counts["MUFU"] == 64 + 2
        assert (loop.counts["F2FP"], loop.counts["HGMMA"]) == (32, 2 + 8)
    assert (exact.exposed["F2FP"], exact.exposed["FMUL"]) == (32, 16)
    assert "F2FP" not in packed.exposed


@pytest.mark.long
def test_a_limit_of_spins_traps_and_leaves_the_products_as_they_were(tool: ModuleType, tmp_path: Path) -> None:
    cuda_builder()
    cubin = tmp_path / "variant.cubin"
    for flags, traps in (([], False), (["-DFEWSTEP_SPIN_LIMIT=1000"], True)):
        variant = tool.Variant("sm90", 32, "bfloat16", "Exact")
        printed = tool.compiled(ROOT / "csrc", variant, cubin, *flags)
        assert "serialized" not in printed
        assert "Used 168 registers" in printed
        assert printed.count(" 0 bytes spill stores") == printed.count("spill stores")
        assert ("BPT.TRAP" in tool.run(tool.tool("cuobjdump"), "--dump-sass", cubin)) == traps


def test_without_nvcc_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    done = subprocess.run([sys.executable, str(ROOT / "tools/sass_counts.py")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "sass counts: NOT RUN, nvcc is not installed here\n")
