"""POST /v1/rollouts: trajectories and how probable each of their steps was, for reinforcement learning."""

import base64
import math
from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from fewstep.errors import ArgumentError
from fewstep.serve.family import Family
from fewstep.serve.http.drawing import finished, headers
from fewstep.serve.http.wire.answers import RolloutsAnswer, Story, now
from fewstep.serve.http.wire.asks import Order, order
from fewstep.serve.http.wire.errors import PROBLEMS
from fewstep.serve.http.wire.fields import Rollout, body_of, read
from fewstep.serve.http.wire.pictures import Desk
from fewstep.serve.http.wire.strict_json import read_object

router = APIRouter()
MAX_STATES: Final = 32 << 20  # bytes of the states of a request, which are kept until its end


@router.post(
    "/v1/rollouts",
    responses={200: {"model": RolloutsAnswer}, **PROBLEMS},
    openapi_extra={"requestBody": body_of(Rollout)},
)
async def rollouts(request: Request) -> Response:
    """Draw trajectories.

    Where the server is batch invariant, the bits of each depend on its own words alone, whatever ran beside it.
    """
    body = read(Rollout, await read_object(request))
    state = request.app.state
    wanted = order(state.batcher, state.settings.limits, body, trajectory=True)
    invariant = batch_invariant(wanted.family)
    if not invariant and body.require_batch_invariant is not False:
        allowed = "false: this server is not batch invariant, so bits may depend on what else runs"
        raise ArgumentError("require_batch_invariant", "true", allowed)
    family, steps = wanted.family, wanted.asks[0].steps
    check_states(len(wanted.asks), family.default_steps if steps is None else steps, family.first.model.shape)
    desk: Desk = state.desk
    stories = await finished(request, wanted.asks)
    data = [await desk(_trajectory, story, body, wanted) for story in stories]
    answer = {"created": now(), "model": wanted.family.name, "batch_invariant": invariant, "data": data}
    return JSONResponse(answer, headers=headers(wanted))


def batch_invariant(family: Family) -> bool:
    """Whether all members' bits are independent of company."""
    return all(member.engine.batch_invariant for member in family.members)


def check_states(count: int, steps: int, shape: Sequence[int]) -> None:
    """ArgumentError where the states of so many trajectories of [C, H, W] are too large to be kept."""
    size = count * (steps + 1) * 4 * math.prod(shape)
    if size > MAX_STATES:
        found = f"{count} of {steps} steps, whose states are {size:,} bytes"
        raise ArgumentError("n", found, f"so few or so short ones that their states are at most {MAX_STATES:,} bytes")


def _trajectory(story: Story, body: Rollout, wanted: Order) -> dict[str, Any]:
    done = story.finished
    assert done is not None
    log_prob = [] if done.log_prob is None else done.log_prob.tolist()
    states = done.states if body.states else None
    raw = None if states is None else states.detach().cpu().numpy().astype("<f4")
    return {
        "b64_json": None if body.images is False else wanted.encoding(done.image),
        "fewstep": story.facts(done),
        "prompt": story.ask.words.get("prompt"),
        "log_prob": [None if math.isnan(nats) else nats for nats in log_prob],
        "states": None if raw is None else base64.b64encode(raw.tobytes()).decode(),
        "states_shape": None if raw is None else list(raw.shape),
    }
