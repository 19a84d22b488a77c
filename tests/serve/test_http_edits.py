"""POST /v1/images/edits: pictures that come in, and the start that is made of them."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewstep.errors import ArgumentError
from fewstep.serve import Limits
from fewstep.serve.http.wire.pictures import Opening, of_data_url
from fewstep.serve.settings import Settings
from support.serving import Answer, Remote, running_server, tiny_family

RGB = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))


def file_of(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def url_of(picture: Image.Image, format: str = "PNG") -> str:
    return f"data:image/{format.lower()};base64," + base64.b64encode(file_of(picture, format)).decode()


def masked(picture: Image.Image) -> Image.Image:
    """The lower half transparent."""
    alpha = np.full((picture.height, picture.width), 255, np.uint8)
    alpha[picture.height // 2 :] = 0
    return Image.merge("RGBA", [*picture.convert("RGB").split(), Image.fromarray(alpha)])


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    with running_server(tiny_family(), Settings(limits=Limits(pixels=4096))) as remote:
        yield remote


def edit(remote: Remote, **fields: Any) -> Answer:
    asked = {"images": [{"image_url": url_of(RGB)}], "prompt": "3", "steps": 1, "seed": 1} | fields
    return remote.post("/v1/images/edits", asked)


def form(parts: list[tuple[str, str | bytes]]) -> tuple[bytes, dict[str, str]]:
    """Of fields, and files where the value is bytes."""
    body = b""
    for name, value in parts:
        filename = '; filename="a.png"\r\nContent-Type: image/png' if isinstance(value, bytes) else ""
        data = value if isinstance(value, bytes) else value.encode()
        body += f'--b\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'.encode() + data + b"\r\n"
    return body + b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}


def test_a_form_and_json_are_the_same_request(remote: Remote) -> None:
    said = edit(remote, strength=0.4, seed=None, n=2, seeds=[5, 6], labels=[3, 4], fit="exact")
    body, headers = form(
        [
            ("image[]", file_of(RGB)),
            ("strength", "0.4"),
            ("n", "2"),
            ("seeds[]", "5"),
            ("seeds[]", "6"),
            ("labels", "[3, 4]"),
            ("prompt", "3"),
            ("steps", "1"),
            ("fit", "exact"),
        ]
    )
    answer = remote.post("/v1/images/edits", body, headers=headers)
    assert (said.status, answer.status) == (200, 200), answer.body
    assert [each["b64_json"] for each in said.json["data"]] == [each["b64_json"] for each in answer.json["data"]]
    assert [each["fewstep"]["label"] for each in answer.json["data"]] == [3, 4]
    assert answer.headers["x-fewstep-ignored"] == "prompt"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_formats_that_are_read(remote: Remote, format: str) -> None:
    assert edit(remote, images=[{"image_url": url_of(RGB, format)}]).status == 200


def test_a_picture_of_another_size_is_fitted_where_that_is_asked(remote: Remote) -> None:
    large = [{"image_url": url_of(Image.new("RGB", (16, 24)))}]
    refused = edit(remote, images=large)
    assert refused.status == 400
    assert "16x24" in refused.error["message"]
    assert "8x8" in refused.error["message"]
    assert edit(remote, images=large, fit="resize").status == 200


def test_a_mask_is_transparent_where_something_is_generated() -> None:
    opening = Opening((3, 8, 8), 4096)
    mask = opening.mask("mask", file_of(masked(RGB)))
    assert mask.shape == (1, 8, 8)
    assert mask[0, :4].eq(0).all()
    assert mask[0, 4:].eq(1).all()
    with pytest.raises(ArgumentError, match="alpha channel"):
        opening.mask("mask", file_of(RGB))
    with pytest.raises(ArgumentError, match="16x16 pixels; allowed: 8x8"):
        opening.mask("mask", file_of(masked(RGB.resize((16, 16)))))
    fitted = Opening((3, 8, 8), 4096, resize=True).mask("mask", file_of(masked(RGB.resize((16, 16)))))
    assert fitted.equal(mask)


def test_the_image_is_what_the_engine_takes() -> None:
    image = Opening((3, 8, 8), 4096).image("image", file_of(RGB))
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), np.asarray(RGB) / np.float32(127.5) - 1, atol=1e-6)
    gray = Opening((1, 8, 8), 4096).image("image", file_of(RGB.convert("RGBA")))
    assert gray.shape == (1, 8, 8)


def test_inpainting_keeps_what_is_opaque(remote: Remote) -> None:
    answer = edit(remote, mask={"image_url": url_of(masked(RGB))}, steps=2)
    assert answer.status == 200, answer.body
    filled = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json["data"][0]["b64_json"]))))
    np.testing.assert_allclose(filled[:4].astype(int), np.asarray(RGB)[:4].astype(int), atol=1)


def bomb() -> bytes:
    """A small file that says it has four billion pixels."""
    file = bytearray(file_of(Image.new("L", (1, 1))))
    file[16:24] = (65535).to_bytes(4, "big") * 2
    return bytes(file)


PICTURES = {
    "no picture": b"hello",
    "nothing": b"",
    "a GIF": file_of(RGB.convert("P"), "GIF"),
    "half a PNG": file_of(RGB)[:48],
    "half a JPEG": file_of(RGB, "JPEG")[:200],
    "more pixels than allowed": file_of(Image.new("L", (65, 64))),
    "a bomb": bomb(),
    "several frames": file_of(RGB, "PNG", save_all=True, append_images=[Image.new("RGB", (8, 8))]),
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("name", ["image", "mask"])
def test_pictures_that_are_refused(remote: Remote, picture: bytes, name: str) -> None:
    parts: list[tuple[str, str | bytes]] = [("image", file_of(RGB)), ("prompt", "3"), ("steps", "1")]
    parts = [("image", picture), *parts[1:]] if name == "image" else [*parts, ("mask", picture)]
    body, headers = form(parts)
    answer = remote.post("/v1/images/edits", body, headers=headers)
    assert answer.status == 400, answer.body
    assert answer.error["param"] == name


URLS = ["http://127.0.0.1:1/a.png", "file:///etc/passwd", "data:image/png,abc", "data:text/html;base64,aa", "", "a,b"]


@pytest.mark.parametrize("url", [*URLS, "data:image/png;base64,%%%", "data:image/png;base64,aGk\u00e9"])
def test_nothing_is_fetched(url: str) -> None:
    with pytest.raises(ArgumentError, match=r"images.image_url: got"):
        of_data_url("images.image_url", url)


FORMS: dict[str, tuple[list[tuple[str, str | bytes]], str]] = {
    "no image": ([("prompt", "3")], "image"),
    "two images": ([("image[]", file_of(RGB)), ("image[]", file_of(RGB))], "image"),
    "an image that is text": ([("image", "abc")], "image"),
    "two masks": ([("image", file_of(RGB)), ("mask", file_of(RGB)), ("mask", file_of(RGB))], "mask"),
    "an unknown file": ([("image", file_of(RGB)), ("markup", file_of(RGB))], "markup"),
    "an unknown field": ([("image", file_of(RGB)), ("strenght", "1")], "strenght"),
    "a field twice": ([("image", file_of(RGB)), ("n", "1"), ("n", "2")], "n"),
    "a field in two ways": ([("image", file_of(RGB)), ("lora[a]", "1"), ("lora[]", "2")], "lora"),
    "a name with brackets": ([("image", file_of(RGB)), ("a[b][c]", "1")], "a[b][c]"),
    "NaN": ([("image", file_of(RGB)), ("strength", "NaN")], "strength"),
    "infinity": ([("image", file_of(RGB)), ("guidance_scale", "1e999")], "guidance_scale"),
    "text for a number": ([("image", file_of(RGB)), ("n", "two")], "n"),
    "no strength": ([("image", file_of(RGB)), ("strength", "0")], "strength"),
    "nested": ([("image", file_of(RGB)), ("labels", "[" * 5000)], "labels"),
}


@pytest.mark.parametrize(("parts", "param"), FORMS.values(), ids=FORMS)
def test_forms_that_are_refused(remote: Remote, parts: list[tuple[str, str | bytes]], param: str) -> None:
    body, headers = form(parts)
    answer = remote.post("/v1/images/edits", body, headers=headers)
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param


@pytest.mark.parametrize(
    ("kind", "status"),
    [("text/plain", 415), ("multipart/form-data", 400), ("multipart/form-data; boundary=x", 400)],
)
def test_bodies_that_are_neither(remote: Remote, kind: str, status: int) -> None:
    body = json.dumps({"prompt": "3"}).encode()
    answer = remote.post("/v1/images/edits", body, headers={"Content-Type": kind})
    assert answer.status == status, answer.body
    assert answer.error["message"]
