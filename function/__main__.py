"""``python -m function``."""

from function.cli import commands

commands(prog_name="python -m function")
