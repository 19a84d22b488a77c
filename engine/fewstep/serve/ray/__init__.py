"""Serving on several machines: Ray Serve routes, scales and restarts, and each replica has an engine and a batcher.

    serve run fewstep.serve.ray:build_app model=digits replicas=2

`data` draws sets of images offline.
"""

from fewstep.errors import FewstepError

try:
    import ray as _ray  # noqa: F401 (only whether it is there)
except ImportError as error:  # pragma: no cover (the extra is installed wherever this is tested)
    raise FewstepError("Ray is not installed: pip install 'fewstep[ray]'") from error

from fewstep.serve.ray.app import build_app
from fewstep.serve.ray.arguments import Arguments

__all__ = ["Arguments", "build_app"]
