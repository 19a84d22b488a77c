"""How much memory there is, and what is refused for want of it."""

from pathlib import Path

import pytest

from fewstep import memory
from fewstep.errors import ArgumentError

GIB = 2**30


def test_what_is_available_is_the_least_of_all_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_machine", lambda: iter([5 * GIB]))
    monkeypatch.setattr(memory, "_container", lambda: iter([3 * GIB, 4 * GIB]))
    monkeypatch.setattr(memory, "_limits", lambda: iter([-1]))
    assert memory.available() == 0
    monkeypatch.setattr(memory, "_limits", lambda: iter([]))
    assert memory.available() == 3 * GIB
    for name in ("_machine", "_container"):
        monkeypatch.setattr(memory, name, lambda: iter([]))
    assert memory.available() is None
    memory.check_memory("n", 1, 10**18, "it")


def test_a_container_leaves_what_is_neither_used_nor_swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not list(memory._machine()):
        pytest.skip("no /proc/meminfo here")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_meminfo", lambda: {"SwapFree": 7})
    assert list(memory._container()) == []
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 300\nfile 600\n")
    assert list(memory._container()) == [1000 + 7 - 300]
    (tmp_path / "memory.max").write_text("max\n")
    assert list(memory._container()) == []


def test_what_cannot_fit_is_named_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2 * GIB)
    memory.check_memory("batch", 9, 2 * GIB, "such a batch")
    with pytest.raises(ArgumentError) as caught:
        memory.check_memory("batch", 9, 3 * GIB, "such a batch")
    assert str(caught.value) == (
        "batch: got 9; allowed: what fits into memory; such a batch takes at least 3.0 GiB, and 2.0 GiB are free"
    )
    memory.check_memory("batch", 9, 3 * GIB, "such a batch", "cuda")


def test_the_system_is_not_asked_about_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 0)
    memory.check_memory("n", 4, memory.ASKED_FROM, "four samples")
