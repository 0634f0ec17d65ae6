"""A proxy between a store and its server, which hangs up when a test says so."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

__all__ = ["Proxy"]


class Proxy:
    """Passes bytes on to a port of this machine.

    When a question holds *trigger*, it is passed on, and the connection to the one who asks is cut, so that
    nobody hears the answer. That happens once. `cut` cuts all connections.
    """

    def __init__(self, port: int) -> None:
        self.trigger: bytes | None = None
        self._server = port
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """Hang up on everybody; new connections are passed on."""
        for one in list(self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up and listen no more."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        time.sleep(0.05)
        for one in self._sockets:
            one.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._sockets.append(client)
            try:
                server = socket.create_connection(("127.0.0.1", self._server))
            except OSError:  # it is not there now
                client.close()
                continue
            self._sockets.append(server)
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(one, other, one is client), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, is_question: object) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                cut = is_question and self.trigger is not None and self.trigger in data
                if cut:
                    self.trigger = None
                    one.shutdown(socket.SHUT_RDWR)
                other.sendall(data)
                if cut:
                    time.sleep(0.2)  # the server answers meanwhile
                    break
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
