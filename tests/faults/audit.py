"""What is true of a site at rest: every row against its tickets, every event against its fate.

The rows are the app's own, in PostgreSQL; what was sent, answered and recorded in between is not
asked.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.faults.site import Site

DESERVING = ("major", "critical")
IMPACT = {"critical": "1", "major": "2"}
ENDED = ("6", "7", "8")
FINAL = ("7", "8")


@dataclass
class Audit:
    """*lost*, *duplicated* and *stale* say what is wrong, a sentence for each case; *dead_letters*
    count by reason."""

    events: int
    deliveries: int
    tickets: int
    dead_letters: Counter[str]
    mails: list[str]
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)


@dataclass
class _Life:
    """What a row's events say of it; *row* is what it is now, None where it is gone."""

    row: dict[str, Any] | None
    steps: list[dict[str, Any]] = field(default_factory=list)

    def put_in_order(self) -> None:
        """A transaction's steps share a time: each begins where another ends."""
        steps, self.steps = self.steps, []
        here = None
        while steps:
            now = [step for step in steps if step["at"] == steps[0]["at"]]
            following = next((step for step in now if step["old"] == here), now[0])
            steps.remove(following)
            self.steps.append(following)
            here = following["new"]

    @property
    def ever_deserved(self) -> bool:
        images = [
            image
            for step in self.steps
            for image in (step["old"], step["new"])
            if image is not None
        ]
        return any(image["severity"] in DESERVING for image in images)

    @property
    def of_another_row(self) -> bool:
        """The row was inserted under the key of one that was deleted, and has not deserved a ticket
        since."""
        inserted = [number for number, step in enumerate(self.steps) if step["old"] is None]
        since = self.steps[inserted[-1] :] if len(inserted) > 1 else []
        return bool(since) and not any(
            step["new"] and step["new"]["severity"] in DESERVING for step in since
        )

    @property
    def must_have_one(self) -> bool:
        """It is to have a ticket as it is and is not fixed, or was fixed after it was to have one
        all its life.

        In another order of arrival, one that was to have none for a while may have been fixed
        before (docs/guarantees.md).
        """
        if self.row is None or self.row["severity"] not in DESERVING:
            return False
        if self.row["status"] != "fixed":
            return True
        images = [image for step in self.steps for image in (step["old"], step["new"])]
        became_well = any(
            step["old"]
            and step["new"]
            and step["old"]["status"] != "fixed"
            and step["new"]["status"] == "fixed"
            for step in self.steps
        )
        return became_well and all(
            image is None or image["severity"] in DESERVING for image in images
        )


def audit(site: Site) -> Audit:
    """Compare the app's rows (public.outages, by the shipped rules) with what stands in
    ServiceNow."""
    incidents = site.servicenow.rows("incident")
    events = site.events()
    [deliveries] = site.sql("SELECT count(*) AS n FROM hdb_catalog.event_invocation_logs")
    letters = {
        row["event"]: row
        for row in site.sql(
            "SELECT event, status, reason, mailed_at FROM servicenow.delivery LEFT JOIN "
            "servicenow.alert USING "
            "(fingerprint) ORDER BY status DESC"
        )
    }
    found = Audit(
        events=len(events),
        deliveries=int(deliveries["n"]),
        tickets=len(incidents),
        dead_letters=Counter(
            str(letter["reason"]) for letter in letters.values() if letter["status"] == "dead"
        ),
        mails=[str(message["Subject"]) for message in site.mailbox.messages],
    )
    _audit_events(found, events, letters)
    [group] = site.servicenow.tables.select("sys_user_group", "name=Network")
    tickets: dict[str, list[dict[str, str]]] = defaultdict(list)
    for incident in incidents:
        tickets[incident["correlation_id"]].append(incident)
    lives = {f"shop:outage:{row['id']}": _Life(row) for row in site.sql("SELECT * FROM outages")}
    for event in events:
        data = event["payload"]["data"]
        for key in {image["id"] for image in (data["old"], data["new"]) if image is not None}:
            # A row that leaves its key is deleted under it, and inserted under the next.
            step = {
                which: image if image and image["id"] == key else None
                for which, image in data.items()
            }
            life = lives.setdefault(f"shop:outage:{key}", _Life(None))
            life.steps.append(step | {"at": event["created_at"]})
    for life in lives.values():
        life.put_in_order()
    for mark in lives.keys() | tickets.keys():
        _audit_row(
            found, mark, lives.get(mark) or _Life(None), tickets.get(mark, []), group["sys_id"]
        )
    return found


def _audit_events(
    found: Audit, events: list[dict[str, Any]], letters: dict[str, dict[str, Any]]
) -> None:
    """Hasura and the ledger say the same of every event, and of every dead letter a
    mail has told."""
    for event in events:
        letter = letters.get(event["id"], {"status": "done"})
        if not (event["delivered"] or event["error"]):
            found.lost.append(f"event {event['id']} still waits")
        elif event["error"] and letter["status"] != "dead":
            found.lost.append(
                f"event {event['id']} is an error in Hasura, and {letter['status']} in the ledger"
            )
        elif event["delivered"] and letter["status"] != "done":
            found.lost.append(
                f"event {event['id']} is delivered in Hasura, and {letter['status']} in the ledger"
            )
        if letter["status"] == "dead" and letter["mailed_at"] is None:
            found.lost.append(f"event {event['id']} is a dead letter that no mail has told of")


def _audit_row(
    found: Audit, mark: str, life: _Life, tickets: list[dict[str, str]], group: str
) -> None:
    chain = chain_generations(tickets)
    if chain is None:
        found.duplicated.append(
            f"{mark} has {[ticket['number'] for ticket in tickets]}, and they are no generations"
        )
    elif any(earlier["state"] not in FINAL for earlier in chain[:-1]):
        found.duplicated.append(
            f"{mark} has {chain[-1]['number']} after a ticket that was not closed"
        )
    elif chain and not life.ever_deserved:
        found.duplicated.append(f"{mark} has {chain[-1]['number']} and never deserved one")
    elif not chain and life.must_have_one:
        found.lost.append(f"{mark} has no ticket; {_said(life.row)}")
    elif chain and life.row is not None and life.of_another_row:
        # An INSERT whose `when` is false may leave no evidence, so that changes after it can be
        # taken for the former row's (docs/guarantees.md).
        if life.steps[-1]["old"] is None and chain[-1]["state"] not in ENDED:
            found.stale.append(
                f"{mark}: {chain[-1]['number']} is open, and its row is gone; {_said(life.row)}"
            )
    elif chain:
        _audit_ticket(found, mark, life.row, chain[-1], group)


def _audit_ticket(
    found: Audit, mark: str, row: dict[str, Any] | None, ticket: dict[str, str], group: str
) -> None:
    """The shipped rule, written down once more: what each field says."""
    well = row is None or row["status"] == "fixed"
    wanted: dict[str, str] = {}
    if ticket["state"] in FINAL and row is not None and row["severity"] not in DESERVING:
        # People closed it, which is final, and a row that does not deserve a ticket is given no
        # other one.
        return
    if well != (ticket["state"] in ENDED):
        found.stale.append(
            f"{mark}: {ticket['number']} is in state {ticket['state']}, {_said(row)}"
        )
    elif row is not None and ticket["state"] != "7":
        wanted = {
            "short_description": row["title"],
            "description": row["details"] or "",
            "assignment_group": group,
        }
        if row["severity"] in IMPACT:
            wanted |= {"impact": IMPACT[row["severity"]], "urgency": IMPACT[row["severity"]]}
        if well:
            wanted |= {
                "close_code": "Solution provided",
                "close_notes": row["resolution"] or "Fixed in the app",
            }
    wrong = {name: ticket[name] for name, value in wanted.items() if ticket[name] != value}
    if wrong:
        found.stale.append(f"{mark}: {ticket['number']} says {wrong}, {_said(row)}")


def chain_generations(tickets: list[dict[str, str]]) -> list[dict[str, str]] | None:
    """One key's tickets as generations, each the parent of the next; None where they are not."""
    by_parent = {ticket["parent_incident"]: ticket for ticket in tickets}
    if len(by_parent) < len(tickets) or (tickets and "" not in by_parent):
        return None
    chain: list[dict[str, str]] = []
    follows = by_parent.get("")
    while follows is not None:
        chain.append(follows)
        follows = by_parent.get(follows["sys_id"])
    return chain if len(chain) == len(tickets) else None


def _said(row: dict[str, Any] | None) -> str:
    return "and the row is gone" if row is None else f"and the row says {row}"
