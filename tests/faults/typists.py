"""People who type, behind a load balancer, in a process of their own: what they wait for is not for
want of another thread of the trial's.

    python -m tests.faults.typists < sheet.json > answers.json
"""

import http.client
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

# As Slack waits.
SECONDS_MAX = 3.0
CHECK_SECONDS = 0.1


class Balancer:
    """Sends requests to the functions in turn, but to none that is not well: as what stands before
    instances does."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self._well = dict.fromkeys(urls, True)
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def send(self, place: int, body: str, headers: dict[str, str]) -> tuple[int, str, float]:
        """Post *body*: status, answer (what went wrong, where the status is 0), seconds."""
        for attempt in range(len(self._urls)):
            url = self._urls[(place + attempt) % len(self._urls)]
            if not self._well[url]:
                continue
            parts = urlsplit(url)
            connection = http.client.HTTPConnection(parts.netloc, timeout=SECONDS_MAX)
            try:
                connection.connect()
            except OSError:
                self._well[url] = False
                continue
            began = time.monotonic()
            try:
                connection.request("POST", parts.path, body.encode(), headers)
                answer = connection.getresponse()
                return answer.status, answer.read().decode(), time.monotonic() - began
            except (OSError, http.client.HTTPException) as error:
                self._well[url] = False
                return 0, type(error).__name__, time.monotonic() - began
            finally:
                connection.close()
        return 0, "none is well", 0.0

    def _watch(self) -> None:
        while not self._stopped.wait(CHECK_SECONDS):
            for url in self._urls:
                if not self._well[url]:
                    self._well[url] = _is_well(url)


def _is_well(url: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=1.0)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    sheet: dict[str, Any] = json.load(sys.stdin)
    balancer = Balancer(sheet["urls"])
    with ThreadPoolExecutor(sheet["typists"]) as typists:
        answers = list(
            typists.map(
                lambda typed: balancer.send(typed["place"], typed["body"], typed["headers"]),
                sheet["typed"],
            )
        )
    balancer.stop()
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
