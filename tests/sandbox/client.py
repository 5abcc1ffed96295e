"""A plain client of the sandbox's ServiceNow, for tests that look at what comes over the wire."""

from typing import Any

import requests

from sandbox.servicenow import ServiceNow

HEX = "0123456789abcdef0123456789abcdef"
CLOSE = {"close_code": "Solution provided", "close_notes": "Cable replaced"}


class Api:
    """A plain client of the Table API: one connection, nothing repeated, no redirect followed."""

    def __init__(self, instance: ServiceNow) -> None:
        self.instance = instance
        self.session = requests.Session()
        self.session.auth = (instance.username, instance.password)
        self.session.headers["Accept"] = "application/json"

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        more.setdefault("timeout", 5)
        return self.session.request(
            method, f"{self.instance.url}{path}", json=body, allow_redirects=False, **more
        )

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        return self.ask(method, f"/api/now/{path}", body, **more)

    def make(self, **fields: object) -> dict[str, Any]:
        answer = self.call("POST", "table/incident?sysparm_exclude_reference_link=true", fields)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()["result"]
        return made

    def patch(self, sys_id: str, /, **fields: object) -> requests.Response:
        return self.call(
            "PATCH", f"table/incident/{sys_id}?sysparm_exclude_reference_link=true", fields
        )

    def found(self, query: str, table: str = "incident", **more: str) -> list[dict[str, Any]]:
        answer = self.call("GET", f"table/{table}", params={"sysparm_query": query, **more})
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["result"]
        return rows


class Time:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


def error(answer: requests.Response) -> tuple[int, str, str | None]:
    told = answer.json()
    assert told["status"] == "failure"
    return answer.status_code, told["error"]["message"], told["error"]["detail"]


def group(instance: ServiceNow, name: str) -> str:
    return next(row["sys_id"] for row in instance.rows("sys_user_group") if row["name"] == name)


def user(instance: ServiceNow, user_name: str) -> str:
    return next(row["sys_id"] for row in instance.rows("sys_user") if row["user_name"] == user_name)
