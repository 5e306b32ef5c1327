"""A stand-in for the Hugging Face Hub: folders served over HTTP as data set repositories, for the real client to read."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass
class Repository:
    """A folder and the commit that it stands at."""

    folder: Path
    commit: str

    def files(self) -> list[str]:
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())

    def entry(self, path: str) -> dict[str, Any] | None:
        place = self.folder / path
        if place.is_file():
            content = place.read_bytes()
            oid = hashlib.sha1(content).hexdigest()
            return {"type": "file", "path": path, "size": len(content), "oid": oid}
        if place.is_dir():
            return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
        return None


@dataclass
class Hub:
    """Repositories by name, the address they are served at, and every request that came."""

    address: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    gated: set[str] = field(default_factory=set)  # repositories whose files are refused
    dying: set[str] = field(default_factory=set)  # repositories whose parquet files break off in the middle

    def add(self, name: str, folder: Path, commit: str, files: dict[str, list[str]], readme: str = "") -> None:
        """A repository of parquet files, each a list of rows in one column `text`; `readme` is its card."""
        for path, rows in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"text": pa.array(rows, pa.string())}), folder / path)
        (folder / "README.md").write_text(readme, encoding="utf-8")
        self.repositories[name] = Repository(folder, commit)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of this machine, for as long as the block lasts."""
    hub = Hub("")
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def mute() -> Iterator[str]:
    """The address of a server that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def closed() -> Iterator[str]:
    """An address of this machine that refuses every connection: the port is taken, and nobody listens on it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        path = unquote(url.path)
        if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._about(found[1], found[2])
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", path):
            self._tree(found[1], found[2], found[3] or "", "recursive=true" in url.query.lower())
        else:
            self._json(404, {"error": "no such page"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append(f"POST {self.path}")
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", unquote(self.path))
        if not found or not (repository := self._repository(found[1], found[2])):
            return
        asked = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
        self._json(200, [entry for path in asked if (entry := repository.entry(path))])

    def _repository(self, name: str, revision: str | None) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if name in self.hub.gated:
            said = (
                f"Access to dataset {name} is restricted. You must have access to it and be authenticated to access it."
            )
            self._json(401, {"error": said}, {"X-Error-Code": "GatedRepo", "X-Error-Message": said})
            return None
        if repository is None:
            self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif revision not in (None, "main", repository.commit):
            self._json(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository

    def _about(self, name: str, revision: str | None) -> None:
        if repository := self._repository(name, revision):
            siblings = [{"rfilename": file} for file in repository.files()]
            self._json(200, {"id": name, "sha": repository.commit, "siblings": siblings, "tags": [], "private": False})

    def _tree(self, name: str, revision: str, below: str, recursive: bool) -> None:
        if not (repository := self._repository(name, revision)):
            return
        start = repository.folder / below
        if not start.is_dir():
            self._json(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        found = start.rglob("*") if recursive else start.iterdir()
        self._json(200, [repository.entry(p.relative_to(repository.folder).as_posix()) for p in sorted(found)])

    def _file(self, name: str, revision: str, path: str) -> None:
        if not (repository := self._repository(name, revision)):
            return
        place = repository.folder / path
        if not place.is_file():
            self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        content = place.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": repository.commit,
            "Accept-Ranges": "bytes",
        }
        status = 200
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(span[1]), int(span[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{min(stop, len(content) - 1)}/{len(content)}"
            content, status = content[start : stop + 1], 206
        self._send(status, content, headers, cut=name in self.hub.dying and path.endswith(".parquet"))

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut
