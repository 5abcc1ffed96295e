"""A threaded server on loopback that starts at once, again at once, and stops without waiting for
its clients."""

import socket
import socketserver
import threading
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

# What is on this machine is not asked for through a proxy of the environment.
DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Loopback(socketserver.ThreadingTCPServer):
    """Listens on 127.0.0.1 as soon as it is made; *port* 0 takes a free one.

    *name* says in the error who could not listen: an OSError with one sentence.
    """

    # A second start must not wait until the kernel has forgotten the first.
    allow_reuse_address = True
    # http.server's 5 would turn a burst of clients into resets that nobody armed.
    request_queue_size = 128

    def __init__(
        self, name: str, port: int, handler: type[socketserver.BaseRequestHandler]
    ) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name=name)
        try:
            super().__init__(("127.0.0.1", port), handler)
        except OSError as taken:
            raise OSError(
                taken.errno, f"{name} cannot listen on port {port}: {taken.strerror}"
            ) from taken

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, hang up on who is still there, and wait for the threads that
        served them."""
        self.shutdown()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
        self._thread.join()

    def has_unread(self) -> bool:
        """Whether somebody has sent something that is not read yet, as Linux tells; elsewhere
        nobody can."""
        port = f":{self.port:04X}"
        with suppress(OSError):
            for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
                _, local, _, _, queues, *_ = line.split()
                if local.endswith(port) and not queues.endswith(":00000000"):
                    return True
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)
