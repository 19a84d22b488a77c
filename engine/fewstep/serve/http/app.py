"""The application: which routers it has, and what every request passes on its way to them."""

from fastapi import FastAPI

from fewstep.serve.batching.batcher import Batcher
from fewstep.serve.http.jobs import Jobs
from fewstep.serve.http.routes import generations, jobs, models
from fewstep.serve.http.wire.answers import now
from fewstep.serve.http.wire.errors import install_errors
from fewstep.serve.http.wire.pictures import Desk
from fewstep.serve.http.wire.request_id import RequestIds
from fewstep.serve.settings import Settings
from fewstep.version import __version__


def build_app(batcher: Batcher, settings: Settings | None = None, *, heartbeat: float = 10.0) -> FastAPI:
    """The application over a batcher, which the caller has started and will close.

    Routes find both as `request.app.state.batcher` and `request.app.state.settings`.

    Args:
        batcher: who draws.
        settings: of the server.
        heartbeat: seconds of silence after which a stream says that it lives.
    """
    app = FastAPI(title="fewstep", version=__version__, docs_url=None, redoc_url=None)
    app.state.batcher, app.state.settings = batcher, settings or Settings()
    app.state.jobs, app.state.desk = Jobs(), Desk()
    app.state.heartbeat, app.state.created = heartbeat, now()
    install_errors(app)
    app.add_middleware(RequestIds)
    for router in (generations.router, models.router, jobs.router):
        app.include_router(router)
    return app
