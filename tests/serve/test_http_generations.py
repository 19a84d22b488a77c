"""POST /v1/images/generations: what is sent back, and what is refused in words."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewstep.serve.http.wire.fields import MEANINGLESS
from support.serving import Answer, Knobs, Remote, running_server, tiny_family, until

KNOBS = Knobs()


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    with running_server(tiny_family(knobs=KNOBS)) as remote:
        yield remote


def pixels(answer: Answer, place: int = 0) -> Any:
    assert answer.status == 200, answer.body
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json["data"][place]["b64_json"]))))


def test_images_come_with_what_draws_them_again(remote: Remote) -> None:
    two = remote.generate(model="tiny", labels=[3, 4], seed=7, num_inference_steps=2, sampler="ddpm")
    assert two.status == 200
    facts = [each["fewstep"] for each in two.json["data"]]
    assert [(each["index"], each["seed"], each["label"]) for each in facts] == [(0, 7, 3), (1, 8, 4)]
    assert {(each["steps"], each["sampler"], each["model"]) for each in facts} == {(2, "ddpm", "tiny")}
    assert two.json["size"] == "8x8"
    assert two.json["output_format"] == "png"
    assert two.json["usage"]["total_tokens"] == 0
    again = remote.generate(labels=4, seed=8, steps=2, sampler="ddpm")  # the only model needs no name
    np.testing.assert_allclose(pixels(again).astype(int), pixels(two, 1).astype(int), atol=1)
    assert pixels(again).shape == (8, 8, 3)


@pytest.mark.parametrize(("prompt", "label"), [("7", 7), ("a 7", 7), (" The 7. ", 7), ("*", 0), ("", 0), ("any", 0)])
def test_a_prompt_names_a_label(remote: Remote, prompt: str, label: int) -> None:
    answer = remote.generate(model="tiny", prompt=prompt, steps=1)
    assert answer.json["data"][0]["fewstep"]["label"] == label


def test_a_prompt_that_names_any_label_goes_through_them(remote: Remote) -> None:
    answer = remote.generate(model="tiny", prompt="*", n=10, steps=1)
    assert [each["fewstep"]["label"] for each in answer.json["data"]] == list(range(10))


@pytest.mark.parametrize(("format", "name"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats(remote: Remote, format: str, name: str) -> None:
    answer = remote.generate(model="tiny", labels=1, steps=1, output_format=format, output_compression=50)
    file = base64.b64decode(answer.json["data"][0]["b64_json"])
    assert Image.open(io.BytesIO(file)).format == name
    assert ("output_compression" in answer.headers.get("x-fewstep-ignored", "")) == (format == "png")


def test_fields_that_mean_nothing_are_accepted_and_named(remote: Remote) -> None:
    said = dict.fromkeys(MEANINGLESS, "low")
    answer = remote.generate(model="tiny", labels=1, prompt="something else", steps=1, partial_images=2, **said)
    assert answer.status == 200
    assert answer.headers["x-fewstep-ignored"] == ", ".join(sorted([*MEANINGLESS, "partial_images", "prompt"]))
    assert "x-fewstep-ignored" not in remote.generate(model="tiny", labels=1, steps=1, quality=None).headers


REFUSED = {
    "an unknown field": ({"guidence_scale": 2}, "guidence_scale", "did you mean 'guidance_scale'?"),
    "a field that is nowhere near": ({"zz\x00z": 2}, "zz\\x00z", "no such field"),
    "no images": ({"n": 0}, "n", "greater than or equal to 1"),
    "too many images": ({"n": 11}, "n", "less than or equal to 10"),
    "text for a number": ({"n": "2"}, "n", "valid integer"),
    "true for a number": ({"n": True}, "n", "valid integer"),
    "a fraction": ({"n": 1.5}, "n", "valid integer"),
    "no steps": ({"steps": 0}, "steps", "greater than or equal to 1"),
    "more steps than the server takes": ({"steps": 129}, "steps", "an integer from 1 to 128"),
    "two numbers of steps": ({"steps": 2, "num_inference_steps": 3}, "steps", "as num_inference_steps says"),
    "a seed below 0": ({"seed": -1}, "seed", "greater than or equal to 0"),
    "the least int64 as a seed": ({"seed": -(2**63)}, "seed", "greater than or equal to 0"),
    "a seed beyond 64 bits": ({"seed": 2**64}, "seed", "less than or equal to 18446744073709551615"),
    "a seed far beyond": ({"seed": 10**400}, "seed", "18446744073709551615"),
    "a last seed beyond": ({"seed": 2**64 - 1, "n": 2}, "seed", "at most 18446744073709551614"),
    "seeds and a seed": ({"seed": 1, "seeds": [1]}, "seed", "nothing beside seeds"),
    "too few seeds": ({"n": 3, "seeds": [1, 2]}, "seeds", "one for each of the 3 images"),
    "too few labels": ({"n": 3, "labels": [1, 2]}, "labels", "one for each of the 3 images"),
    "a label beyond": ({"labels": [10]}, "labels", "integers from 0 to 9"),
    "a label below": ({"labels": [-1]}, "labels", "integers from 0 to 9"),
    "a label that is no name": ({"labels": ["cat"]}, "labels", "integers from 0 to 9"),
    "a prompt that is no label": ({"labels": None, "prompt": "a red fox"}, "prompt", "integers from 0 to 9"),
    "a prompt too long": ({"prompt": "x" * 32_001}, "prompt", "at most 32000 characters"),
    "half a character": ({"labels": None, "prompt": "\ud800"}, "prompt", "prompt"),
    "a negative prompt where none is read": ({"negative_prompt": "blurry"}, "negative_prompt", "no prompts"),
    "a sampler that is not": ({"sampler": "dimm"}, "sampler", "did you mean 'ddim'?"),
    "another size": ({"size": "1024x1024"}, "size", "8x8"),
    "a size that is none": ({"size": "big"}, "size", "pattern"),
    "an animation": ({"output_format": "gif"}, "output_format", "'png', 'jpeg' or 'webp'"),
    "a link": ({"response_format": "url"}, "response_format", "'b64_json'"),
    "four previews": ({"partial_images": 4, "stream": True}, "partial_images", "less than or equal to 3"),
    "a deadline of nothing": ({"deadline_ms": 0}, "deadline_ms", "greater than or equal to 1"),
    "a deadline too far": ({"deadline_ms": 600_001}, "deadline_ms", "600000"),
    "an adapter that is not there": ({"lora": {"paint": 0.5}}, "lora", "paint"),
    "an adapter that is infinite": ({"lora": {"paint": 1e300}}, "lora", "less than or equal to 100"),
    "guidance that is none": ({"guidance_scale": -1}, "guidance_scale", "greater than or equal to 0"),
    "rescaling beyond 1": ({"guidance_rescale": 1.5}, "guidance_rescale", "less than or equal to 1"),
}


@pytest.mark.parametrize(("fields", "param", "said"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("stream", [False, True], ids=["at once", "streamed"])
def test_refused_in_words(remote: Remote, fields: dict[str, Any], param: str, said: str, stream: bool) -> None:
    asked = {"model": "tiny", "labels": [1], "steps": 1, "stream": stream} | fields
    answer = remote.generate(**asked)
    assert answer.status == 400, answer.body
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param
    assert said in answer.error["message"]


BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b'{"model": "\xff"}',
    "a list": b"[]",
    "NaN": b'{"guidance_scale": NaN}',
    "infinity": b'{"guidance_scale": -Infinity}',
    "a float beyond": b'{"guidance_scale": 1e999}',
    "an integer beyond": b'{"seed": ' + b"1" * 5000 + b"}",
    "half a character in a name": b'{"a\\ud800": 1}',
    "a name twice": b'{"n": 1, "n": 2}',
    "very deep": b'{"labels": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"user": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_json(remote: Remote, body: bytes) -> None:
    answer = remote.post("/v1/images/generations", body)
    assert answer.status == 400
    assert answer.error["code"] == "invalid_json"


@pytest.mark.parametrize("depth", [10, 400, 900])
def test_what_is_deep_and_no_more_than_json_allows(remote: Remote, depth: int) -> None:
    for field in ("labels", "user", "prompt"):
        body = b'{"steps": 1, "%s": %s}' % (field.encode(), b"[" * depth + b"]" * depth)
        answer = remote.post("/v1/images/generations", body)
        assert answer.status == (200 if field == "user" else 400), answer.body


def test_the_seeds_at_the_ends(remote: Remote) -> None:
    for seed in (0, 2**63 - 1, 2**63, 2**64 - 1):
        answer = remote.generate(model="tiny", labels=1, steps=1, seed=seed)
        assert answer.json["data"][0]["fewstep"]["seed"] == seed


def test_paths_and_methods_that_are_not_are_told_in_the_envelope(remote: Remote) -> None:
    assert remote.get("/v1/images/nothing").error["code"] == "not_found"
    assert remote.get("/v1/images/generations").error["code"] == "method_not_allowed"
    unknown = remote.generate(model="tinny", labels=1)
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    assert "did you mean 'tiny'?" in unknown.error["message"]


def test_every_answer_has_an_id(remote: Remote) -> None:
    assert remote.get("/v1/models").headers["x-request-id"].startswith("req_")
    given = remote.get("/v1/models", headers={"x-request-id": "job-1:a"})
    assert given.headers["x-request-id"] == "job-1:a"
    strange = remote.get("/v1/models", headers={"x-request-id": "a b"})
    assert strange.headers["x-request-id"].startswith("req_")


def test_the_models(remote: Remote) -> None:
    listed = remote.get("/v1/models").json
    assert [each["id"] for each in listed["data"]] == ["tiny"]
    assert listed["object"] == "list"
    assert remote.get("/v1/models/tiny").json == listed["data"][0]
    assert remote.get("/v1/models/other/one").error["code"] == "model_not_found"
    able = remote.get("/capabilities").json
    assert able["limits"]["images"] == 10
    assert able["models"][0]["id"] == "tiny"
    assert "ddim" in able["samplers"]


def test_a_job_is_cancelled_by_its_id(remote: Remote) -> None:
    assert remote.post("/v1/jobs/nothing/cancel", None).error["code"] == "job_not_found"
    KNOBS.shut()
    try:
        connection = remote.connection()
        body = b'{"model": "tiny", "labels": [1, 2], "steps": 4}'
        connection.request("POST", "/v1/images/generations", body, {"x-request-id": "job-2"})
        assert KNOBS.entered.wait(60)
        cancelled = remote.post("/v1/jobs/job-2/cancel", None)
        assert cancelled.json == {"request_id": "job-2", "cancelled": True, "images": 2}
    finally:
        KNOBS.open()
    answer = connection.getresponse()
    assert (answer.status, answer.headers["x-should-retry"]) == (409, "false")
    connection.close()
    until(lambda: remote.post("/v1/jobs/job-2/cancel", None).status == 404)
