"""python -m function …: what operators do from a shell."""

import click

from function.cli import check, explain, replay, setup, sync
from function.cli.group import commands, open_settings
from function.ledger.backend import LedgerUnavailable, LedgerUnfit
from function.ledger.database import Database

__all__ = ["check", "commands", "explain", "replay", "setup", "sync"]


@commands.command()
def migrate() -> None:
    """Bring the ledger's tables up to date."""
    settings = open_settings()
    database = Database(settings.database_url, pool_size=1)
    try:
        applied = database.migrate()
    except LedgerUnfit as error:
        raise click.ClickException(str(error)) from error
    except LedgerUnavailable as error:
        raise click.ClickException(f"{error}: check DATABASE_URL") from error
    finally:
        database.close()
    done = ", ".join(f"{number:04}" for number in applied)
    click.echo(f"applied migration {done}" if applied else "the ledger is up to date")
