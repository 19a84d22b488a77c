"""Behind Ray, without a cluster: arguments, keys, the ingress over replicas that die, and a replica in this process."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from pydantic import ValidationError
from ray.exceptions import ActorDiedError
from ray.serve import Application
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as built
from ray.serve.exceptions import BackPressureError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fewstep.errors import ArgumentError
from fewstep.serve import Limits
from fewstep.serve.ray import Arguments, build_app
from fewstep.serve.ray.arguments import Opening
from fewstep.serve.ray.asgi import answered
from fewstep.serve.ray.everywhere import Whole, together
from fewstep.serve.ray.ingress import Forwarding, Ingress
from fewstep.serve.ray.replica import Replica
from fewstep.serve.ray.routing import Route, key_of
from support.serving import PATIENCE, Knobs, tiny_family

pytestmark = pytest.mark.slow  # Ray takes a few seconds to import

JSON = (b"content-type", b"application/json")
ROUTES = {"digits": Route("28x28", {None: "digits/4-step", 1: "digits/1-step", 4: "digits/4-step"})}
GENERATIONS = "/v1/images/generations"


def scope_of(path: str, *headers: tuple[bytes, bytes], method: str = "POST") -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [JSON, *headers],
    }


def asked(app: ASGIApp, path: str, body: bytes, *headers: tuple[bytes, bytes]) -> list[Message]:
    """What an application answers to one request."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        await asyncio.wait_for(app(scope_of(path, *headers), receive, send), PATIENCE)

    asyncio.run(run())
    return sent


def error_of(messages: Sequence[Message]) -> dict[str, Any]:
    error = json.loads(messages[1]["body"])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


class FakeMessages:
    """What a call of a replica returns: messages, or an error in their place."""

    def __init__(self, said: Sequence[Message | Exception]) -> None:
        self.said, self.cancelled = said, False

    async def __aiter__(self) -> AsyncIterator[Message]:
        for each in self.said:
            if isinstance(each, Exception):
                raise each
            yield each

    def cancel(self) -> None:
        self.cancelled = True


class FakeHandle:
    """A handle whose calls answer one after another what they are told to."""

    def __init__(self, *answers: Sequence[Message | Exception]) -> None:
        self.answers, self.keys, self.calls = list(answers), list[str](), list[FakeMessages]()

    def options(self, method_name: str, stream: bool = False, session_id: str = "") -> Any:
        handle = self

        class Called:
            def remote(self, *args: Any) -> Any:
                if method_name == "routes":
                    return asyncio.sleep(0, ROUTES)
                handle.keys.append(session_id)
                handle.calls.append(FakeMessages(handle.answers.pop(0)))
                return handle.calls[-1]

        return Called()


def good(body: bytes = b"{}", kind: bytes = b"application/json") -> list[Message | Exception]:
    headers = [(b"content-type", kind), (b"x-request-id", b"theirs")]
    return [
        {"type": "http.response.start", "status": 200, "headers": headers},
        {"type": "http.response.body", "body": body, "more_body": False},
    ]


def forwarding(handle: FakeHandle, **options: Any) -> Forwarding:
    given: dict[str, Any] = {"limits": Limits(body_bytes=1000), "retries": 2, "retry_after_s": 1.5} | options
    return Forwarding(handle, **given)


def test_the_words_of_a_command_line_are_read_as_what_they_are_to_be() -> None:
    words = {"model": "digits,mine=/models/mine", "replicas": "2", "num_gpus": "0.5", "batch_invariant": "true"}
    args = Arguments.model_validate({**words, "limits": '{"slots": 4}'})
    assert args.models == {"digits": "digits", "mine": "/models/mine"}
    assert (args.replicas, args.num_gpus, args.limits) == (2, 0.5, Limits(slots=4))
    assert args.engine_options["device"] == "cuda"
    assert args.engine_options["batch_invariant"] is True


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "Field required"),
        ({"model": "digits", "replica": "2"}, "did you mean replicas"),
        ({"model": "digits", "replicas": "0"}, "greater than or equal to 1"),
        ({"model": "digits", "replicas": "3", "max_replicas": "2"}, "at least replicas, 3"),
        ({"model": "a=x,a=y"}, "names that differ"),
        ({"model": "digits", "limits": '{"slot": 4}'}, "limits"),
        ({"model": "digits", "loras": '{"digit": {"a": "a.safetensors"}}'}, "adapters of digits"),
    ],
    ids=["no model", "unknown word", "no replica", "fewer at most", "one name twice", "unknown limit", "lora of none"],
)
def test_wrong_arguments_are_named(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Arguments.model_validate(wrong)


def test_a_command_builds_the_application() -> None:
    """As `serve run fewstep.serve.ray:build_app model=digits` does."""
    app = built(build_app, {"model": "digits", "replicas": "2", "max_replicas": "3"})
    assert isinstance(app, Application)
    ingress = app._bound_deployment
    engine = ingress.init_args[0]._bound_deployment
    assert (ingress.name, engine.name) == ("Ingress", "Engine")
    config = engine._deployment_config
    assert config.autoscaling_config.min_replicas == 2
    assert config.autoscaling_config.max_replicas == 3
    assert config.backpressure_config.status_code == 429
    with pytest.raises(ArgumentError, match="dtype"):
        built(build_app, {"model": "digits", "dtype": "float12"})


def test_what_runs_on_the_same_network_has_the_same_key() -> None:
    def key(**said: Any) -> str:
        return key_of(GENERATIONS, "application/json", json.dumps({"model": "digits", **said}).encode(), ROUTES)

    assert key() == key(num_inference_steps=4) == key(size="auto", seed=3) == key(size="28x28") == key(steps=4)
    others = [key(num_inference_steps=1), key(size="64x64"), key(lora={"a": 1.0}), key(model="unknown")]
    assert len({key(), *others}) == 5
    assert key(lora={"a": 1.0, "b": 0.5}) == key(lora={"b": 0.5, "a": 1.0})


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"[" * 100_000, b'{"model": ["digits"]}', b'{"model": "digits", "steps": "' + b"9" * 9000],
)
def test_a_body_that_cannot_be_read_is_routed_all_the_same(body: bytes) -> None:
    assert key_of(GENERATIONS, "application/json", body, ROUTES) == GENERATIONS


def test_the_fields_of_a_form_are_read_for_the_key() -> None:
    form = (
        b'--xx\r\nContent-Disposition: form-data; name="model"\r\n\r\ndigits\r\n'
        b'--xx\r\nContent-Disposition: form-data; name="num_inference_steps"\r\n\r\n1\r\n'
        b'--xx\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n\x89PNG--\r\n--xx--\r\n'
    )
    key = key_of("/v1/images/edits", 'multipart/form-data; boundary="xx"', form, ROUTES)
    assert json.loads(key)[1:3] == ["digits", "digits/1-step"]


def test_an_answer_is_passed_on_under_one_request_id() -> None:
    handle = FakeHandle(good(b'{"data": []}'))
    start, body = asked(forwarding(handle), GENERATIONS, b'{"model": "digits"}')
    assert start["status"] == 200
    assert body["body"] == b'{"data": []}'
    assert [name for name, _ in start["headers"]] == [b"content-type"]  # the id is the proxy's to say
    assert not handle.calls[0].cancelled


def going_down() -> list[Message | Exception]:
    return [{"type": "http.response.start", "status": 503, "headers": []}, {"type": "http.response.body", "body": b"x"}]


@pytest.mark.parametrize("lost", [[ActorDiedError()], going_down()], ids=["died", "goes down"])
def test_a_request_whose_replica_is_lost_goes_to_another(lost: list[Message | Exception]) -> None:
    handle = FakeHandle(lost, good())
    assert asked(forwarding(handle), GENERATIONS, b'{"model": "digits"}')[0]["status"] == 200
    assert len(set(handle.keys)) == 2


def test_a_request_whose_replicas_are_all_lost_is_told() -> None:
    handle = FakeHandle(*[[ActorDiedError()]] * 3)
    messages = asked(forwarding(handle), GENERATIONS, b'{"model": "digits"}')
    assert messages[0]["status"] == 503
    assert error_of(messages)["code"] == "replica_lost"


def test_the_last_replica_says_itself_that_it_goes_down() -> None:
    handle = FakeHandle(*[going_down()] * 3)
    assert asked(forwarding(handle), GENERATIONS, b"{}")[1]["body"] == b"x"


def test_overload_is_told_as_openai_tells_it() -> None:
    handle = FakeHandle([BackPressureError(4, 4, 429, 1.5)])
    messages = asked(forwarding(handle), GENERATIONS, b"{}")
    assert messages[0]["status"] == 429
    assert (b"retry-after", b"2") in messages[0]["headers"]
    assert (error_of(messages)["type"], error_of(messages)["code"]) == ("rate_limit_error", "full")


def test_a_stream_whose_replica_dies_ends_with_an_error() -> None:
    begun = good(b"event: image_generation.partial_image\n\n", b"text/event-stream")
    begun[1]["more_body"] = True  # type: ignore[index]
    last = asked(forwarding(FakeHandle([*begun, ActorDiedError()])), GENERATIONS, b"{}")[-1]
    assert last["body"].startswith(b"event: error\ndata: ")
    assert not last.get("more_body")
    assert json.loads(last["body"].split(b"data: ")[1])["error"]["code"] == "replica_lost"


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    with pytest.raises(ConnectionError):
        asked(forwarding(FakeHandle([good()[0], ActorDiedError()])), GENERATIONS, b"{}")


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"5000")]], ids=["as it comes", "as it says"])
def test_a_body_that_is_too_long_reaches_no_replica(headers: list[tuple[bytes, bytes]]) -> None:
    handle = FakeHandle()
    messages = asked(forwarding(handle), GENERATIONS, b"x" * (1 if headers else 2000), *headers)
    assert messages[0]["status"] == 413
    assert error_of(messages)["code"] == "body_too_large"


def test_health_asks_no_replica() -> None:
    assert asked(forwarding(FakeHandle()), "/health", b"")[0]["status"] == 200


def test_who_bears_no_key_reaches_no_replica() -> None:
    handle = FakeHandle(good())
    app = Ingress(handle, Limits(), 2, 1.0, "secret").__serve_build_asgi_app__()
    messages = asked(app, GENERATIONS, b"{}", (b"authorization", b"Bearer wrong"))
    assert messages[0]["status"] == 401
    assert error_of(messages)["type"] == "authentication_error"
    assert handle.keys == []
    assert asked(app, GENERATIONS, b"{}", (b"authorization", b"Bearer secret"))[0]["status"] == 200


def test_the_numbers_of_all_replicas_are_told_apart() -> None:
    page = b'# HELP images_total Images.\n# TYPE images_total counter\nimages_total{model="a"} 3.0\n'
    kind = ((b"content-type", b"text/plain"),)
    merged = together("/metrics", [Whole("r1", 200, kind, page), Whole("r2", 200, kind, page)]).body.decode()
    assert merged.count("# TYPE") == 1
    assert {line for line in merged.splitlines() if line[0] != "#"} == {
        'images_total{model="a",replica="r1"} 3.0',
        'images_total{model="a",replica="r2"} 3.0',
    }


def test_a_job_is_cancelled_by_the_replica_that_has_it() -> None:
    answers = [Whole("r1", 404, (), b"no"), Whole("r2", 200, (), b"yes")]
    assert together("/v1/jobs/a/cancel", answers).body == b"yes"


def test_a_replica_answers_and_leaves_when_its_device_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the whole application; and once the device is lost it is ill, tells who asks, and its process ends."""
    knobs, left = Knobs(), threading.Event()
    monkeypatch.setattr(Opening, "families", lambda opening: {"tiny": tiny_family(knobs=knobs)})
    monkeypatch.setattr("fewstep.serve.ray.replica.GRACE", 0.0)
    monkeypatch.setattr("fewstep.serve.ray.replica.os._exit", lambda code: left.set())
    replica = Replica(Opening({}, {}), Limits(slots=2))
    body = json.dumps({"model": "tiny", "prompt": "3", "seed": 1}).encode()

    async def collected() -> list[Message]:
        return [message async for message in replica.answer(scope_of(GENERATIONS), body)]

    async def run() -> None:
        await replica.check_health()
        assert set(await replica.routes()) == {"tiny"}
        start, *rest = await collected()
        assert start["status"] == 200
        assert json.loads(b"".join(each.get("body", b"") for each in rest))["data"][0]["b64_json"]

        knobs.error = lambda lanes: RuntimeError("CUDA error: an illegal memory access was encountered")
        assert (await collected())[0]["status"] == 503  # which the ingress takes to another replica
        assert await asyncio.to_thread(left.wait, PATIENCE)
        with pytest.raises(RuntimeError, match="the device is lost"):
            await replica.check_health()

    asyncio.run(run())


def test_leaving_an_answer_early_tells_the_application() -> None:
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        heard.append(await receive())

    async def left() -> None:
        async with aclosing(answered(app, scope_of("/"), b"")) as messages:
            await anext(messages)

    asyncio.run(asyncio.wait_for(left(), PATIENCE))
    assert heard == [{"type": "http.disconnect"}]
