"""The application: which routers it has, and what every request passes on its way to them."""

from fastapi import FastAPI

from fewstep.serve.batching.batcher import Batcher
from fewstep.serve.http.front import Front
from fewstep.serve.http.guard import BodyGuard, KeyGuard
from fewstep.serve.http.jobs import Jobs
from fewstep.serve.http.logs import Told
from fewstep.serve.http.metrics import Metrics
from fewstep.serve.http.routes import admin, edits, generations, health, jobs, metrics, models, page, rollouts
from fewstep.serve.http.wire.answers import now
from fewstep.serve.http.wire.errors import install_errors
from fewstep.serve.http.wire.pictures import Desk
from fewstep.serve.settings import Settings
from fewstep.version import __version__


def build_app(batcher: Batcher | None, settings: Settings | None = None, *, heartbeat: float = 10.0) -> FastAPI:
    """The application over a batcher, which the caller has started and will close.

    Routes find `request.app.state.batcher`, a `Front` of it, and `request.app.state.settings`.

    Args:
        batcher: who draws; None where there is none yet, and `app.state.batcher.open` will be called.
        settings: of the server.
        heartbeat: seconds of silence after which a stream says that it lives.
    """
    settings = settings or Settings()
    app = FastAPI(title="fewstep", version=__version__, docs_url=None, redoc_url=None)
    counted = Metrics()
    front = Front(batcher, counted.heard, counted.refused)
    counted.watch(front.stats)
    app.state.batcher, app.state.settings, app.state.metrics = front, settings, counted
    app.state.jobs, app.state.desk = Jobs(), Desk()
    app.state.heartbeat, app.state.created = heartbeat, now()
    install_errors(app)
    for each in (generations, edits, rollouts, models, jobs, health, metrics, page):
        app.include_router(each.router)
    if settings.admin and settings.api_key is not None:
        app.include_router(admin.router)
    app.add_middleware(BodyGuard, limits=settings.limits, front=front)  # the last one that is added comes first
    app.add_middleware(KeyGuard, key=settings.api_key)
    app.add_middleware(Told, metrics=counted)
    return app
