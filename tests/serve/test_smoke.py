"""A server on loopback with the digits answers with a picture."""

import base64
import json
import threading
import time
import urllib.request

import uvicorn

from fewstep.serve import Batcher, Family
from fewstep.serve.http.app import build_app


def test_a_digit_over_http() -> None:
    batcher = Batcher({"digits": Family.open("digits", "digits", device="cpu")})
    batcher.start()
    server = uvicorn.Server(uvicorn.Config(build_app(batcher), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    body = json.dumps({"model": "digits", "labels": [3], "num_inference_steps": 2}).encode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/images/generations", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        picture = base64.b64decode(json.load(answer)["data"][0]["b64_json"])
    assert picture.startswith(b"\x89PNG")
    server.should_exit = True
    thread.join()
    assert batcher.drain(10)
