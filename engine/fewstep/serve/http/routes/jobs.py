"""POST /v1/jobs/{request_id}/cancel."""

from typing import Any

from fastapi import APIRouter, Request

from fewstep.serve.http.wire.answers import CancelAnswer
from fewstep.serve.http.wire.errors import ProblemError, problems

router = APIRouter()


@router.post(
    "/v1/jobs/{request_id}/cancel", response_model=CancelAnswer, responses=problems(400, 401, 404, 429, 500, 503)
)
async def cancel(request: Request, request_id: str) -> dict[str, Any]:
    """Cancel what a request waits for, by the id in the header `x-request-id` of its answer, or that it chose."""
    images = request.app.state.jobs.cancel(request_id)
    if images is None:
        message = f"request_id: got {request_id[:128]}; allowed: the id of a request that runs or waits"
        raise ProblemError(404, message, code="job_not_found", param="request_id")
    return {"request_id": request_id, "cancelled": True, "images": images}
