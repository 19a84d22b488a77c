"""The unmodified client of OpenAI over a real server: images, streams, edits, and errors as its own exceptions."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from fewstep.serve import Limits
from fewstep.serve.settings import Settings
from support.serving import Remote, digits_family, running_server


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    with running_server(digits_family(), Settings(limits=Limits(queue=8))) as remote:
        yield remote


@pytest.fixture(scope="module")
def client(remote: Remote) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{remote.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def pixels(text: str | None) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text or ""))))


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def seven(client: openai.OpenAI) -> Any:
    answer = client.images.generate(model="digits", prompt="7", extra_body={"seed": 1, "num_inference_steps": 4})
    assert answer.data is not None
    return pixels(answer.data[0].b64_json)


def test_the_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["digits"]
    assert client.models.retrieve("digits").owned_by == "fewstep"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-image-2")


def test_a_picture(seven: Any) -> None:
    assert seven.shape == (32, 32)
    assert seven.max() > 200
    assert seven.min() < 50


def test_several_in_another_format(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="digits", prompt="*", n=3, output_format="webp", size="auto", quality="low", user="somebody"
    )
    assert answer.data is not None
    assert answer.usage is not None
    assert [pixels(each.b64_json).shape for each in answer.data] == [(32, 32, 3)] * 3  # webp has no gray
    assert (answer.size, answer.output_format, answer.usage.total_tokens) == ("32x32", "webp", 0)


def test_a_stream_shows_the_sample_on_its_way(client: openai.OpenAI, seven: Any) -> None:
    events = list(
        client.images.generate(
            model="digits",
            prompt="7",
            stream=True,
            partial_images=3,
            extra_body={"seed": 1, "num_inference_steps": 4},
        )
    )
    assert {event.type for event in events[:-1]} <= {"image_generation.partial_image"}
    assert len(events) <= 4
    last = events[-1]
    assert last.type == "image_generation.completed"
    np.testing.assert_allclose(pixels(last.b64_json).astype(int), seven.astype(int), atol=1)


def test_an_edit_without_a_mask(client: openai.OpenAI, seven: Any) -> None:
    answer = client.images.edit(
        model="digits",
        image=png(Image.fromarray(seven)),
        prompt="7",
        extra_body={"strength": 0.3, "seed": 1, "num_inference_steps": 4},
    )
    assert answer.data is not None
    near = pixels(answer.data[0].b64_json)
    assert np.abs(near.astype(int) - seven.astype(int)).mean() < 40


@pytest.mark.parametrize("listed", [False, True], ids=["image", "image[]"])
def test_an_edit_keeps_what_is_opaque(client: openai.OpenAI, seven: Any, listed: bool) -> None:
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[16:] = 0  # the lower half is generated
    mask = Image.merge("RGBA", [Image.fromarray(seven)] * 3 + [Image.fromarray(alpha)])
    image: Any = ("seven.png", png(Image.fromarray(seven)), "image/png")
    answer = client.images.edit(
        model="digits",
        image=[image] if listed else image,
        mask=("mask.png", png(mask), "image/png"),
        prompt="1",
        n=1,
        extra_body={"seed": 5, "num_inference_steps": 4},
    )
    assert answer.data is not None
    filled = pixels(answer.data[0].b64_json).astype(int)
    assert np.abs(filled[:16] - seven[:16].astype(int)).max() <= 2
    assert np.abs(filled[16:] - seven[16:].astype(int)).max() > 50


def test_an_edit_streamed(client: openai.OpenAI, seven: Any) -> None:
    image = png(Image.fromarray(seven))
    events = list(client.images.edit(model="digits", image=image, prompt="7", stream=True, partial_images=1))
    assert events[-1].type == "image_edit.completed"


def test_errors_are_the_clients_own(client: openai.OpenAI, seven: Any) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.generate(model="digits", prompt="a red fox")
    assert (bad.value.param, bad.value.type) == ("prompt", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="did you mean 'guidance_scale'"):
        client.images.generate(model="digits", prompt="7", extra_body={"guidance_scal": 1})
    with pytest.raises(openai.BadRequestError, match="labels"):
        list(client.images.generate(model="digits", prompt="77", stream=True))
    with pytest.raises(openai.BadRequestError, match="32x32"):
        client.images.edit(model="digits", image=png(Image.new("L", (31, 32))), prompt="7")
    with pytest.raises(openai.NotFoundError):
        client.images.generate(model="gpt-image-2", prompt="7")
    with pytest.raises(openai.RateLimitError) as full:
        client.images.generate(model="digits", prompt="7", n=9)
    assert full.value.code == "full"
    assert int(full.value.response.headers["retry-after"]) >= 1
