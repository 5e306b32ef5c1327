"""Whether the Hugging Face Hub can be reached: asked first, with a deadline, because its own client waits for minutes."""

from __future__ import annotations

import os
import queue
import socket
import threading
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, getproxies, proxy_bypass, urlopen

SECONDS = 1.0  # to connect
PATIENCE = 2.0  # seconds to answer a request
TRUE = ("1", "ON", "YES", "TRUE")


def endpoint() -> str:
    """The Hub's address: $HF_ENDPOINT, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def told_offline() -> str | None:
    """The environment variable that forbids the network, if one is set."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in names if os.environ.get(name, "").upper() in TRUE), None)


def why_unreachable(seconds: float = SECONDS) -> str | None:
    """None where the Hub answers a connection within `seconds`, else the reason in a few words.

    Looks the host up and connects to it, or to the proxy that the environment names for it; sends nothing.
    """
    if variable := told_offline():
        return f"{variable} is set"
    host, port = _where_to_connect(endpoint())
    if host is None:
        return f"HF_ENDPOINT={endpoint()} is no address such as https://host"
    answers: queue.Queue[str | None] = queue.Queue()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            answers.put(None)
        except OSError as error:
            reason = "no such host here" if isinstance(error, socket.gaierror) else error.strerror or str(error)
            answers.put(f"{host}: {reason}")

    # A look-up takes no time limit of its own, so it happens on a thread that may be left behind.
    threading.Thread(target=connect, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return f"{host} did not answer within {seconds:g} s"


def why_silent(path: str, seconds: float = PATIENCE) -> str | None:
    """None where the Hub answers a request for `path` within `seconds`, whatever it answers; else the reason in a few words.

    For what `why_unreachable` cannot see: a firewall or a proxy that takes every connection and leaves it at that.
    """
    try:
        urlopen(Request(endpoint() + path, method="HEAD"), timeout=seconds).close()
    except HTTPError as error:
        error.close()
    except Exception as error:
        # What is no silence is for the Hub's own client, which knows more certificates and proxies.
        if isinstance(getattr(error, "reason", error), TimeoutError):
            return f"{urlsplit(endpoint()).hostname} took the connection and did not answer within {seconds:g} s"
    return None


def _where_to_connect(address: str) -> tuple[str | None, int]:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None, 0
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname):
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
