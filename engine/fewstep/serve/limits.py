"""How much a server takes on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a server, all of them settings.

    Attributes:
        slots: samples that run together on one model, at most.
        queue: images that wait, over all models, at most; more are refused.
        queue_bytes: of the pictures and masks that wait.
        steps: model calls that an image may ask for.
        images: that one request may ask for.
        body_bytes: of a request.
        bodies_bytes: of all requests that are being read or answered.
        body_seconds: in which the body of a request has to arrive.
        header_bytes: of a request's line and headers.
        header_seconds: in which a connection has to send them; between two requests it may idle as long.
        stalled_seconds: that a client may take nothing of what is sent to it.
        connections: that are open at once; who comes after is turned away.
        json_depth: how deep a JSON body may nest.
        json_tokens: strings and brackets that it may have.
        prompt_characters: of a prompt.
        pixels: of a picture that is sent.
        deadline_ms: that may be asked for, at most.
        drain_seconds: that what was let in has to finish after SIGTERM.
    """

    slots: int = 16
    queue: int = 256
    queue_bytes: int = 256 << 20
    steps: int = 128
    images: int = 10
    body_bytes: int = 32 << 20
    bodies_bytes: int = 256 << 20
    body_seconds: float = 60.0
    header_bytes: int = 32 << 10
    header_seconds: float = 15.0
    stalled_seconds: float = 60.0
    connections: int = 1024
    json_depth: int = 32
    json_tokens: int = 100_000
    prompt_characters: int = 32_000
    pixels: int = 16 << 20
    deadline_ms: int = 600_000
    drain_seconds: float = 30.0
