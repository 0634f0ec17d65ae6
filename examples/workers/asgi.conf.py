"""What gunicorn needs for an ASGI application with a guard: workers that close it in time."""

from uvicorn_worker import UvicornWorker

workers = 2
preload_app = True  # the guard is made once, before the workers are forked
grace = 20  # seconds that a request has to end after SIGTERM; then it is cancelled, and the guard closed
graceful_timeout = grace + 30  # longer than `grace`, and `guard.close` after it: then gunicorn kills a worker


class worker_class(UvicornWorker):  # the name is gunicorn's setting
    """Ends requests after `grace`. Else it waits for them until gunicorn kills it, and closes nothing."""

    CONFIG_KWARGS = UvicornWorker.CONFIG_KWARGS | {"timeout_graceful_shutdown": grace}
