"""``python -m function``."""

import sys

try:
    from function.cli.main import commands
except ModuleNotFoundError as error:
    sys.exit(
        f"{error.name} is not installed in this Python: use .venv/bin/python, "
        "which `make run` makes."
    )

commands(prog_name="python -m function")
