"""What a run returns, and the files it is saved to."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

import fewstep
from fewstep.diffusion.samplers import make_plan
from fewstep.errors import ArgumentError, FewstepError, OutputError
from fewstep.results import Samples, read_parameters


def ramp(count: int, channels: int, height: int = 6, width: int = 5) -> Tensor:
    """[count, channels, height, width] in [-1, 1], every value different from its neighbours."""
    return torch.linspace(-1, 1, count * channels * height * width).reshape(count, channels, height, width)


def samples_of(images: Tensor, **fields: object) -> Samples:
    plan = make_plan("ddim", fewstep.schedules.linear(1000), 3, prediction="eps")
    return Samples(images=images, seeds=range(10, 10 + len(images)), plan=plan, **fields)  # type: ignore[arg-type]


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_bytes_are_rounded_and_clamped() -> None:
    values = torch.tensor([-1.5, -1.0, -0.999, 0.0, 0.5 / 127.5 - 1, 1.51 / 127.5 - 1, 1.0, 2.0])
    pixels = samples_of(values.reshape(1, 1, 2, 4)).numpy()
    assert pixels.dtype == np.uint8
    assert pixels.shape == (1, 2, 4, 1)
    assert pixels.flatten().tolist() == [0, 0, 0, 128, 0, 2, 255, 255]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_image_that_is_not_finite_names_its_sample(value: float, tmp_path: Path) -> None:
    images = ramp(3, 1)
    images[1, 0, 2, 2] = value
    samples = samples_of(images)
    for convert in (samples.numpy, samples.pil, samples.grid, lambda: samples.save(tmp_path / "out.png")):
        with pytest.raises(FewstepError, match=r"^sample 1 \(seed 11\): the image is not finite"):
            convert()
    assert listing(tmp_path) == []


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pictures_hold_the_bytes(channels: int, mode: str) -> None:
    samples = samples_of(ramp(2, channels))
    pictures = samples.pil()
    assert [picture.mode for picture in pictures] == [mode, mode]
    assert [picture.size for picture in pictures] == [(5, 6), (5, 6)]
    for picture, pixels in zip(pictures, samples.numpy(), strict=True):
        assert np.array_equal(np.asarray(picture).reshape(6, 5, channels), pixels)


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channel_counts_are_no_pictures(channels: int) -> None:
    with pytest.raises(FewstepError, match=f"images have {channels} channels and pictures 1 or 3"):
        samples_of(ramp(1, channels)).pil()


@pytest.mark.parametrize(
    ("count", "columns", "shape"),
    [(1, None, (1, 1)), (4, None, (2, 2)), (5, None, (2, 3)), (5, 4, (2, 4)), (3, 8, (1, 3)), (3, 1, (3, 1))],
)
def test_a_sheet_shows_each_sample_in_reading_order(count: int, columns: int | None, shape: tuple[int, int]) -> None:
    samples = samples_of(ramp(count, 3))
    rows, across = shape
    sheet = np.asarray(samples.grid(columns))
    assert sheet.shape == (rows * 8 - 2, across * 7 - 2, 3)
    for index, pixels in enumerate(samples.numpy()):
        row, column = divmod(index, across)
        assert np.array_equal(sheet[row * 8 : row * 8 + 6, column * 7 : column * 7 + 5], pixels)


@pytest.mark.parametrize("columns", [0, -1])
def test_a_sheet_without_columns_is_refused(columns: int) -> None:
    with pytest.raises(ArgumentError, match=f"columns: got {columns}; allowed: an integer from 1 up"):
        samples_of(ramp(2, 1)).grid(columns)


def test_several_samples_become_a_sheet_and_single_pictures(tmp_path: Path) -> None:
    samples = samples_of(ramp(3, 1), labels=[3.0, 7.0, 6.333333333333334], parameters={"model": "digits"})
    paths = samples.save(tmp_path / "new" / "out.png", columns=2, parameters={"strength": 0.5, "mask": None})
    assert [path.name for path in paths] == ["out.png", "out-000.png", "out-001.png", "out-002.png"]
    assert listing(tmp_path / "new") == sorted(path.name for path in paths)
    assert np.array_equal(np.asarray(Image.open(paths[0])), np.asarray(samples.grid(2)))
    for path, pixels in zip(paths[1:], samples.numpy(), strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), pixels[:, :, 0])
    shared = {
        "sampler": "ddim",
        "steps": "3",
        "guidance_scale": "1",
        "model": "digits",
        "strength": "0.5",
        "Software": f"fewstep {fewstep.__version__}",
    }
    assert read_parameters(paths[3]) == {"seed": "12", "label": "6.333333333333334"} | shared
    assert (
        read_parameters(paths[0]) == {"seeds": "10,11,12", "labels": "3,7,6.333333333333334", "columns": "2"} | shared
    )


def test_a_label_is_the_shortest_number_that_is_the_same_to_the_model(tmp_path: Path) -> None:
    labels = torch.tensor([11.333333, 100.0, 0.1]).tolist()
    read = read_parameters(samples_of(ramp(3, 1), labels=labels).save(tmp_path / "a.png")[0])
    assert read["labels"] == "11.333333,100,0.1"
    assert torch.tensor([float(text) for text in read["labels"].split(",")]).tolist() == labels


def test_parameters_keep_guidance_of_each_step_and_large_seeds(tmp_path: Path) -> None:
    plan = make_plan("ddim", fewstep.schedules.linear(1000), 2).with_guidance([7.5, 2.0], rescale=0.7)
    samples = Samples(images=ramp(1, 3), seeds=[2**64 - 1], plan=plan)
    [path] = samples.save(tmp_path / "a.png", parameters={"model": "ein Modell \N{SNOWMAN}"})
    read = read_parameters(path)
    assert read["guidance_scale"] == "7.5,2"
    assert read["guidance_rescale"] == "0.7"
    assert read["seed"] == "18446744073709551615"
    assert read["model"] == "ein Modell \N{SNOWMAN}"


def test_one_sample_is_the_picture_itself(tmp_path: Path) -> None:
    assert samples_of(ramp(1, 3)).save(tmp_path / "out.PNG") == [tmp_path / "out.PNG"]
    assert listing(tmp_path) == ["out.PNG"]
    assert read_parameters(tmp_path / "out.PNG")["seed"] == "10"


def test_singles_can_be_left_out(tmp_path: Path) -> None:
    samples_of(ramp(3, 1)).save(tmp_path / "out.png", singles=False)
    assert listing(tmp_path) == ["out.png"]


def test_numbers_are_saved_as_they_are(tmp_path: Path) -> None:
    samples = samples_of(ramp(3, 4))
    samples.save(tmp_path / "out.npy")
    assert listing(tmp_path) == ["out.npy"]
    assert np.array_equal(np.load(tmp_path / "out.npy"), samples.images.numpy())


def test_cancelled_samples_are_left_out(tmp_path: Path) -> None:
    samples = samples_of(ramp(3, 1), cancelled=[False, True, False])
    paths = samples.save(tmp_path / "out.png")
    assert [path.name for path in paths] == ["out.png", "out-000.png", "out-002.png"]
    assert read_parameters(paths[0])["seeds"] == "10,12"
    samples.images[2, 0, 0, 0] = float("nan")
    with pytest.raises(FewstepError, match=r"^sample 2 \(seed 12\)"):
        samples.save(tmp_path / "nan.png")
    samples.images[2, 0, 0, 0] = 0
    samples.images[1] = float("nan")
    assert len(samples.save(tmp_path / "finite.png")) == 3
    with pytest.raises(FewstepError, match="every sample was cancelled"):
        samples_of(ramp(2, 1), cancelled=[True, True]).save(tmp_path / "none.png")


@pytest.mark.parametrize("name", ["out.jpg", "out", ".png"])
def test_an_unknown_suffix_names_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"path: got .*; allowed: a file name that ends in .png or .npy"):
        samples_of(ramp(1, 1)).save(tmp_path / name)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("name", ["terrain", "viridis"])
def test_a_colormap_colours_heights(tmp_path: Path, name: str) -> None:
    samples = samples_of(ramp(2, 1))
    paths = samples.save(tmp_path / "out.png", colormap=name)
    assert Image.open(paths[1]).mode == "RGB"
    assert read_parameters(paths[1])["colormap"] == name
    low, high = (np.asarray(picture, dtype=float).mean(axis=(0, 1)) for picture in samples.pil(name))
    assert np.abs(low - high).max() > 20


def test_terrain_is_water_below_and_snow_above() -> None:
    flat = torch.tensor([-1.0, -0.5, 1.0]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)
    pictures = samples_of(flat).pil("terrain")
    water, meadow, snow = (np.asarray(picture)[2, 2].astype(int) for picture in pictures)
    assert water.argmax() == 2
    assert meadow.argmax() == 1
    assert snow.min() > 240


def test_a_colormap_needs_one_channel_and_a_known_name() -> None:
    with pytest.raises(ArgumentError, match="colormap: got 'terrain'; allowed: gray"):
        samples_of(ramp(1, 3)).pil("terrain")
    with pytest.raises(ArgumentError, match="did you mean viridis"):
        samples_of(ramp(1, 1)).pil("virids")


def test_a_full_disk_leaves_the_earlier_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples_of(ramp(3, 1)).save(tmp_path / "out.png")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fsync = os.fsync
    written: list[int] = []

    def full_at_the_third(fd: int) -> None:
        written.append(fd)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", full_at_the_third)
    with pytest.raises(OutputError, match=r"out-001\.png: cannot be written: no space left on device"):
        samples_of(-ramp(3, 1)).save(tmp_path / "out.png")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_made_on_the_device_are_shown_and_saved_as_floats_are(tmp_path: Path, channels: int) -> None:
    floats = samples_of(1.2 * ramp(3, channels), cancelled=[False, True, False])
    made = samples_of(torch.from_numpy(floats.numpy()), cancelled=floats.cancelled, finite=[True, True, True])
    assert made.channels == floats.channels == channels
    assert np.array_equal(made.numpy(), floats.numpy())
    assert made._repr_png_() == floats._repr_png_()
    for name, samples in (("floats", floats), ("made", made)):
        samples.save(tmp_path / name / "out.png", columns=1)
    for path in (tmp_path / "floats").iterdir():
        assert (tmp_path / "made" / path.name).read_bytes() == path.read_bytes()
    made.save(tmp_path / "out.npy")
    assert np.array_equal(np.load(tmp_path / "out.npy"), made.images.numpy()[[0, 2]])


def test_bytes_of_what_was_not_finite_and_bytes_in_colour_are_refused(tmp_path: Path) -> None:
    made = samples_of(torch.zeros(2, 6, 5, 1, dtype=torch.uint8), finite=[True, False])
    for convert in (made.numpy, made.pil, lambda: made.save(tmp_path / "out.png")):
        with pytest.raises(FewstepError, match=r"^sample 1 \(seed 11\): the image is not finite"):
            convert()
    with pytest.raises(ArgumentError, match=r'colormap: got .terrain.; allowed: gray: .* output="float"'):
        samples_of(torch.zeros(1, 6, 5, 1, dtype=torch.uint8), finite=[True]).pil("terrain")


def test_a_picture_made_elsewhere_has_no_parameters(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    assert read_parameters(tmp_path / "a.png") == {}
    (tmp_path / "b.png").write_bytes(b"no picture")
    bomb = PngInfo()
    bomb.add_text("seed", "1" * 10**8, zip=True)
    Image.new("L", (2, 2)).save(tmp_path / "c.png", pnginfo=bomb)
    with pytest.raises(FewstepError, match=r"c\.png: cannot be read as a PNG"):
        read_parameters(tmp_path / "c.png")
    with pytest.raises(FewstepError, match=r"b\.png: cannot be read as a PNG"):
        read_parameters(tmp_path / "b.png")


def test_a_notebook_shows_the_sheet_and_the_repr_is_short() -> None:
    samples = samples_of(ramp(4, 1), model_calls=3, seconds=0.5)
    assert samples._repr_png_().startswith(b"\x89PNG")
    assert repr(samples) == "Samples(4 x 1 x 6 x 5; ddim, 3 steps; 3 model calls in 0.5 s)"
