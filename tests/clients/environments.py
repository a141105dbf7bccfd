"""The virtual environments of the clients: one for each list in `requirements/`, kept outside the repository.

A folder is named after what is in its list and the Python that runs it, so that a second run installs nothing.
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


def cache():
    """Where they are: PODIUM_CLIENTS_CACHE, or a folder in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("PODIUM_CLIENTS_CACHE") or pathlib.Path(home) / "podium" / "clients-venv")


def prepare(names):
    """Makes what is missing of the environments `names`; the Python of each by its name."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        # Two runs at once wait for each other here, and only here.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return {name: str(environment(folder, name)) for name in sorted(names)}


def environment(folder, name):
    """The Python of one environment."""
    requirements = LISTS / f"{name}.txt"
    digest = hashlib.sha256(f"{sys.version_info[:2]}".encode() + requirements.read_bytes()).hexdigest()[:12]
    install = ["pip", "install", "--quiet", "--requirement", requirements, "--python"]
    return made(folder / f"{name}-{digest}", False, lambda python: [installer(folder), *install, python])


def installer(folder):
    """uv, which installs a few hundred packages in seconds."""
    name = UV.replace("==", "-")
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV]
    return made(folder / name, True, lambda python: [python, *pip]).with_name("uv")


def uv_settings():
    """The environment, with pip's index and certificates for uv too."""
    same = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_CERT": "SSL_CERT_FILE"}
    return {**{uv: os.environ[pip] for pip, uv in same.items() if pip in os.environ}, **os.environ}


def made(place, with_pip, command):
    """The Python of the environment in `place`, made by `command` unless it is complete."""
    python, complete = place / "bin" / "python", place / "complete"
    if not complete.exists():
        print(f"installing {place}", file=sys.stderr)
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=with_pip, symlinks=True)
        subprocess.run([str(part) for part in command(python)], check=True, stdin=subprocess.DEVNULL, env=uv_settings())
        complete.touch()
    return python
