"""Creates the virtual environments of the clients: one for each list in `requirements/`.

They are outside the repository. A folder's name has a hash of the list and the Python version, so
that a second run installs nothing.
"""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import venv

LISTS = pathlib.Path(__file__).parent / "requirements"
UV = "uv==0.13.9"


def cache_folder():
    """The folder of the environments: PODIUM_CLIENTS_CACHE, or a folder in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("PODIUM_CLIENTS_CACHE") or pathlib.Path(home) / "podium" / "clients-venv")


def prepare(names):
    """Creates the missing environments of `names`. Returns the Python of each by name."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        # Concurrent runs install one after the other.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return {name: str(environment(folder, name)) for name in sorted(names)}


def environment(folder, name):
    """Creates one environment unless it exists. Returns its Python."""
    requirements = LISTS / f"{name}.txt"
    digest = hashlib.sha256(f"{sys.version_info[:2]}".encode() + requirements.read_bytes()).hexdigest()[:12]
    install = ["pip", "install", "--quiet", "--requirement", requirements, "--python"]
    return create_environment(folder / f"{name}-{digest}", False, lambda python: [installer(folder), *install, python])


def installer(folder):
    """Installs uv unless it exists. Returns its path."""
    name = UV.replace("==", "-")
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV]
    return create_environment(folder / name, True, lambda python: [python, *pip]).with_name("uv")


def uv_settings():
    """The environment variables, with pip's index and certificates also for uv."""
    same = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_CERT": "SSL_CERT_FILE"}
    return {**{uv: os.environ[pip] for pip, uv in same.items() if pip in os.environ}, **os.environ}


def create_environment(folder, with_pip, command):
    """Creates the environment `folder` with `command` unless it is complete. Returns its Python."""
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        print(f"installing {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=with_pip, symlinks=True)
        subprocess.run([str(part) for part in command(python)], check=True, stdin=subprocess.DEVNULL, env=uv_settings())
        complete.touch()
    return python
