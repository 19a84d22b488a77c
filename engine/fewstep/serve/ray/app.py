"""The application of Ray Serve: an ingress in front of replicas with an engine each."""

import os
from typing import Any, Final

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig, RequestRouterConfig

from fewstep.serve.ray.arguments import Arguments
from fewstep.serve.ray.dtypes import dtype_of
from fewstep.serve.ray.ingress import Ingress
from fewstep.serve.ray.replica import Replica

KEY: Final = "FEWSTEP_API_KEY"
ROUTER: Final = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
SPARE_SECONDS: Final = 5.0  # for a replica to close, beside what it has to drain


def build_app(args: Arguments) -> Application:
    """The application, for `serve run fewstep.serve.ray:build_app model=digits`, for a config file and `serve.run`.

    Where FEWSTEP_API_KEY is set while the application is built, requests have to bear that key.

    Args:
        args: what is served, and how.

    Raises:
        ArgumentError: a dtype that is none. What else is wrong pydantic has said of `Arguments`.
    """
    dtype_of(args.dtype)
    limits, slots = args.limits, args.limits.slots
    held = args.max_ongoing_requests or 2 * slots
    backpressure = BackpressureConfig(status_code=429, retry_after_s=args.retry_after_s)
    # All replicas in turn, beginning with the one that the key prefers: load spills over when that one is full.
    router = RequestRouterConfig.model_validate(
        {"request_router_class": ROUTER, "request_router_kwargs": {"num_fallback_replicas": args.most_replicas}}
    )
    scaling = AutoscalingConfig(
        min_replicas=args.replicas,
        max_replicas=args.most_replicas,
        target_ongoing_requests=args.target_ongoing_requests or slots,
    )
    engine = _deployed(
        Replica,
        name="Engine",
        **({"num_replicas": args.replicas} if args.max_replicas is None else {"autoscaling_config": scaling}),
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
        max_ongoing_requests=held,
        max_queued_requests=args.max_queued_requests,
        backpressure_config=backpressure,
        request_router_config=router,
        health_check_period_s=args.health_check_period_s,
        health_check_timeout_s=args.health_check_timeout_s,
        graceful_shutdown_timeout_s=limits.drain_seconds + SPARE_SECONDS,
    )
    # The replicas' bounds are reached first, so that a refusal comes from the ingress, in the envelope.
    through = args.most_replicas * held + args.max_queued_requests + 64
    ingress = _deployed(
        serve.ingress()(Ingress),
        name="Ingress",
        num_replicas=args.ingresses,
        ray_actor_options={"num_cpus": args.ingress_num_cpus},
        max_ongoing_requests=through,
        max_queued_requests=through,
        backpressure_config=backpressure,
        graceful_shutdown_timeout_s=limits.drain_seconds + SPARE_SECONDS,
    )
    key = os.environ.get(KEY) or None
    replicas = engine.bind(args.opening, limits, key)
    app: Application = ingress.bind(replicas, limits, args.retries, args.retry_after_s, key)
    return app


def _deployed(actor: type, **options: Any) -> Any:
    return serve.deployment(**options)(actor)
