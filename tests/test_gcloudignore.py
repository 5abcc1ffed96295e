"""What a deployment takes along from a working tree with everything in it that people leave there.

`gcloud topic gcloudignore`: the syntax and the meaning are those of .gitignore, so git is asked.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent
LEFT_LYING = [
    "key.json", "service-account.json", "credentials.json", "id_rsa", "server.pem", "server.key",
    "client.p12", ".env",
    ".env.production", ".envrc", ".npmrc", ".netrc", "env.yaml", "env.prod.yaml", "connection.json",
    "secrets.yaml",
    "ledger.db", "ledger.db-wal", "ledger.sqlite3", "prod-ledger.db.bak", "dump.sql",
    "function.log", "nohup.out",
    "notes.txt", "main.py.orig", "main.py~", ".main.py.swp", "rules.yaml.bak", "mine.yaml", ".git",
    ".gitignore",
    "venv/lib/python3.12/site-packages/flask/app.py", ".venv/bin/python", "env/bin/activate.py",
    "build/lib/function/app.py", "node_modules/x/main.py", ".idea/workspace.xml",
    ".vscode/settings.json",
    "terraform/terraform.tfstate", "backup/main.py", "function.zip", "deploy/rules.yaml",
    "tests/main.py",
    "function/.env", "function/.envrc", "function/key.json", "function/ledger.db",
    "function/private.pem",
    "function/app.py.orig", "function/__pycache__/app.cpython-312.pyc",
    "function/__pycache__/old.py",
    "function/migrations/dump.sql.gz", "function/servicenow/token.json", "function/notes/dump.sql",
    "function/servicenow/__pycache__/client.cpython-312.pyc", "Function/app.py", "a file.txt", "-n",
    "!main.py",
]  # fmt: skip


def going_up(folder: Path) -> set[str]:
    """The files that .gcloudignore leaves, by git's own reading of its grammar."""
    # Elsewhere, so that nothing of this machine's or the tree's own git has a say.
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    git = ["git", f"--git-dir={folder.parent / 'git'}", f"--work-tree={folder}"]
    subprocess.run([*git, "init", "--quiet"], env=environ, cwd=folder, check=True)
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--others", f"--exclude-from={folder / '.gcloudignore'}"],
        env=environ,
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return set(listed.stdout.decode().split("\0")) - {""}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with all that the function consists of, and all that people leave lying about."""
    folder = tmp_path / "tree"
    shutil.copytree(
        HERE / "function", folder / "function", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in (
        "main.py",
        "requirements.txt",
        "rules.yaml",
        ".gcloudignore",
        "README.md",
        "docker-compose.yaml",
    ):
        shutil.copy(HERE / name, folder / name)
    for name in LEFT_LYING:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("planted")
    return folder


def test_a_deployment_takes_what_the_function_consists_of_and_nothing_that_lies_beside_it(
    tree: Path,
) -> None:
    needed = {
        str(path.relative_to(HERE))
        for pattern in (
            "main.py",
            "requirements.txt",
            "rules.yaml",
            "function/**/*.py",
            "function/migrations/*.sql",
        )
        for path in HERE.glob(pattern)
    }

    assert len(needed) > 40
    assert going_up(tree) == needed


def test_the_function_starts_from_what_a_deployment_takes(tree: Path, tmp_path: Path) -> None:
    deployed = tmp_path / "deployed"
    for name in going_up(tree):
        (deployed / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / name, deployed / name)
    command = [sys.executable, "-m", "function", "migrate"]
    environ = {
        "SOURCE_NAME": "shop",
        "SERVICENOW_INSTANCE_URL": "dev12345",
        "SERVICENOW_USERNAME": "svc.hasura",
        "SERVICENOW_PASSWORD": "planted-password",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
    }

    assert (
        subprocess.run(command, cwd=deployed, env=environ, timeout=60, check=False).returncode == 0
    )
