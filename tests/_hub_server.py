"""A Hub in miniature: serves one dataset repository from a folder, over the calls that ``snapshot_download`` makes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

REPO = "kpi/tiny"
REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A running server: its address, the status it refuses with (None serves), and what was asked of it."""

    endpoint: str
    refuse: int | None = None
    paths: list[str] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Serve ``folder`` as dataset ``REPO`` at ``REVISION`` on a free local port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, *, body: bool) -> None:
            path = urlsplit(self.path).path
            hub.paths.append(f"{self.command} {path}")
            hub.authorizations.add(self.headers.get("Authorization"))
            api, resolve = f"/api/datasets/{REPO}", f"/datasets/{REPO}/resolve/{REVISION}/"
            files = sorted(p for p in folder.rglob("*") if p.is_file())
            names = [p.relative_to(folder).as_posix() for p in files]
            if hub.refuse is not None:
                self._send(hub.refuse, b'{"error": "refused"}', {}, body)
            elif path == f"{api}/revision/{REVISION}":
                info = {"id": REPO, "sha": REVISION, "siblings": [{"rfilename": name} for name in names]}
                self._send(200, json.dumps(info).encode(), {}, body)
            elif path == f"{api}/tree/{REVISION}":
                tree = [
                    {"type": "file", "path": name, "size": p.stat().st_size, "oid": _etag(p)}
                    for name, p in zip(names, files, strict=True)
                ]
                self._send(200, json.dumps(tree).encode(), {}, body)
            elif path.startswith(resolve) and path.removeprefix(resolve) in names:
                target = folder / path.removeprefix(resolve)
                self._send(
                    200, target.read_bytes(), {"ETag": f'"{_etag(target)}"', "X-Repo-Commit": REVISION}, body
                )
            elif path.startswith(api):
                self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}, body)
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)

        def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in {
                "Content-Length": str(len(content)),
                "Content-Type": "application/json",
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
