"""The environment: what it is read as, and what is said when it is wrong."""

import itertools
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from function.secretmanager import SecretUnreadable
from function.servicenow import ApiKey, Basic, Credential, OAuth
from function.settings import (
    MAKE_CONFIG_KEY,
    VARIABLES,
    Settings,
    SettingsError,
    credential,
    load_settings,
    missing_for_mutate,
    table,
)
from tests.answers import LINK_LOCAL

REQUIRED = {
    "SOURCE_NAME": "shop-prod",
    "SERVICENOW_INSTANCE_URL": "dev12345",
    "SERVICENOW_USERNAME": "hasura",
    "SERVICENOW_PASSWORD": "planted-password",
}
MAIL = {
    "SMTP_URL": "smtp://127.0.0.1:1025",
    "NOTIFY_FROM": "a@example.com",
    "NOTIFY_TO": "b@example.com",
}


def loaded(**environ: str) -> Settings:
    return load_settings(REQUIRED | environ)


def sentences(error: SettingsError) -> tuple[str, ...]:
    return tuple(map(str, error.faults))


def faults(**environ: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(REQUIRED | environ)
    return sentences(caught.value)


def fault(**environ: str) -> str:
    (only,) = faults(**environ)
    return only


class TestDefaults:
    def test_four_variables_are_enough(self) -> None:
        settings = load_settings(REQUIRED)

        assert settings.source_name == "shop-prod"
        assert settings.servicenow_instance_url == "https://dev12345.service-now.com"
        assert settings.servicenow_username == "hasura"
        assert settings.servicenow_password == "planted-password"
        assert settings.hasura_event_secrets == ()
        assert settings.smtp_url is None

    def test_defaults_are_the_same_in_the_table_and_in_the_record(self) -> None:
        assert load_settings(REQUIRED) == Settings(
            source_name="shop-prod",
            servicenow_instance_url="https://dev12345.service-now.com",
            servicenow_username="hasura",
            servicenow_password="planted-password",
        )

    def test_without_the_four_what_is_missing_is_named_in_a_sentence_each(self) -> None:
        with pytest.raises(SettingsError) as caught:
            load_settings({})

        assert [sentence.split()[0] for sentence in sentences(caught.value)] == [
            "SOURCE_NAME",
            "SERVICENOW_INSTANCE_URL",
            "SERVICENOW_USERNAME",
        ]
        assert all(name in sentences(caught.value)[2] for name in LOGIN)
        assert all("must be set" in sentence for sentence in sentences(caught.value))
        assert str(caught.value).splitlines() == list(sentences(caught.value))

    @pytest.mark.parametrize("name", REQUIRED)
    @pytest.mark.parametrize("blank", ["", "  "])
    def test_an_empty_variable_is_unset(self, name: str, blank: str) -> None:
        assert f"{name} must be set" in fault(**{name: blank})
        assert loaded(RULES_FILE=blank).rules_file == "rules.yaml"


class TestTable:
    def test_every_setting_is_a_variable_and_every_variable_a_setting(self) -> None:
        # The log is set up before there are settings.
        variables = {variable.name.lower() for variable in VARIABLES} - {"log_level"}

        assert variables == {setting.name for setting in fields(Settings)}

    def test_the_table_has_a_line_for_each(self) -> None:
        lines = table().splitlines()

        assert lines[2].startswith("| `SOURCE_NAME` | required |  | ")
        assert len(lines) == len(VARIABLES) + 2
        assert all(line.count("|") == 5 for line in lines)


class TestServiceNow:
    @pytest.mark.parametrize(
        ("written", "read"),
        [
            ("dev12345", "https://dev12345.service-now.com"),
            (" DEV12345 ", "https://dev12345.service-now.com"),
            ("https://Example.service-now.com/", "https://example.service-now.com"),
            ("https://snow.example.com:8443", "https://snow.example.com:8443"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ],
    )
    def test_the_instance_is_an_address_or_a_name(self, written: str, read: str) -> None:
        assert loaded(SERVICENOW_INSTANCE_URL=written).servicenow_instance_url == read

    @pytest.mark.parametrize(
        ("written", "said"),
        [
            ("dev12345.service-now.com", "must be like https://"),
            ("ftp://dev12345.service-now.com", "must be like https://"),
            ("https://", "must be like https://"),
            ("https://dev_1.example.com", "must be like https://"),
            ("https://exa mple.com", "must be like https://"),
            ("https://[::1", "cannot be read"),
            ("https://example.com:99999", "cannot be read"),
            ("https://dev12345.service-now.com/nav_to.do", "must end after the host"),
            ("https://dev12345.service-now.com?x=1", "must end after the host"),
            ("https://dev12345.service-now.com/#x", "must end after the host"),
            ("http://dev12345.service-now.com", "unencrypted"),
            ("http://127.0.0.1.example.com", "unencrypted"),
            ("http://169.254.169.254", "unencrypted"),
            ("https://u:planted-password@dev12345.service-now.com", "must not hold a user"),
        ],
    )
    def test_any_other_address_is_refused(self, written: str, said: str) -> None:
        assert said in fault(SERVICENOW_INSTANCE_URL=written)

    @pytest.mark.parametrize(
        "host", [*LINK_LOCAL, "metadata.google.internal", "METADATA.google.internal"]
    )
    def test_a_link_local_address_is_refused_in_any_spelling(self, host: str) -> None:
        assert "must not be a link-local address" in fault(
            SERVICENOW_INSTANCE_URL=f"https://{host}"
        )
        assert "must not be a link-local address" in fault(
            SERVICENOW_INSTANCE_URL=f"https://{host}:8443/"
        )

    @pytest.mark.parametrize(
        "host",
        [
            "10.0.0.5",
            "192.168.1.2",
            "169.253.1.1",
            "169.255.1.1",
            "[fd12::1]",
            "[2001:db8::1]",
            "metadata.corp",
        ],
    )
    def test_private_addresses_are_taken(self, host: str) -> None:
        assert (
            loaded(SERVICENOW_INSTANCE_URL=f"https://{host}").servicenow_instance_url
            == f"https://{host}"
        )

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("SERVICENOW_USERNAME", "a:b"),
            ("SERVICENOW_USERNAME", "a\tb"),
            ("SERVICENOW_PASSWORD", "x\n"),
        ],
    )
    def test_what_basic_auth_cannot_carry_is_refused(self, name: str, value: str) -> None:
        assert fault(**{name: value}).startswith(name)

    def test_a_password_keeps_its_blanks_and_signs(self) -> None:
        assert loaded(SERVICENOW_PASSWORD=" a,b:c%20 ").servicenow_password == " a,b:c%20 "

    def test_variables_of_others_are_ignored(self) -> None:
        assert loaded(
            METRICS_TOKEN="x", PATH="/bin", HASURA_GRAPHQL_JWT_SECRET="y"
        ) == load_settings(REQUIRED)


GRAPHQL = "https://hasura.example.com/v1/graphql"


class TestHasura:
    def test_how_mutations_are_made_is_read(self) -> None:
        settings = loaded(
            HASURA_GRAPHQL_URL=f" {GRAPHQL}/ ",
            HASURA_ADMIN_SECRET=" planted-secret\n".strip("\n"),
            HASURA_ROLE=" desk ",
            HASURA_TIMEOUT_SECONDS="3.5",
        )

        assert settings.hasura_graphql_url == GRAPHQL
        assert (settings.hasura_admin_secret, settings.hasura_role) == ("planted-secret", "desk")
        assert settings.hasura_timeout_seconds == 3.5
        assert "planted" not in repr(settings)

    def test_nothing_of_it_is_needed_without_a_rule_with_a_mutation(self) -> None:
        settings = loaded()

        assert (settings.hasura_graphql_url, settings.hasura_timeout_seconds) == ("", 10.0)
        assert [str(finding) for finding in missing_for_mutate(settings)] == [
            "HASURA_GRAPHQL_URL must be set, to the address of Hasura's /v1/graphql: a rule has "
            "`mutate`, which tells the app by it."
        ]
        assert missing_for_mutate(loaded(HASURA_GRAPHQL_URL=GRAPHQL)) == ()

    def test_an_address_that_is_none_is_a_fault_that_quotes_nothing(self) -> None:
        sentence = fault(HASURA_GRAPHQL_URL="https://u:planted@hasura.example.com/v1/graphql")

        assert sentence.startswith("HASURA_GRAPHQL_URL must not hold a user or password")
        assert "planted" not in sentence

    @pytest.mark.parametrize("name", ["HASURA_ADMIN_SECRET", "HASURA_ROLE"])
    def test_what_no_header_can_carry_is_refused(self, name: str) -> None:
        assert fault(**{name: "planted\nx"}).startswith(f"{name} must not hold control characters")

    def test_other_settings_make_another_digest_of_mutations_and_none_of_tickets(self) -> None:
        settings = loaded()

        for other in (
            replace(settings, hasura_graphql_url="x"),
            replace(settings, hasura_role="x"),
            replace(settings, hasura_timeout_seconds=1),
        ):
            assert other.mutate_digest != settings.mutate_digest
            assert other.digest == settings.digest
        assert replace(settings, source_name="x").mutate_digest != settings.mutate_digest
        assert replace(settings, hasura_admin_secret="x").mutate_digest == settings.mutate_digest


class TestConfigurationOverHttp:
    KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    TOKEN = "0123456789abcdef"

    def test_token_and_keys_are_read(self) -> None:
        settings = loaded(CONSOLE_TOKEN=f" {self.TOKEN} ", CONFIG_KEY=f"{self.KEY}, {self.KEY}")

        assert (settings.console_token, settings.config_key) == (self.TOKEN, (self.KEY, self.KEY))
        assert self.KEY not in repr(settings)
        assert self.TOKEN not in repr(settings)

    @pytest.mark.parametrize(
        "token", ["short", "fifteen-letters", "sixteen letters or more", "sixteen-lettérs-or-more"]
    )
    def test_a_token_that_is_short_or_that_no_header_can_carry_is_refused(self, token: str) -> None:
        said = fault(CONSOLE_TOKEN=token)

        assert said.startswith("CONSOLE_TOKEN must be 16 or more letters")
        assert token not in said

    @pytest.mark.parametrize("key", ["x", "MDEyMw==", KEY[:-1], f"{KEY},x"])
    def test_a_key_that_is_none_is_refused_with_how_to_make_one(self, key: str) -> None:
        said = fault(CONFIG_KEY=key)

        assert said.startswith("CONFIG_KEY must be a key")
        assert "python -c" in said
        assert key not in said.replace("x", "") or key == "x"

    def test_what_the_hint_says_makes_a_key(self) -> None:
        command = MAKE_CONFIG_KEY.removeprefix("python -c ").strip('"')
        made = subprocess.run(
            [sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=30
        )

        assert loaded(CONFIG_KEY=made.stdout).config_key == (made.stdout.strip(),)

    def test_with_both_the_connection_may_be_left_out(self) -> None:
        settings = load_settings(
            {"SOURCE_NAME": "shop", "CONSOLE_TOKEN": self.TOKEN, "CONFIG_KEY": self.KEY}
        )

        assert (
            settings.servicenow_instance_url
            == settings.servicenow_username
            == settings.servicenow_password
            == ""
        )

    def test_with_both_a_connection_that_is_begun_must_be_whole(self) -> None:
        assert "SERVICENOW_PASSWORD must be set" in fault(
            SERVICENOW_PASSWORD="", CONSOLE_TOKEN=self.TOKEN, CONFIG_KEY=self.KEY
        )

    @pytest.mark.parametrize("only", [{"CONSOLE_TOKEN": TOKEN}, {"CONFIG_KEY": KEY}])
    def test_with_one_of_them_it_may_not(self, only: dict[str, str]) -> None:
        with pytest.raises(SettingsError) as caught:
            load_settings({"SOURCE_NAME": "shop", **only})

        assert [sentence.split()[0] for sentence in sentences(caught.value)] == [
            "SERVICENOW_INSTANCE_URL",
            "SERVICENOW_USERNAME",
        ]


LOGIN = {
    "SERVICENOW_USERNAME": "user",
    "SERVICENOW_PASSWORD": "planted-password",
    "SERVICENOW_CLIENT_ID": "client",
    "SERVICENOW_CLIENT_SECRET": "planted-client-secret",
    "SERVICENOW_API_KEY": "planted-key",
}
USER, WORD, CLIENT, SECRET, KEY = LOGIN
SIGNS_IN: dict[frozenset[str], Credential] = {
    frozenset({USER, WORD}): Basic("user", "planted-password"),
    frozenset({CLIENT, SECRET}): OAuth("client", "planted-client-secret"),
    frozenset({USER, WORD, CLIENT, SECRET}): OAuth(
        "client", "planted-client-secret", "user", "planted-password"
    ),
    frozenset({KEY}): ApiKey("planted-key"),
}


def signing_in(*names: str) -> Mapping[str, str]:
    """An environment that says these of how to sign in, and nothing else about it."""
    return {
        **{name: REQUIRED[name] for name in REQUIRED if name not in LOGIN},
        **{name: LOGIN[name] for name in names},
    }


class TestLogin:
    @pytest.mark.parametrize("names", SIGNS_IN)
    def test_there_are_four_ways_to_sign_in(self, names: frozenset[str]) -> None:
        environ = signing_in(*names)

        assert load_settings(environ).credential == credential(environ) == SIGNS_IN[names]

    def test_every_other_combination_is_a_fault_that_says_what_to_change(self) -> None:
        combinations = [
            frozenset(names)
            for number in range(6)
            for names in itertools.combinations(LOGIN, number)
        ]
        for names in set(combinations) - set(SIGNS_IN):
            with pytest.raises(SettingsError) as loading:
                load_settings(signing_in(*names))
            with pytest.raises(SettingsError) as reading:
                credential(signing_in(*names))

            assert loading.value.faults == reading.value.faults
            assert "planted" not in str(loading.value)

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            (
                [USER],
                "SERVICENOW_PASSWORD must be set when SERVICENOW_USERNAME is: they go together.",
            ),
            (
                [WORD],
                "SERVICENOW_USERNAME must be set when SERVICENOW_PASSWORD is: they go together.",
            ),
            (
                [CLIENT],
                (
                    "SERVICENOW_CLIENT_SECRET must be set when SERVICENOW_CLIENT_ID "
                    "is: they go together."
                ),
            ),
            (
                [SECRET],
                (
                    "SERVICENOW_CLIENT_ID must be set when SERVICENOW_CLIENT_SECRET "
                    "is: they go together."
                ),
            ),
            (
                [CLIENT, SECRET, USER],
                "SERVICENOW_PASSWORD must be set when SERVICENOW_USERNAME is: they go together.",
            ),
            (
                [USER, WORD, CLIENT],
                (
                    "SERVICENOW_CLIENT_SECRET must be set when SERVICENOW_CLIENT_ID is: they go "
                    "together."
                ),
            ),
            (
                [KEY, USER, WORD],
                "SERVICENOW_API_KEY must be unset, or SERVICENOW_USERNAME and "
                "SERVICENOW_PASSWORD: an API key signs in by itself.",
            ),
            (
                [KEY, CLIENT],
                (
                    "SERVICENOW_API_KEY must be unset, or SERVICENOW_CLIENT_ID: an API key "
                    "signs in by itself."
                ),
            ),
            (
                [],
                "SERVICENOW_USERNAME and SERVICENOW_PASSWORD must be set, or "
                "SERVICENOW_CLIENT_ID and SERVICENOW_CLIENT_SECRET, or SERVICENOW_API_KEY: with "
                "one of these the function signs in to ServiceNow.",
            ),
        ],
    )
    def test_a_wrong_combination_is_one_sentence(self, names: list[str], said: str) -> None:
        with pytest.raises(SettingsError) as caught:
            load_settings(signing_in(*names))

        assert sentences(caught.value) == (said,)

    def test_what_is_wrong_by_itself_is_not_called_missing_too(self) -> None:
        with pytest.raises(SettingsError) as caught:
            load_settings({**signing_in(USER, WORD, CLIENT), SECRET: "planted\n"})

        assert sentences(caught.value) == (
            "SERVICENOW_CLIENT_SECRET must not hold control characters, such as a line end.",
        )

    @pytest.mark.parametrize("key", ["planted key", "planted\nkey", "plantéd", "planted\x00"])
    def test_an_api_key_that_no_header_can_carry_is_refused(self, key: str) -> None:
        with pytest.raises(SettingsError) as caught:
            load_settings({**signing_in(), KEY: key})

        assert [sentence.split()[0] for sentence in sentences(caught.value)] == [KEY]
        assert "plant" not in str(caught.value)

    def test_each_may_be_a_reference_and_is_read_anew(self) -> None:
        kept = {
            f"projects/p/secrets/{name}/versions/latest": value for name, value in LOGIN.items()
        }
        environ = {
            name: f"secret://projects/p/secrets/{name}" for name in (USER, WORD, CLIENT, SECRET)
        }
        before = credential(environ, read_secret=kept.__getitem__)
        kept[f"projects/p/secrets/{SECRET}/versions/latest"] = "planted-new"
        after = credential(environ, read_secret=kept.__getitem__)

        assert before == OAuth("client", "planted-client-secret", "user", "planted-password")
        assert after == OAuth("client", "planted-new", "user", "planted-password")

    def test_a_record_shows_none_of_the_secrets_and_its_digest_depends_on_none(self) -> None:
        for names in SIGNS_IN:
            settings = load_settings(signing_in(*names))
            others = replace(
                settings,
                servicenow_password="x",
                servicenow_client_secret="x",
                servicenow_api_key="x",
            )

            assert "planted" not in repr(settings) + repr(settings.credential)
            assert settings.digest == others.digest


class TestLists:
    def test_two_event_secrets_are_valid_while_one_is_replaced(self) -> None:
        old, new = "o" * 16, "new secret; of more"
        assert loaded(HASURA_EVENT_SECRETS=f" {old} , {new},, ").hasura_event_secrets == (old, new)

    @pytest.mark.parametrize(
        "written",
        [
            "Tr0ub4dor&3",
            "x" * 15,
            "correct,horse-battery-staple",
            f"{'x' * 40},y",
            "tr0ub4dor,tr0ub4dor",
            "  short  ",
        ],
    )
    def test_a_short_event_secret_is_refused_as_the_half_of_one_with_a_comma_is(
        self, written: str
    ) -> None:
        said = fault(HASURA_EVENT_SECRETS=written)

        assert said.startswith("HASURA_EVENT_SECRETS must be a secret of 16 or more characters")
        assert "comma" in said
        assert written not in said

    def test_a_short_event_secret_within_a_reference_is_refused_too(self) -> None:
        environ = REQUIRED | {"HASURA_EVENT_SECRETS": "secret://projects/p/secrets/s"}
        with pytest.raises(
            SettingsError, match="HASURA_EVENT_SECRETS must be a secret of 16 or more"
        ):
            load_settings(environ, read_secret=lambda _: "half,and-the-longer-other-half")

    @pytest.mark.parametrize(
        ("name", "whole"),
        [
            ("CONSOLE_TOKEN", "a-token-with-a,comma-in-it"),
            ("CONFIG_KEY", f"{'A' * 20},{'A' * 22}="),
        ],
    )
    def test_no_other_secret_is_cut_in_two_by_a_comma(self, name: str, whole: str) -> None:
        assert fault(**{name: whole}).startswith(f"{name} must be")

    def test_an_event_secret_that_no_header_can_carry_is_refused(self) -> None:
        assert fault(HASURA_EVENT_SECRETS="a\nb").startswith("HASURA_EVENT_SECRETS")

    @pytest.mark.parametrize("name", ["", "a b", "shop:prod", "x" * 41, "läden", "shop\n\nprod"])
    def test_a_source_name_is_plain(self, name: str) -> None:
        assert fault(SOURCE_NAME=name).startswith("SOURCE_NAME")


class TestTheWayBack:
    def test_two_secrets_of_notifications_are_valid_while_one_is_replaced(self) -> None:
        old, new = "o" * 16, "n" * 16

        settings = loaded(SERVICENOW_WEBHOOK_SECRETS=f"{old}, {new}")

        assert settings.servicenow_webhook_secrets == (old, new)
        assert loaded().servicenow_webhook_secrets == ()
        assert fault(SERVICENOW_WEBHOOK_SECRETS="short").startswith("SERVICENOW_WEBHOOK_SECRETS")

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            ("https://tickets.example.com", "https://tickets.example.com"),
            (" https://tickets.example.com/ ", "https://tickets.example.com"),
            (
                "https://europe-west1-shop.cloudfunctions.net/tickets//",
                "https://europe-west1-shop.cloudfunctions.net/tickets",
            ),
            ("https://tickets.example.com:8443/a/b", "https://tickets.example.com:8443/a/b"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://localhost/", "http://localhost"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ],
    )
    def test_the_function_s_own_address_may_have_a_path(self, written: str, read: str) -> None:
        assert loaded(PUBLIC_URL=written).public_url == read

    @pytest.mark.parametrize(
        ("written", "said"),
        [
            ("tickets.example.com", "must be the function's address, such as"),
            ("https://", "must be the function's address, such as"),
            ("ftp://tickets.example.com", "must be the function's address, such as"),
            ("https://tickets.example.com?x=1", "must be the function's address, such as"),
            ("https://tickets.example.com/#x", "must be the function's address, such as"),
            ("https://tickets.example.com/a b", "must be the function's address, such as"),
            ("https://läden.example.com", "must be the function's address, such as"),
            ("https://u:planted@tickets.example.com", "must not hold a user or password"),
            ("http://tickets.example.com", "must begin with https://"),
            ("http://localhost.example.com", "must begin with https://"),
        ],
    )
    def test_another_address_is_refused(self, written: str, said: str) -> None:
        sentence = fault(PUBLIC_URL=written)

        assert sentence.startswith(f"PUBLIC_URL {said}")
        assert "planted" not in sentence


class TestLedger:
    @pytest.mark.parametrize(
        "url",
        [
            "sqlite:///ledger.db",
            "sqlite:////var/lib/ledger.db",
            "postgresql://u:p@db/ledger",
            "postgres://u@db/ledger",
            "postgresql:///ledger?host=/cloudsql/a:b:c",
        ],
    )
    def test_the_ledger_is_sqlite_or_postgresql(self, url: str) -> None:
        assert loaded(DATABASE_URL=url).database_url == url

    @pytest.mark.parametrize(
        "url", ["ledger.db", "sqlite://ledger.db", "sqlite:///", "mysql://u:planted-password@db"]
    )
    def test_and_nothing_else(self, url: str) -> None:
        assert fault(DATABASE_URL=url).startswith("DATABASE_URL must be postgresql://")

    def test_a_ledger_in_memory_is_refused(self) -> None:
        assert "forgotten" in fault(DATABASE_URL="sqlite:///:memory:")

    def test_where_a_disk_is_gone_with_the_instance_the_ledger_must_be_named(self) -> None:
        assert fault(K_SERVICE="f").startswith("DATABASE_URL must be set")
        assert (
            loaded(K_SERVICE="f", DATABASE_URL="sqlite:////mnt/ledger.db").database_url
            == "sqlite:////mnt/ledger.db"
        )

    @pytest.mark.parametrize(("written", "read"), [("on", True), ("OFF", False)])
    def test_migrating_is_on_or_off(self, written: str, *, read: bool) -> None:
        assert loaded(LEDGER_MIGRATE=written).ledger_migrate is read

    def test_and_not_maybe(self) -> None:
        assert fault(LEDGER_MIGRATE="maybe") == "LEDGER_MIGRATE must be on or off."


class TestMail:
    def test_a_mail_server_has_its_user_and_password_percent_decoded(self) -> None:
        settings = loaded(
            SMTP_URL="smtp://a%40b:p%2Fw@mail.example.com:2525?starttls=1",
            NOTIFY_FROM=" function@example.com ",
            NOTIFY_TO="ops@example.com, oncall@example.com",
        )

        assert settings.smtp_url is not None
        assert (settings.smtp_url.host, settings.smtp_url.port) == ("mail.example.com", 2525)
        assert (settings.smtp_url.username, settings.smtp_url.password) == ("a@b", "p/w")
        assert settings.notify_from == "function@example.com"
        assert settings.notify_to == ("ops@example.com", "oncall@example.com")

    @pytest.mark.parametrize(
        "url", ["http://mail.example.com", "smtp://u:planted-password@mail.example.com", "mail"]
    )
    def test_a_mail_server_that_cannot_be_used_is_refused(self, url: str) -> None:
        assert fault(**MAIL | {"SMTP_URL": url}).startswith("SMTP_URL is wrong: ")

    def test_a_mail_server_needs_somebody_to_write_to_and_from(self) -> None:
        assert [sentence.split()[0] for sentence in faults(SMTP_URL=MAIL["SMTP_URL"])] == [
            "NOTIFY_FROM",
            "NOTIFY_TO",
        ]

    def test_somebody_to_write_to_needs_a_mail_server(self) -> None:
        assert fault(NOTIFY_TO="ops@example.com").startswith("SMTP_URL must be set")

    @pytest.mark.parametrize(
        "address",
        [
            "ops",
            "Ops <ops@example.com>",
            "a@b@c",
            "ö@example.com",
            "a b@example.com",
            "a\n@b",
            "a@",
        ],
    )
    def test_an_address_is_plain(self, address: str) -> None:
        assert fault(**MAIL | {"NOTIFY_FROM": address}).startswith(
            "NOTIFY_FROM must be plain mail addresses"
        )
        assert fault(**MAIL | {"NOTIFY_TO": f"ops@example.com,{address}"}).startswith(
            "NOTIFY_TO must be plain"
        )


class TestNumbers:
    @pytest.mark.parametrize(
        "name", [variable.name for variable in VARIABLES if variable.name.endswith("_SECONDS")]
    )
    def test_seconds_may_have_a_fraction_and_are_above_nothing(self, name: str) -> None:
        for wrong in ("0", "0.0", "-1", "soon", "nan", "inf", "1e3", "999999999999", "1_000", "٣"):
            assert fault(**{name: wrong}).startswith(f"{name} must be a number of seconds")

    def test_seconds_are_read_as_written(self) -> None:
        assert loaded(SERVICENOW_TIMEOUT_SECONDS=" 0.25 ").servicenow_timeout_seconds == 0.25

    @pytest.mark.parametrize(
        "name", ["SERVICENOW_MAX_CONCURRENCY", "DATABASE_POOL_SIZE", "MAX_BODY_BYTES", "KEEP_DAYS"]
    )
    def test_counts_are_whole_and_bounded(self, name: str) -> None:
        for wrong in ("0", "-1", "1.5", "8 MiB", "999999999999", "9" * 5000):
            assert fault(**{name: wrong}).startswith(f"{name} must be a whole number from ")

    @pytest.mark.parametrize("level", ["TRACE", "10"])
    def test_a_log_level_is_one_of_five(self, level: str) -> None:
        assert loaded(LOG_LEVEL="debug") == loaded(LOG_LEVEL="INFO")
        assert fault(LOG_LEVEL=level).startswith("LOG_LEVEL must be one of DEBUG")

    def test_one_call_fits_into_the_deadline(self) -> None:
        assert loaded(SERVICENOW_TIMEOUT_SECONDS="50").servicenow_timeout_seconds == 50
        assert fault(SERVICENOW_TIMEOUT_SECONDS="51").startswith(
            "SERVICENOW_TIMEOUT_SECONDS (51) must not be more than"
        )

    def test_retrying_lasts_longer_than_one_attempt(self) -> None:
        assert fault(RETRY_FOR_SECONDS="50").startswith(
            "RETRY_FOR_SECONDS (50) must be more than DEADLINE_SECONDS (50)"
        )

    def test_an_event_is_not_forgotten_while_it_is_tried(self) -> None:
        assert fault(KEEP_DAYS="1").startswith(
            "KEEP_DAYS (1) must be longer than RETRY_FOR_SECONDS (86400)"
        )

    @given(deadline=st.integers(1, 3600), data=st.data())
    def test_a_lease_outlives_the_deadline_and_a_call_begun_just_before_it(
        self, deadline: int, data: st.DataObject
    ) -> None:
        timeout = data.draw(st.integers(1, deadline))
        settings = loaded(DEADLINE_SECONDS=str(deadline), SERVICENOW_TIMEOUT_SECONDS=str(timeout))

        assert settings.lease_seconds > deadline + timeout

    def test_a_mutation_that_may_take_longer_than_an_answer_is_refused(self) -> None:
        sentence = fault(HASURA_GRAPHQL_URL=GRAPHQL, HASURA_TIMEOUT_SECONDS="51")

        assert sentence.startswith("HASURA_TIMEOUT_SECONDS (51) must not be more than DEADLINE")
        assert loaded(DEADLINE_SECONDS="5", SERVICENOW_TIMEOUT_SECONDS="5")

    def test_a_lease_outlasts_a_mutation(self) -> None:
        long = {"HASURA_TIMEOUT_SECONDS": "40", "SERVICENOW_TIMEOUT_SECONDS": "20"}

        assert loaded(HASURA_GRAPHQL_URL=GRAPHQL, **long).lease_seconds == 50 + 40 + 10
        assert loaded(**long).lease_seconds == 50 + 20 + 10

    def test_every_fault_is_said_at_once(self) -> None:
        said = faults(
            SOURCE_NAME="a b",
            LOG_LEVEL="loud",
            NOTIFY_TO="ops@example.com",
            RETRY_FOR_SECONDS="1",
            KEEP_DAYS="x",
        )

        assert {sentence.split()[0] for sentence in said} == {
            "SOURCE_NAME",
            "LOG_LEVEL",
            "SMTP_URL",
            "RETRY_FOR_SECONDS",
            "KEEP_DAYS",
        }

    @given(
        st.sampled_from([variable.name for variable in VARIABLES]),
        st.text(st.characters(codec="utf-8")),
    )
    def test_any_text_is_a_setting_or_a_fault_that_names_it(self, name: str, value: str) -> None:
        try:
            load_settings(REQUIRED | MAIL | {name: value})
        except SettingsError as error:
            said = str(error)
        else:
            said = name
        assert name in said


class TestSecrecy:
    def test_a_record_shows_no_secret(self) -> None:
        settings = loaded(
            HASURA_EVENT_SECRETS="planted-event-secret",
            SERVICENOW_WEBHOOK_SECRETS="planted-webhook-secret",
            DATABASE_URL="postgresql://u:planted-database@db/ledger",
            **MAIL | {"SMTP_URL": "smtps://u:planted-mail@mail.example.com"},
        )

        assert "shop-prod" in repr(settings)
        assert "planted" not in repr(settings)

    def test_a_fault_shows_no_secret(self) -> None:
        said = faults(
            SERVICENOW_PASSWORD="planted\n",
            SERVICENOW_INSTANCE_URL="https://u:planted@host/",
            HASURA_EVENT_SECRETS="planted\x00",
            DATABASE_URL="mysql://u:planted@db",
            SMTP_URL="smtp://u:planted@mail.example.com:port",
            SERVICENOW_CLIENT_SECRET="planted\n",
        )

        assert len(said) == 6
        assert "planted" not in " ".join(said)

    def test_the_digest_changes_with_what_decides_a_delivery_and_with_nothing_else(self) -> None:
        settings = loaded()

        for other in (
            replace(settings, source_name="x"),
            replace(settings, servicenow_instance_url="https://x"),
            replace(settings, servicenow_username="x"),
            replace(settings, servicenow_client_id="x"),
            replace(settings, servicenow_timeout_seconds=1),
            replace(settings, deadline_seconds=1),
            replace(settings, retry_for_seconds=1),
        ):
            assert other.digest != settings.digest
        assert (
            replace(settings, servicenow_password="x", database_url="x").digest == settings.digest
        )


class TestReferences:
    def test_any_value_may_be_a_reference(self) -> None:
        kept = {
            "projects/p/secrets/pw/versions/latest": "from-there",
            "projects/p/secrets/url/versions/3": "dev777",
        }
        environ = REQUIRED | {
            "SERVICENOW_PASSWORD": "secret://projects/p/secrets/pw",
            "SERVICENOW_INSTANCE_URL": "secret://projects/p/secrets/url/versions/3",
        }

        settings = load_settings(environ, read_secret=kept.__getitem__)

        assert settings.servicenow_password == "from-there"
        assert settings.servicenow_instance_url == "https://dev777.service-now.com"

    def test_an_element_of_a_list_may_be_a_reference(self) -> None:
        kept = {
            "projects/p/secrets/s/versions/1": "old-secret-of-hasura",
            "projects/p/secrets/s/versions/2": "new-secret-of-hasura,newer-secret-of-hasura",
        }
        environ = {
            "HASURA_EVENT_SECRETS": (
                "secret://projects/p/secrets/s/versions/1, secret://projects/p/secrets/s/versions/2"
            )
        }

        assert load_settings(
            REQUIRED | environ, read_secret=kept.__getitem__
        ).hasura_event_secrets == (
            "old-secret-of-hasura",
            "new-secret-of-hasura",
            "newer-secret-of-hasura",
        )

    @pytest.mark.parametrize(
        "reference",
        ["secret://", "secret://pw", "secret://projects/p/secrets/", "secret://a/b/c/d"],
    )
    def test_a_reference_that_names_no_secret_is_a_fault(self, reference: str) -> None:
        assert fault(SERVICENOW_PASSWORD=reference).startswith(
            "SERVICENOW_PASSWORD must be secret://projects/PROJECT"
        )

    def test_a_secret_that_cannot_be_read_is_named_by_variable_and_resource(self) -> None:
        def refuses(name: str) -> str:
            raise SecretUnreadable("PermissionDenied")

        with pytest.raises(SettingsError) as caught:
            load_settings(
                REQUIRED | {"SERVICENOW_PASSWORD": "secret://projects/p/secrets/pw"},
                read_secret=refuses,
            )

        (only,) = sentences(caught.value)
        assert only.startswith(
            "SERVICENOW_PASSWORD could not be read from projects/p/secrets/pw/versions/latest"
        )
        assert "PermissionDenied" in only

    def test_googles_client_is_not_loaded_before_a_reference_is_met(self) -> None:
        program = (
            "import sys; from function.settings import load_settings; "
            f"load_settings({REQUIRED!r}); "
            "print({'google.cloud.secretmanager', 'grpc'} & set(sys.modules))"
        )

        answer = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
        )

        assert answer.stdout.strip() == "set()"


@pytest.mark.parametrize("password", ["Plan%ted", "plan@ted", "plan[ted", "plan/ted", "plan#ted"])
def test_a_database_url_with_a_raw_character_in_its_password_is_refused_without_repeating_it(
    password: str,
) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(
            {**REQUIRED, "DATABASE_URL": f"postgresql://u:{password}@db.example.com/name"}
        )

    assert "DATABASE_URL must have its user and password percent-encoded" in str(refused.value)
    assert password not in str(refused.value)
