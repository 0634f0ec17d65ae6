"""The public face of the policy enforcement point.

    guard      `Guard`: made from a file or from parts; offers the flow to langchain
    tasks      its methods that begin, find and derive tasks, and work off the outbox
    facts      its methods that declare facts
    decisions  its methods that decide without a call, answer for a person, and reload rules
    endpoints  its methods that return ASGI applications for other services
    life       its methods that end it
    display    how it is shown

The flow itself is `enforcement`, which knows no framework. The face is a room of its own because it needs
`config` and `langchain`, which need the flow.

The end of a guard
    `close` and `aclose` leave nothing alive; `with guard:` and ``async with guard:`` call them. So does
    the exit of a process, in which calls that still run have no time left. A process that is killed
    (SIGKILL) revokes nothing: the next one that uses the store does, when its first task begins. Make one
    guard for each process, and as many agents with it as you like. A guard may be made before a fork or
    after it: a child has connections, threads and calls of its own.

    script, notebook     ``with Guard.from_file(...) as guard:``. In a notebook make the guard in a cell
                         of its own, and close it before the cell runs again: the old one would keep its
                         files open until it is collected.
    uvicorn, hypercorn   ``FastAPI(lifespan=guard.lifespan)``, and ``--timeout-graceful-shutdown 20``: on
                         SIGTERM the server takes no more requests, waits that long, cancels what is left,
                         and then closes the guard (examples/service.py). Without that option it waits for
                         each request to its end.
    gunicorn             With uvicorn's worker the same lifespan. gunicorn kills a worker `graceful_timeout`
                         (30 s) after SIGTERM, so a request needs a shorter end of its own
                         (examples/workers/asgi.conf.py). Sync workers close the guard in `worker_exit`, and
                         by a timer where a request hangs (examples/workers/sync.conf.py). With
                         ``preload_app`` the guard is made before the fork, which is fine.
    Celery               ``@worker_process_shutdown.connect`` on a function of a module, which closes the
                         guard in each process of the pool: Celery holds it weakly, so a lambda would be
                         gone (examples/workers/celery_tasks.py). On SIGTERM Celery waits for the tasks that
                         run (a warm shutdown), whose tools need time-outs of their own.
    other processes      ``signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))`` around ``with guard:``,
                         or `close` in the handler itself: that ends the call of the interrupted thread at
                         once.
    Kubernetes           ``terminationGracePeriodSeconds`` longer than both: the server's time and that of
                         `close`, which is *timeout* and at most four times the guard's own `timeout`
                         after it.
"""

from agentguard.guard.guard import Guard

__all__ = ["Guard"]
