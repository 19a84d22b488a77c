"""`aiperf profile`, unmodified and without a network, against the digits; `make test-long` installs it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.server_process import Other, server_process
from support.tree import ROOT

pytestmark = pytest.mark.long
COUNT = 20
KINDS = {
    "generations": ["--endpoint-type", "image-generation", "--input-file", "prompts.jsonl"],
    "streamed": [
        *("--endpoint-type", "image-generation", "--input-file", "prompts.jsonl"),
        *("--streaming", "--extra-inputs", "partial_images:2"),
    ],
    "edits": ["--endpoint-type", "image-edit", "--input-file", "edits.jsonl"],
}


@pytest.fixture(scope="module")
def aiperf() -> str:
    found = os.environ.get("FEWSTEP_AIPERF") or shutil.which("aiperf", path=str(ROOT / ".venv/aiperf/bin"))
    assert found, "there is no aiperf: make .venv/aiperf/bin/aiperf"
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[Other]:
    with server_process(digits=True) as other:
        yield other


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aiperf")
    subprocess.run([sys.executable, str(ROOT / "benchmarks/aiperf_inputs.py"), str(folder)], check=True)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_aiperf_finds_no_error(kind: str, aiperf: str, server: Other, inputs: Path, tmp_path: Path) -> None:
    """As docs/serving.md has it; where HF_HUB_OFFLINE is set it does not look at a folder for its tokenizer."""
    command = [
        *(aiperf, "profile", "--url", server.remote.url, "--model", "digits", *KINDS[kind]),
        *("--custom-dataset-type", "single_turn", "--tokenizer", str(inputs / "tokenizer")),
        *("--request-count", str(COUNT), "--concurrency", "4", "--workers-max", "1", "--random-seed", "0"),
        *("--extra-inputs", "num_inference_steps:2", "--ui", "none", "--output-artifact-dir", str(tmp_path)),
    ]
    env = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "PYTHONPATH")}
    done = subprocess.run(command, cwd=inputs, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "profile_export_aiperf.json").read_text())
    latency = found["request_latency"]
    print(f"{kind}: {latency['p50']:.0f} {latency['unit']} p50, {latency['p99']:.0f} p99")
    assert found["request_count"]["avg"] == COUNT
    assert errors(found) == 0
    assert latency["p50"] > 0
    records = [json.loads(line) for line in (tmp_path / "profile_export.jsonl").read_text().splitlines()]
    assert len(records) == COUNT
    assert all(record.get("error") is None for record in records)


def errors(found: dict[str, Any]) -> float:
    """Requests that failed: the export leaves the count out where there are none."""
    return float((found.get("error_request_count") or {"avg": 0})["avg"]) + len(found.get("error_summary") or [])
