"""The application: which routers it has, and what every request passes on its way to them."""

from fastapi import FastAPI

from fewstep.serve.batching.batcher import Batcher
from fewstep.serve.http.routes import generations
from fewstep.serve.settings import Settings
from fewstep.version import __version__


def build_app(batcher: Batcher, settings: Settings | None = None) -> FastAPI:
    """The application over a batcher, which the caller has started and will close.

    Routes find both as `request.app.state.batcher` and `request.app.state.settings`.
    """
    app = FastAPI(title="fewstep", version=__version__)
    app.state.batcher, app.state.settings = batcher, settings or Settings()
    app.include_router(generations.router)
    return app
