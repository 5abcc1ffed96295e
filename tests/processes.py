"""Functions as production starts them: processes of their own, to be killed by their id."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import requests

from tests.world import SECRET, TOLD, Answered

HERE = Path(__file__).resolve().parent.parent
START_SECONDS_MAX = 30.0
# TCP_CLOSE_WAIT of Linux's net/tcp_states.h, in hex: the other side has closed, and this one has
# not.
_CLOSE_WAIT = "08"
_PORTS = (20_000, 32_000)


def find_free_port() -> int:
    """One below those that the system gives away by itself: nobody else takes it meanwhile."""
    while True:
        port = random.SystemRandom().randrange(*_PORTS)
        with suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port


class Function:
    """One `functions-framework --target=handle`; a context manager."""

    def __init__(
        self, environ: Mapping[str, str], folder: Path, *, source: str = "main.py"
    ) -> None:
        self.port = find_free_port()
        self._environ = {**environ, "PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}
        self._source = source
        self._log = folder / f"function-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, *, wait: bool = True) -> None:
        command = [
            str(Path(sys.executable).parent / "functions-framework"),
            "--target=handle",
            f"--source={self._source}",
            "--host=127.0.0.1",
            f"--port={self.port}",
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=HERE, env=self._environ, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        assert self._process is not None
        until = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                if (
                    requests.get(f"http://127.0.0.1:{self.port}/healthz", timeout=5).status_code
                    == 200
                ):
                    return
            except requests.ConnectionError:
                pass
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"the function did not start:\n{self.log}")
            time.sleep(0.05)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the server; its worker is a child."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def wait(self, seconds: float) -> int:
        """Its exit status, when it ends by itself."""
        assert self._process is not None
        return self._process.wait(timeout=seconds)

    def kill(self) -> None:
        """kill -9, the server and its workers: the process group that was started here."""
        TOLD.append(self.log)
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def send(
        self, body: bytes, *, timeout_seconds: float = 70.0, secret: str | None = SECRET
    ) -> Answered:
        headers = {"Content-Type": "application/json"}
        if secret is not None:
            headers["X-Webhook-Secret"] = secret
        answer = requests.post(
            f"http://127.0.0.1:{self.port}/", data=body, headers=headers, timeout=timeout_seconds
        )
        TOLD.append(f"{answer.headers}{answer.text}")
        retry_after = answer.headers.get("Retry-After")
        return Answered(
            answer.status_code, answer.json(), int(retry_after) if retry_after else None
        )


def serve_one_who_left(functions: Sequence[Function]) -> bool:
    """Whether one of them has a request under way whose sender has hung up, as Linux tells;
    elsewhere nobody can."""
    ports = tuple(f":{function.port:04X}" for function in functions)
    with suppress(OSError):
        for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
            _, address, _, state, *_ = line.split(maxsplit=4)
            if state == _CLOSE_WAIT and address.endswith(ports):
                return True
    return False
