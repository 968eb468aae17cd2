"""A real JupyterLab on a port of its own, with one notebook, for tests that open it in a browser.

Settings, kernels' files and workspaces lie in the test's folder, nothing is fetched, and server and kernels are gone
at the end, whatever happens.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil
import pytest
from browsers import Browser, Page

NOTEBOOK = "workbench.ipynb"


@contextmanager
def notebook(
    folder: Path, browser: Browser, cells: Sequence[str], width: int = 1100, height: int = 1000
) -> Iterator[Page]:
    """The page of a notebook with these cells in JupyterLab, none of them run yet; its kernel is this Python.

    Skips where there is no JupyterLab, or no browser.
    """
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    root = folder / "root"
    root.mkdir()
    v4 = nbformat.v4
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells], metadata=kernel), root / NOTEBOOK)
    with (
        server(folder, root) as (address, token),
        browser.opened_at(f"{address}/lab/tree/{NOTEBOOK}?token={token}", width, height) as page,
    ):
        # the app is there before the notebook is, and the notebook before its kernel
        page.wait("!!(window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell'))", 60)
        page.wait("window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", 60)
        yield page


def run_all(page: Page) -> None:
    """Begin to run every cell."""
    page.ask("void window.jupyterapp.commands.execute('notebook:run-all-cells')")


def evaluated(page: Page, expression: str) -> str:
    """The repr of a Python expression in the notebook's kernel, which has to answer now."""
    kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
    request = {"code": "", "silent": False, "store_history": False, "user_expressions": {"it": expression}}
    reply = page.ask(f"{kernel}.requestExecute({json.dumps(request)}).done.then(reply => reply.content)")
    answer = reply["user_expressions"]["it"]
    assert answer["status"] == "ok", answer
    return answer["data"]["text/plain"]


@contextmanager
def server(folder: Path, root: Path) -> Iterator[tuple[str, str]]:
    """Address and token of a JupyterLab server that serves ``root`` and keeps all else in ``folder``."""
    token = secrets.token_hex(8)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_"))},
        **{f"JUPYTER_{name}": str(folder / name.lower()) for name in places},
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    quiet = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": root,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
        "LabApp.extension_manager": "readonly",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", *(f"--{k}={v}" for k, v in options.items())]
    log = folder / "server.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=file, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while not _answers(f"{address}/api?token={token}"):
            assert process.poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-3000:]
            time.sleep(0.1)
        yield address, token
    finally:
        _stop(process, f"{address}/api/shutdown", token)


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5) as reply:
            return reply.status == 200
    except (URLError, OSError):
        return False


def _stop(process: subprocess.Popen, address: str, token: str) -> None:
    """End the server and its kernels: by asking, and those that do not listen by force."""
    every: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        every = psutil.Process(process.pid).children(recursive=True)
    with suppress(URLError, OSError):
        urlopen(Request(address, method="POST", headers={"Authorization": f"token {token}"}), timeout=5).close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(every, timeout=2)
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()
