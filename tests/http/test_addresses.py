"""Which addresses a rule may call, in whatever spelling."""

import pytest

from function.http.addresses import is_not_public, refuse_target, show_target, target_url
from tests.answers import LINK_LOCAL

NOT_PUBLIC = [
    "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1",
    "127.1", "0.0.0.1", "0", "100.64.0.1", "192.0.0.8", "192.0.2.1", "198.18.0.1",
    "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "0x7f000001", "0x7f.1", "2130706433", "017700000001", "0177.0.0.1", "10.1", "167772161",
    "[::1]", "[::]", "[::ffff:10.0.0.1]", "[::ffff:8.8.8.8]", "[::ffff:0a00:1]", "[::10.0.0.1]",
    "[64:ff9b::10.0.0.1]", "[64:ff9b::808:808]", "[64:ff9b:1::a00:1]", "[2002:a00:1::1]",
    "[2002:808:808::1]", "[2001::1]", "[2001:db8::1]", "[fc00::1]", "[fd12:3456::1]", "[fe80::1]",
    "[fec0::1]", "[ff02::1]", "[100::1]", "[3fff::1]", "[::ffff:0:10.0.0.1]",
    "localhost", "LOCALHOST.", "a.localhost", "metadata.google.internal", "10.0.0.1.",
    "fe80::1%eth0",
]  # fmt: skip
PUBLIC = [
    "8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "192.167.1.1", "100.63.0.1", "100.128.0.1",
    "11.0.0.1", "223.255.255.255", "134744072", "[2606:4700::1111]", "[2a00:1450:4001:80b::200e]",
    "[2400::1]", "example.com", "localhost.example.com", "10.example.com",
]  # fmt: skip


@pytest.mark.parametrize("host", [*NOT_PUBLIC, *LINK_LOCAL])
def test_what_is_not_of_the_public_internet_is_known_in_any_spelling(host: str) -> None:
    assert is_not_public(host)


@pytest.mark.parametrize("host", PUBLIC)
def test_what_is_public_is_not_refused(host: str) -> None:
    assert not is_not_public(host)


@pytest.mark.parametrize("host", LINK_LOCAL)
def test_where_a_cloud_tells_its_secrets_is_refused_with_allow_private_too(host: str) -> None:
    assert refuse_target(f"https://{host}/", allow_private=True)


@pytest.mark.parametrize("url", ["http://10.0.0.1:8080/x", "https://[::1]/", "http://example.com"])
def test_a_private_url_needs_allow_private(url: str) -> None:
    assert refuse_target(target_url(url), allow_private=False)
    assert refuse_target(target_url(url), allow_private=True) == ""


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/services/T0/planted",
        "https://hooks.example.com/?token=planted",
        "https://user:planted@hooks.example.com/",
        "https://planted@hooks.example.com",
    ],
)
def test_of_a_url_neither_user_nor_path_nor_query_is_shown(url: str) -> None:
    host, address = show_target(url)

    assert host == "hooks.example.com"
    assert address.startswith("https://hooks.example.com/…")
    assert "planted" not in address


def test_the_targets_on_one_host_are_told_apart_and_a_host_alone_is_shown_whole() -> None:
    one, other = (show_target(f"https://a.example.com/{path}")[1] for path in ("a", "b"))

    assert one != other
    assert show_target("https://a.example.com:8443/")[1] == "https://a.example.com:8443"
