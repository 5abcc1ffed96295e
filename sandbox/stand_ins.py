"""What stands in for the systems that a person's rules post to, while they are tried here.

A rules file names the URL of a post's target, and the secret that it is signed with, as variables
of `env`. Where nobody has set them, the URL is that of a system of the receiver, which is called as
the variable is, and the secret is made.
"""

import base64
import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

_URL: Final = re.compile(r"\s*\{\{\s*env\.([A-Za-z_]\w{0,63})\s*\}\}\s*", re.ASCII)
_NAME_CHARACTERS_MAX: Final = 32


def find_systems(rules: str, environ: Mapping[str, str]) -> dict[str, str]:
    """By variable, the name of the system that stands in for the target whose URL is that variable
    alone: ``{"BILLING_URL": "billing"}``. None for what *environ* has, and none where the rules
    cannot be read, which the function says."""
    variables: dict[str, str] = {}
    for post in _find_posts(rules):
        named = _URL.fullmatch(str(post.get("url", "")))
        if named and named[1] not in environ:
            variables[named[1]] = _name_system(named[1])
    return variables


def make_secrets(rules: str, environ: Mapping[str, str]) -> dict[str, str]:
    """By variable, a secret in the form that the signature of its post needs; none for what
    *environ* has."""
    made = {}
    for post in _find_posts(rules):
        variable = post.get("secret")
        if isinstance(variable, str) and variable not in environ:
            made[variable] = _make_secret(str(post.get("sign", "")))
    return made


def _find_posts(rules: str) -> Iterator[dict[str, Any]]:
    try:
        read = yaml.safe_load(rules)
    except (yaml.YAMLError, ValueError):
        return
    listed = read.get("rules") if isinstance(read, dict) else None
    for rule in listed if isinstance(listed, list) else ():
        post = rule.get("post") if isinstance(rule, dict) else None
        if isinstance(post, dict):
            yield post


def _name_system(variable: str) -> str:
    """``slack-channel`` of ``SLACK_CHANNEL_URL``."""
    name = variable.lower().removesuffix("_url").strip("_").replace("_", "-")
    return name[:_NAME_CHARACTERS_MAX].strip("-") or "target"


def _make_secret(sign: str) -> str:
    random = secrets.token_bytes(32)
    if sign == "standard":
        return f"whsec_{base64.b64encode(random).decode()}"
    return base64.urlsafe_b64encode(random).decode()
