"""The text of a PNG that is hostile: read without decoding the picture, within bounds, and refused in one line."""

import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fewstep.cli import main
from fewstep.errors import FewstepError
from fewstep.pictures import pixels, read_picture
from fewstep.results import MAX_PARAMETERS, Samples, read_parameters
from support.png import chunk, header, png
from support.small import small_engine

HEADER = header(4, 4)
PIXELS = (b"IDAT", zlib.compress(bytes(20)))
MADE = (b"tEXt", b"Software\0fewstep 1.0")
END = (b"IEND", b"")
BOMB = zlib.compress(bytes(2 << 20))


BAD = {
    "compressed text of 2 MB": [(b"zTXt", b"a\0\0" + BOMB)],
    "international text of 2 MB": [(b"iTXt", b"a\0\1\0\0\0" + BOMB)],
    "a colour profile of 2 MB": [(b"iCCP", b"a\0\0" + BOMB)],
    "a short colour profile": [(b"iCCP", b"a")],
    "text compressed in another way": [(b"zTXt", b"a\0\7" + BOMB)],
    "a short chunk": [(b"cHRM", b"")],
    "more text than ever": [(b"tEXt", b"k%d\0" % i + b"x" * (1 << 20)) for i in range(MAX_PARAMETERS >> 20)],
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_too_much_or_damaged_is_refused_in_one_line(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(png(HEADER, MADE, *BAD[kind], PIXELS, END))
    with pytest.raises(FewstepError) as caught:
        read_parameters(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < len(str(path)) + 250
    assert main(["info", str(path)]) == 2
    assert capsys.readouterr().err.splitlines() == [f"error: {caught.value}"]


def test_the_picture_itself_is_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(png(header(9000, 9000), MADE, (b"IDAT", b"not compressed"), END))
    assert read_parameters(path) == {"Software": "fewstep 1.0"}
    path.write_bytes(png(header(2**31 - 1, 2**31 - 1), MADE, PIXELS, END))
    with pytest.raises(FewstepError, match=r"out\.png: cannot be read as a PNG"):
        read_parameters(path)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["a pipe", "a folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "out.png")
    with pytest.raises(FewstepError, match=r"out\.png: cannot be read as a PNG: it is not a file"):
        read_parameters(tmp_path / "out.png")


def test_names_that_are_no_text_are_saved_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = small_engine().sample(1, labels=[3], steps=1, seeds=[5])
    samples = Samples(made.images, made.seeds, made.plan, made.labels, parameters={"model": "odd\udcff\nname"})
    path = samples.save(tmp_path / "out.png")[0]
    assert read_parameters(path)["model"] == r"odd\udcff\nname"
    odd = tmp_path / "odd\udcff.png"
    path.rename(odd)
    assert main(["info", str(odd)]) == 0
    assert r"odd\udcff.png" in capsys.readouterr().out.splitlines()[0]


def test_a_broken_animation_is_no_reason_for_advice(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (4, 4)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:33] + chunk(b"acTL", bytes(8)) + data[33:])  # of no pictures, behind the header
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_parameters(path) == {}
        assert pixels(read_picture("image", path)).shape[:2] == (4, 4)
