"""The eager runner keeps small buffers for the next run of their kind, which finds nothing of the last one in them."""

from typing import Any

import pytest
import torch

from fewstep.run.decode import Decoder
from fewstep.run.runners import KEPT, EagerRunner
from support.small import small_engine

RUNS: dict[str, dict[str, Any]] = {
    "ddim": {},
    "noise of each row": {"sampler": "ddpm"},
    "history": {"sampler": "unipc", "steps": 5},
    "guided": {"guidance_scale": 3.0},
    "log_prob": {"sampler": "ddpm", "log_prob": True},
    "pixels": {"output": "uint8"},
}


@pytest.mark.parametrize("batch_invariant", [False, True], ids=["exactly filled", "with idle slots"])
@pytest.mark.parametrize("asked", RUNS.values(), ids=RUNS)
def test_a_run_leaves_nothing_to_the_next(asked: dict[str, Any], batch_invariant: bool) -> None:
    ways: dict[str, Any] = {"device": "cpu", "batch_invariant": batch_invariant}
    used, fresh = small_engine(**ways), small_engine(**ways)
    wanted = fresh.sample(labels=[1, 2], seeds=7, **asked)
    first = used.sample(labels=[3, 4], seeds=1, **asked)
    kept = first.images.clone()
    for buffers, _ in used._runner._free.values():  # type: ignore[attr-defined]
        for tensor in (buffers.x, buffers.x_in, buffers.history, buffers.noise, buffers.log_prob, buffers.statistics):
            if tensor is not None:
                tensor.fill_(torch.nan)
    found = used.sample(labels=[1, 2], seeds=7, **asked)
    assert torch.equal(found.images, wanted.images)
    if wanted.log_prob is not None and found.log_prob is not None:
        torch.testing.assert_close(found.log_prob, wanted.log_prob, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(first.images, kept)  # what a user has got is theirs


def test_buffers_are_one_runs_at_a_time_and_its_own_where_somebody_looks() -> None:
    engine, runner = small_engine(device="cpu"), EagerRunner()
    denoiser, signature, _ = engine.prepared(engine.samples(labels=[1], seeds=0), None, watched=False)
    decoder = Decoder(None, engine.model.shape, torch.float32)

    def opened(stepwise: bool = False) -> Any:
        return runner.prepare(denoiser, decoder, signature, 4, stepwise)

    first, second, watched = opened(), opened(), opened(stepwise=True)
    watched.close()
    first.close()
    third, fourth = opened(), opened()
    assert third.buffers is first.buffers
    assert len({id(run.buffers) for run in (second, third, fourth, watched)}) == 4


def test_few_are_kept_and_none_that_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = small_engine(device="cpu")
    for count in range(1, KEPT + 3):
        engine.sample(count, seeds=0)
    free = engine._runner._free  # type: ignore[attr-defined]
    assert [signature.samples for signature in free] == [*range(3, KEPT + 3)]
    monkeypatch.setattr("fewstep.run.runners.KEPT_BYTES", 100)
    engine.sample(9, seeds=0)
    assert 9 not in [signature.samples for signature in free]
