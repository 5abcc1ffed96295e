"""Secrets among the variables that rules name: read at start, refused by name, read again."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from function.cli.explain import explain_event
from function.deadline import answer_within
from function.rule_variables import REFRESH_SECONDS, RuleVariables, SecretRefresh
from function.rules.loader import RulesError
from function.rules.model import Rules
from function.secretmanager import READ_SECONDS, SecretUnreadable
from function.sources.hasura import parse_event
from function.wiring import read_rules
from tests.payloads import insert
from tests.processes import HERE

RULES = """\
version: 1
env: [HOOK, TEAM, KEYS]
rules:
  - name: outage
    from: hasura/public.outages
    ticket:
      key: "{{ row.id }}"
      fields: {short_description: "{{ env.TEAM }}", description: "{{ env.HOOK }}"}
"""
HOOK = "secret://projects/p/secrets/hook"
ENVIRON = {"HOOK": HOOK, "TEAM": "network", "KEYS": f"{HOOK}/versions/2, {HOOK}/versions/1"}
LATEST = "projects/p/secrets/hook/versions/latest"


class Vault:
    """Stands for Secret Manager: what it holds, and what was asked of it."""

    def __init__(self) -> None:
        self.holds = {
            LATEST: "planted-hook",
            "projects/p/secrets/hook/versions/2": "two",
            "projects/p/secrets/hook/versions/1": "one",
        }
        self.asked: list[str] = []

    def read(self, name: str) -> str:
        self.asked.append(name)
        if name not in self.holds:
            raise SecretUnreadable("NotFound")
        return self.holds[name]


class Site:
    """A rules file with its environment, read as the function does at start."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "rules.yaml"
        self.file.write_text(RULES)
        self.vault = Vault()
        self.now = 1000.0

    def read(self, **environ: str) -> Rules:
        self.environ = {**ENVIRON, **environ}
        return read_rules(str(self.file), self.environ, read_secret=self.vault.read)

    def variables(self, rules: Rules) -> RuleVariables:
        return RuleVariables(
            rules.env, self.environ, read_secret=self.vault.read, clock=lambda: self.now
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def fault_of(read: Callable[[], Rules]) -> str:
    with pytest.raises(RulesError) as caught:
        read()
    return str(caught.value)


# At start


def test_a_variable_that_names_a_secret_has_its_value_and_others_are_left(site: Site) -> None:
    assert site.read().env == {"HOOK": "planted-hook", "TEAM": "network", "KEYS": "two,one"}


def test_all_rules_share_one_mapping(site: Site) -> None:
    rules = site.read()

    assert all(rule.env is rules.env for rule in rules.rules)


def test_what_no_rule_names_is_not_read(site: Site) -> None:
    site.read(SERVICENOW_PASSWORD="secret://projects/p/secrets/password")

    assert "password" not in " ".join(site.vault.asked)


@pytest.mark.parametrize(
    ("written", "what"),
    [
        (
            "secret://projects/p/hook",
            "rules.yaml:2: env[0]: the variable `HOOK` must be secret://projects/PROJECT/secrets/",
        ),
        (
            f"{HOOK},planted-value",
            "rules.yaml:2: env[0]: the variable `HOOK` must be secret://projects/PROJECT/secrets/",
        ),
        (
            "secret://projects/p/secrets/none",
            "rules.yaml:2: env[0]: the variable `HOOK` could not be read from "
            "projects/p/secrets/none/versions/latest (NotFound): check that it exists",
        ),
        (
            "secret://projects/p/secrets/empty",
            "rules.yaml:2: env[0]: the variable `HOOK` is empty: the secret that "
            "secret://projects/p/secrets/empty names holds nothing",
        ),
    ],
)
def test_a_secret_that_cannot_be_had_is_refused_at_start_by_the_name_of_its_variable(
    site: Site, written: str, what: str
) -> None:
    site.vault.holds["projects/p/secrets/empty/versions/latest"] = " "

    said = fault_of(lambda: site.read(HOOK=written))

    assert what in said
    assert "planted" not in said


def test_every_variable_that_cannot_be_had_is_named_at_once(site: Site) -> None:
    site.vault.holds.clear()

    said = fault_of(site.read)

    assert "`HOOK`" in said
    assert "`KEYS`" in said


def test_a_variable_that_is_not_there_is_refused_by_name(site: Site) -> None:
    environ = {name: value for name, value in ENVIRON.items() if name != "TEAM"}

    said = fault_of(lambda: read_rules(str(site.file), environ, read_secret=site.vault.read))

    assert "rules.yaml:2: env[1]: the environment has no `TEAM`" in said


def test_the_digest_of_the_rules_holds_no_secret_and_outlives_its_rotation(site: Site) -> None:
    first = site.read().digest
    site.vault.holds[LATEST] = "another"

    assert site.read().digest == first
    assert site.read(TEAM="desk").digest != first
    assert site.read(HOOK=f"{HOOK}/versions/2").digest != first


def test_no_secret_stands_in_what_rules_and_variables_look_like(site: Site) -> None:
    rules = site.read()

    assert "planted" not in repr(rules) + repr(site.variables(rules))


def test_googles_library_is_loaded_for_a_rules_file_with_a_secret_only(tmp_path: Path) -> None:
    code = (
        "import sys; from function.wiring import read_rules;"
        "read_rules('rules.yaml', {'HOOK': 'plain', 'TEAM': 'secret', 'KEYS': '',"
        " 'SERVICENOW_PASSWORD': 'secret://projects/p/secrets/s'});"
        "sys.exit('google.api_core' in sys.modules or 'google.cloud.secretmanager' in sys.modules)"
    )
    (tmp_path / "rules.yaml").write_text(RULES)

    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(HERE)},
        timeout=60,
        check=False,
    )

    assert ended.returncode == 0


# Again, after one was refused


def refresh(
    variables: RuleVariables, *names: str, used: int | None = None, refused_before: bool = False
) -> SecretRefresh:
    """After a call with the variables *names* (HOOK) as they are now, or were after *used*
    replacements."""
    sent = names or ("HOOK", "TEAM")
    before = variables.count_replacements(sent) if used is None else used
    return variables.refresh(sent, before, refused_before=refused_before)


REPLACED = SecretRefresh(replaced=True)
CURRENT = SecretRefresh(replaced=False)


def doubtful(seconds: float) -> SecretRefresh:
    return SecretRefresh(replaced=False, wait_seconds=seconds)


def test_a_replaced_secret_is_in_the_rules_after_a_refusal(site: Site) -> None:
    rules = site.read()
    variables = site.variables(rules)
    site.vault.holds[LATEST] = "replaced"

    assert refresh(variables) == REPLACED
    assert rules.rules[0].env["HOOK"] == "replaced"


def test_where_nothing_was_replaced_the_refusal_stands(site: Site) -> None:
    assert refresh(site.variables(site.read())) == CURRENT


def test_what_is_no_secret_is_not_read(site: Site) -> None:
    variables = site.variables(site.read())
    asked = len(site.vault.asked)

    assert refresh(variables, "TEAM") == CURRENT
    assert len(site.vault.asked) == asked


def test_secrets_are_read_again_once_in_a_while_and_not_at_each_refusal(site: Site) -> None:
    variables = site.variables(site.read())
    refresh(variables)
    asked = len(site.vault.asked)
    site.vault.holds[LATEST] = "replaced"

    site.now += REFRESH_SECONDS - 1
    too_early = refresh(variables)
    asked_too_early = len(site.vault.asked)
    site.now += 1
    due = refresh(variables)

    assert (too_early, asked_too_early) == (doubtful(1), asked)
    assert due == REPLACED


def test_each_secret_has_its_own_time_and_only_those_that_were_refused_are_read(
    site: Site,
) -> None:
    variables = site.variables(site.read())
    asked = len(site.vault.asked)
    refresh(variables, "HOOK")
    asked_for_hook = len(site.vault.asked)
    site.vault.holds["projects/p/secrets/hook/versions/1"] = "replaced"

    assert asked_for_hook == asked + 1
    assert refresh(variables, "KEYS") == REPLACED
    assert refresh(variables, "HOOK", "KEYS") == doubtful(REFRESH_SECONDS)


def test_what_waited_for_its_secrets_is_not_kept_waiting_by_those_who_read_them(
    site: Site,
) -> None:
    variables = site.variables(site.read())
    refresh(variables)
    site.now += REFRESH_SECONDS / 2

    assert refresh(variables) == doubtful(REFRESH_SECONDS / 2)
    site.now += REFRESH_SECONDS / 2
    assert refresh(variables, refused_before=True) == CURRENT
    assert refresh(variables, refused_before=True) == CURRENT
    assert refresh(variables) == doubtful(REFRESH_SECONDS)


def test_who_was_refused_with_what_others_have_replaced_meanwhile_is_told_so(site: Site) -> None:
    variables = site.variables(site.read())
    site.vault.holds[LATEST] = "replaced"
    refresh(variables)
    asked = len(site.vault.asked)

    assert refresh(variables, used=0) == REPLACED
    assert len(site.vault.asked) == asked


def test_a_secret_that_cannot_be_read_again_stays_in_doubt_and_is_named_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    rules = site.read()
    variables = site.variables(rules)
    del site.vault.holds[LATEST]
    with caplog.at_level(logging.INFO, "function"):
        refreshed = [refresh(variables), refresh(variables, refused_before=True)]

    assert refreshed == [doubtful(REFRESH_SECONDS)] * 2
    assert rules.env["HOOK"] == "planted-hook"
    assert "the variable HOOK was not read again" in caplog.text
    assert "planted" not in caplog.text


def test_the_log_says_which_secret_was_replaced_and_not_by_what(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    variables = site.variables(site.read())
    site.vault.holds[LATEST] = "planted-anew"
    with caplog.at_level(logging.INFO, "function"):
        refresh(variables)

    assert "the secrets of the variables HOOK were replaced" in caplog.text
    assert "planted" not in caplog.text


def test_many_threads_that_are_refused_at_once_read_it_once(site: Site) -> None:
    rules = site.read()
    variables = site.variables(rules)
    site.vault.holds[LATEST] = "replaced"
    asked = len(site.vault.asked)
    together = threading.Barrier(16)

    def refused(_: int) -> SecretRefresh:
        together.wait()
        return refresh(variables, "HOOK", "KEYS", used=0)

    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(refused, range(16)))

    assert told == [REPLACED] * 16
    # One for HOOK, and two for KEYS.
    assert len(site.vault.asked) == asked + 3


def test_who_has_no_time_left_does_not_wait_for_another_one_s_reading() -> None:
    reading, go_on = threading.Event(), threading.Event()

    def hang(_: str) -> str:
        reading.set()
        go_on.wait(10)
        return "replaced"

    variables = RuleVariables({"HOOK": "first"}, ENVIRON, read_secret=hang)
    thread = threading.Thread(target=variables.refresh, args=(["HOOK"], 0))
    thread.start()
    assert reading.wait(10)
    with answer_within(0.05):
        told = refresh(variables)
    still_reading = thread.is_alive()
    go_on.set()
    thread.join()

    assert (told, still_reading) == (doubtful(READ_SECONDS), True)
    assert variables.count_replacements(["HOOK"]) == 1


def test_without_secrets_there_is_nothing_to_read_again() -> None:
    vault = Vault()
    variables = RuleVariables({"TEAM": "network"}, {"TEAM": "network"}, read_secret=vault.read)

    assert refresh(variables) == CURRENT
    assert vault.asked == []


def test_what_is_shown_has_the_variable_s_name_in_the_place_of_its_secret(site: Site) -> None:
    rules = site.read()
    site.variables(rules).hide()

    assert rules.env == {"HOOK": "(secret HOOK)", "TEAM": "network", "KEYS": "(secret KEYS)"}


def test_explain_shows_no_secret(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    event = parse_event(insert("outages", {"id": 1}))
    explain_event(event, site.read(), site.environ)
    told = capsys.readouterr().out

    assert "    short_description: network" in told
    assert "    description: (secret HOOK)" in told
    assert "planted" not in told
