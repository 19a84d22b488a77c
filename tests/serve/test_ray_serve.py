"""Ray Serve with two replicas of the digits: what comes back, and what becomes of it when one is killed."""

import base64
import io
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from ray import serve

from fewstep.serve import Limits
from fewstep.serve.ray import Arguments, build_app
from support.cluster import SECONDS, Cluster, cluster, free_port
from support.serving import Answer, Remote, digits_family, until

pytestmark = [pytest.mark.long, pytest.mark.alone]

HELD, QUEUED = 2, 10  # of one replica; in front of both
CROWD = 12  # requests at once, of which all but four wait
LONG = {"num_inference_steps": 30}  # of the teacher: long enough to be interrupted


def arguments(replicas: int) -> Arguments:
    return Arguments(
        model=["digits"],
        backend="torch",
        batch_invariant=True,
        limits=Limits(slots=HELD, drain_seconds=SECONDS),
        replicas=replicas,
        max_ongoing_requests=HELD,
        max_queued_requests=QUEUED,
        retry_after_s=1.0,
        num_cpus=0.2,
        ingress_num_cpus=0.1,
        health_check_period_s=1.0,
    )


class Service:
    """Under test.

    Attributes:
        cluster: it runs on.
        remote: its address.
    """

    def __init__(self, cluster: Cluster, remote: Remote) -> None:
        self.cluster, self.remote = cluster, remote

    def asked(self, seed: int, **fields: Any) -> Answer:
        """A digit whose label follows from its seed."""
        fields = {"model": "digits", "prompt": str(seed % 10), "seed": seed, **fields}
        return self.remote.post("/v1/images/generations", fields, timeout=SECONDS)

    def together(self, seeds: range, **fields: Any) -> list[Future[Answer]]:
        """All at once."""
        pool = ThreadPoolExecutor(len(seeds))
        futures = [pool.submit(self.asked, seed, **fields) for seed in seeds]
        pool.shutdown(wait=False)
        return futures

    def replicas(self) -> list[int]:
        """Their processes."""
        return self.cluster.processes("ServeReplica:default:Engine")

    def running(self) -> dict[str, float]:
        """How many images run or wait on each replica."""
        rows: dict[str, float] = {}
        for line in self.remote.get("/metrics").body.decode().splitlines():
            if line.startswith(("fewstep_batch_rows{", "fewstep_queue_depth{")):
                name = line.partition('replica="')[2].partition('"')[0]
                rows[name] = rows.get(name, 0.0) + float(line.rpartition(" ")[2])
        return rows

    def await_replicas(self, count: int) -> None:
        """Wait until so many answer."""

        def there() -> bool:
            states = serve.status().applications["default"].deployments["Engine"].replica_states
            return states == {"RUNNING": count} and len(self.running()) == count

        until(there, SECONDS)


@pytest.fixture
def service() -> Iterator[Service]:
    with cluster() as started:
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build_app(arguments(2)))
        service = Service(started, Remote("127.0.0.1", port))
        service.await_replicas(2)
        try:
            yield service
        finally:
            serve.shutdown()


def pixels(answer: Answer) -> NDArray[np.uint8]:
    assert answer.status == 200, answer.body
    (image,) = answer.json["data"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))))


def test_two_replicas_stand_what_happens_to_them(service: Service) -> None:
    """One cluster for all of it, since it takes longer to start than what happens to it."""
    alone = images_are_the_engines_own(service)
    streams_pass_through(service)
    overload_is_refused(service, alone)
    a_killed_replica_costs_nobody_an_image(service, alone)


def images_are_the_engines_own(service: Service) -> dict[int, NDArray[np.uint8]]:
    """The images of the long requests, alone on the service and as the engine draws them."""
    alone = {seed: pixels(service.asked(seed, **LONG)) for seed in range(3)}
    teacher = digits_family().member(30).engine
    own = teacher.sample(labels=list(alone), seeds=list(alone), steps=30, output="uint8").images[:, :, :, 0].numpy()
    for seed, image in alone.items():
        assert np.abs(image.astype(int) - own[seed]).max() <= 1  # rounding of another batch

    mixed = [(seed, {"num_inference_steps": steps}) for seed, steps in enumerate((1, 2, 4, 8, 1, 2))]
    one_by_one = [pixels(service.asked(seed, **fields)) for seed, fields in mixed]
    with ThreadPoolExecutor(len(mixed)) as pool:
        at_once = list(pool.map(lambda each: pixels(service.asked(each[0], **each[1])), mixed))
    for one, other in zip(one_by_one, at_once, strict=True):
        np.testing.assert_array_equal(one, other)
    return alone


def streams_pass_through(service: Service) -> None:
    body = {"model": "digits", "prompt": "3", "seed": 3, "stream": True, "partial_images": 2, **LONG}
    with service.remote.stream("/v1/images/generations", body, timeout=SECONDS) as events:
        names = [each.event for each in events]
    assert names[-1] == "image_generation.completed"
    assert names[:-1] == ["image_generation.partial_image"] * 2


def overload_is_refused(service: Service, alone: dict[int, NDArray[np.uint8]]) -> None:
    answers = [each.result() for each in service.together(range(40), **LONG)]
    refused = [answer for answer in answers if answer.status != 200]
    assert refused
    for answer in refused:
        assert answer.status == 429
        assert answer.headers["retry-after"] == "1"
        assert answer.error["type"] == "rate_limit_error"
    right(answers, alone)


def a_killed_replica_costs_nobody_an_image(service: Service, alone: dict[int, NDArray[np.uint8]]) -> None:
    victim, survivor = service.replicas()
    futures = service.together(range(CROWD), **LONG)
    until(lambda: sum(count > 0 for count in service.running().values()) == 2, SECONDS)
    service.cluster.kill(victim)
    answers = [each.result() for each in futures]
    assert [answer.body for answer in answers if answer.status != 200] == []  # those of the dead one by the other
    right(answers, alone)
    assert survivor in service.replicas()
    service.await_replicas(2)
    right([service.asked(0, **LONG)], alone)


def right(answers: list[Answer], alone: dict[int, NDArray[np.uint8]]) -> None:
    """Every image that came is its own request's, to the bit as that one is alone."""
    for seed, answer in enumerate(answers):
        if answer.status == 200:
            assert answer.json["data"][0]["fewstep"]["seed"] == seed
            if seed in alone:
                np.testing.assert_array_equal(pixels(answer), alone[seed])
