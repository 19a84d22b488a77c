"""/health, /ready and /metrics: what a supervisor, a balancer and Prometheus read."""

import re

from prometheus_client.parser import text_string_to_metric_families

from fewstep.serve.http.front import Front
from fewstep.serve.http.metrics import Metrics
from support.serving import Knobs, Remote, running_server, tiny_family, until


def scraped(remote: Remote) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name, then by labels, as Prometheus reads them."""
    answer = remote.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_a_scrape_counts_what_was_done_and_two_servers_do_not_add_up() -> None:
    route = "/v1/images/generations"
    with running_server() as remote, running_server() as other:
        assert remote.generate(model="tiny", prompt="1", n=3, num_inference_steps=2).status == 200
        assert remote.generate(model="tiny", prompt="1", num_inference_steps=0).status == 400
        assert remote.get("/v1/nowhere/secret").status == 404
        until(lambda: (("route", route), ("status", "400")) in scraped(remote)["fewstep_requests_total"])
        found = scraped(remote)
        assert found["fewstep_requests_total"][("route", route), ("status", "200")] == 1
        assert found["fewstep_images_total"][("model", "tiny"), ("steps", "2")] == 3
        assert found["fewstep_queue_seconds_count"][()] == 3
        assert found["fewstep_request_seconds_count"][(("route", route),)] == 2
        assert found["fewstep_requests_in_progress"][()] == 1  # the scrape itself
        assert found["fewstep_queue_depth"][()] == 0
        assert all(name.startswith("fewstep_") for name in found)
        assert "secret" not in str(found)
        assert not scraped(other).get("fewstep_images_total")


def test_what_runs_is_seen_while_it_runs() -> None:
    knobs = Knobs()
    with running_server(tiny_family(knobs=knobs)) as remote:
        knobs.shut()
        connection = remote.connection()
        body = b'{"model": "tiny", "prompt": "1"}'
        connection.request("POST", "/v1/images/generations", body, {"Content-Type": "application/json"})
        until(knobs.entered.is_set)
        assert scraped(remote)["fewstep_requests_in_progress"][()] == 2
        knobs.open()
        assert connection.getresponse().status == 200
        connection.close()


def test_all_that_a_batcher_says_becomes_a_line() -> None:
    said = {
        "queued": 4,
        "queued_bytes": 100,
        "running": {"a": 2},
        "slots": 16,
        "steps": {"a": 3},
        "rows": {"a": 5},
        "step_seconds": {"a": {4: {"count": 3, "seconds": 0.5}}},
        "faults": {"out_of_memory": 1},
        "restarts": 2,
        "lora_swaps": 1,
        "memory": {"device_allocated": 10, "device_reserved": 20},
        "graphs": {
            "a": {"graphs": [{}, {}], "bytes": 7, "captures": 2, "hits": 9, "evictions": 0},
            "b": {"runner": "eager"},
        },
    }
    metrics = Metrics()
    metrics.watch(lambda: said)
    text = metrics.text().decode()
    for line in (
        "fewstep_queue_depth 4.0",
        "fewstep_queue_bytes 100.0",
        'fewstep_batch_rows{model="a"} 2.0',
        'fewstep_steps_total{model="a"} 3.0',
        'fewstep_step_rows_total{model="a"} 5.0',
        'fewstep_step_seconds_count{bucket="4",model="a"} 3.0',
        'fewstep_step_seconds_sum{bucket="4",model="a"} 0.5',
        'fewstep_faults_total{reason="out_of_memory"} 1.0',
        'fewstep_gpu_memory_bytes{kind="reserved"} 20.0',
        'fewstep_gpu_memory_bytes{kind="graphs"} 7.0',
        'fewstep_graphs{state="held"} 2.0',
        'fewstep_graphs{state="hits"} 9.0',
    ):
        assert re.search(f"^{re.escape(line)}$", text, re.MULTILINE), line


def test_before_and_after_nothing_is_let_in_and_it_is_said_why() -> None:
    with running_server() as remote:
        assert remote.batcher is not None
        remote.batcher.drain(10)
        assert (remote.get("/ready").status, remote.get("/ready").json["status"]) == (503, "draining")
        assert remote.get("/health").status == 200
        answer = remote.generate(model="tiny", prompt="1")
        assert (answer.status, answer.error["code"], answer.headers["connection"]) == (503, "draining", "close")


def test_a_front_without_a_batcher_refuses_and_a_dead_one_stays_dead() -> None:
    front = Front()
    assert (front.phase, front.ready, front.stats(), dict(front.families)) == ("starting", False, {}, {})
    front.end("dead")
    front.end("draining")
    assert front.phase == "dead"
