"""Reading of stored secrets in threads: a vault that hangs holds up neither the child's end nor a signal."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, wait
from threading import Thread

from agentguard.concurrency.abandonable import AbandonableThreads, NoThread
from agentguard.credentials.sources import SecretSource
from agentguard.errors import IssueError
from agentguard.model import Secret

__all__ = ["StoredReads"]

_SECONDS = 60.0  # a vault's library may try more than once, and find its own credentials first

_threads = AbandonableThreads("agentguard exec")


class StoredReads:
    """One read of each of *sources*, side by side. They begin at once, and take at most *seconds*.

    A read that takes longer fails, and its thread is left alone.
    """

    def __init__(self, sources: Mapping[str, SecretSource], *, seconds: float = _SECONDS) -> None:
        self._futures: dict[str, Future[Secret]] = {key: Future() for key in sources}
        for key, source in sources.items():
            arguments = (source, seconds, self._futures[key])
            try:
                Thread(target=_read, args=arguments, name="agentguard-exec", daemon=True).start()
            except RuntimeError:
                self._futures[key].set_exception(
                    IssueError(f"{source.name}: the system gives no more threads")
                )

    def wait(self, seconds: float) -> bool:
        """Wait for all reads, for at most *seconds*. Return whether all have ended."""
        return not wait(self._futures.values(), seconds).not_done

    def values(self) -> dict[str, Secret]:
        """Return the secrets, by the keys of their sources, after all reads have ended.

        Raises:
            IssueError: One of them could not be read in its time.
        """
        return {key: future.result() for key, future in self._futures.items()}


def _read(source: SecretSource, seconds: float, future: Future[Secret]) -> None:
    try:
        future.set_result(_threads.run(seconds, source.read, party=source.name))
    except TimeoutError:
        future.set_exception(IssueError(f"{source.name}: no answer within {seconds:g} seconds"))
    except NoThread as error:
        future.set_exception(IssueError(f"{source.name}: {error}"))
    except BaseException as error:  # noqa: BLE001  whoever waits, in another thread, gets it
        future.set_exception(error)
