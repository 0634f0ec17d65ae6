"""What gunicorn needs for a WSGI application with a guard, in workers that answer one request at a time."""

import signal
from threading import Timer

workers = 2
preload_app = True  # the guard is made once, before the workers are forked
grace = 20  # seconds that a request has to end after SIGTERM
graceful_timeout = grace + 30  # longer than `grace`, and `guard.close` after it: then gunicorn kills a worker


def post_worker_init(worker):  # type: ignore[no-untyped-def]
    """Have SIGTERM close the guard after `grace`, also while a request hangs: its credential is revoked."""
    from sync_app import guard

    def end(number, frame):  # type: ignore[no-untyped-def]
        worker.handle_exit(number, frame)  # gunicorn's own: the worker ends after this request
        closing = Timer(grace, guard.close, [0.0])
        closing.daemon = True
        closing.start()

    signal.signal(signal.SIGTERM, end)


def worker_exit(server, worker):  # type: ignore[no-untyped-def]
    """Close the guard of a worker that ends."""
    from sync_app import guard

    guard.close()
