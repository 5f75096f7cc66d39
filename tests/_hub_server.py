"""A Hub in miniature for the real client: reading, commits, large files, pull requests and tags, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from _hub_store import RefusedError, Repo, entry, git_oid, is_large

REPO = "kpi/tiny"
REVISION = "0123456789abcdef0123456789abcdef01234567"
# Longer than the clients of the tests wait.
SILENCE = 20.0
DATE = "2026-11-21T00:00:00.000Z"


@dataclass
class Fault:
    """What befalls a call: a status, a dropped connection, half an answer, or silence. ``times`` None: always. ``done``: after it took effect;
    ``skip``: so many calls go well first."""

    call: str
    status: int | None = None
    drop: bool = False
    half: bool = False
    times: int | None = 1
    headers: dict[str, str] = field(default_factory=dict)
    done: bool = False
    skip: int = 0


@dataclass
class Hub:
    """A running server: its address and contents, the status it refuses everything with (None serves), and what was asked of it."""

    endpoint: str
    refuse: int | None = None
    part_size: int | None = None
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)
    before: Callable[[str], None] = lambda call: None

    def make(self, name: str, kind: str = "dataset") -> Repo:
        """A repository as it is when just made."""
        repo = self.repos[kind, name] = Repo(kind, name)
        repo.add({".gitattributes": b"*.parquet filter=lfs\n"}, "initial commit")
        return repo

    def strike(self, call: str) -> Fault | None:
        """The fault that befalls this call, if any."""
        for fault in self.faults:
            if fault.call == call and fault.times != 0:
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


@dataclass(frozen=True)
class Answer:
    """Status, content and headers of an answer."""

    content: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Answer:
        return cls(json.dumps(value).encode(), status=status)


@dataclass(frozen=True)
class Asked:
    """A request without its connection."""

    hub: Hub
    method: str
    rest: str
    query: dict[str, list[str]]
    body: bytes
    headers: Any
    repo: Repo | None = None

    @property
    def on(self) -> Repo:
        if self.repo is None or (self.repo.private and not self.headers.get("Authorization")):
            raise RefusedError(
                404 if self.headers.get("Authorization") else 401, "Repository not found", "RepoNotFound"
            )
        return self.repo

    @property
    def page(self) -> str:
        return f"{self.hub.endpoint}/{'datasets/' if self.on.kind == 'dataset' else ''}{self.on.name}"

    def json(self) -> Any:
        return json.loads(self.body)


def _create(asked: Asked) -> Answer:
    wanted = asked.json()
    key = (wanted.get("type") or "model", f"{wanted['organization']}/{wanted['name']}")
    url = f"{asked.hub.endpoint}/{'datasets/' if key[0] == 'dataset' else ''}{key[1]}"
    if key in asked.hub.repos:
        return Answer.json({"error": "You already created this repo", "url": url}, 409)
    asked.hub.make(key[1], key[0]).private = (
        wanted.get("visibility") == "private" or wanted.get("private") is True
    )
    return Answer.json({"url": url})


def _info(asked: Asked) -> Answer:
    commit = asked.on.at(unquote(asked.rest) or "main")
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    return Answer.json(
        {"id": asked.on.name, "sha": commit.sha, "siblings": siblings, "private": asked.on.private}
    )


def _tree(asked: Asked) -> Answer:
    files = asked.on.at(unquote(asked.rest.partition("/")[0])).files
    return Answer.json([entry(path, files[path]) for path in sorted(files)])


def _paths_info(asked: Asked) -> Answer:
    files = asked.on.at(unquote(asked.rest)).files
    wanted = parse_qs(asked.body.decode())["paths"]
    return Answer.json([entry(path, files[path]) for path in wanted if path in files])


def _resolve(asked: Asked) -> Answer:
    revision, _, path = asked.rest.partition("/")
    commit = asked.on.at(unquote(revision))
    if (path := unquote(path)) not in commit.files:
        raise RefusedError(404, "Entry not found", "EntryNotFound")
    content = commit.files[path]
    tag = hashlib.sha256(content).hexdigest() if is_large(path) else git_oid(content)
    headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    match = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("Range", ""))
    if match is None or asked.method == "HEAD":
        return Answer(content, headers)
    start = int(match[1])
    asked.hub.ranges.append(match[0])
    headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return Answer(content[start:], headers, 206)


def _preupload(asked: Asked) -> Answer:
    files = asked.on.at(unquote(asked.rest)).files
    found = []
    for wanted in asked.json()["files"]:
        path = wanted["path"]
        large = is_large(path)
        there = files.get(path)
        oid = None if there is None else hashlib.sha256(there).hexdigest() if large else git_oid(there)
        found.append(
            {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}
        )
    return Answer.json({"files": found})


def _commit(asked: Asked) -> Answer:
    lines = [json.loads(line) for line in asked.body.splitlines()]
    open_pull = asked.query.get("create_pr") == ["1"]
    commit, request = asked.on.apply(unquote(asked.rest), lines, asked.hub.objects, open_pull=open_pull)
    return Answer.json(
        {
            "success": True,
            "commitUrl": f"{asked.page}/commit/{commit.sha}",
            "commitOid": commit.sha,
            "pullRequestUrl": f"{asked.page}/discussions/{request.number}" if request else None,
        }
    )


def _refs(asked: Asked) -> Answer:
    def named(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": sha} for n, sha in refs.items()]

    branches = {name: sha for name, sha in asked.on.refs.items() if "/" not in name}
    return Answer.json(
        {"branches": named("heads", branches), "converts": [], "tags": named("tags", asked.on.tags)}
    )


def _tag(asked: Asked) -> Answer:
    name = asked.json()["tag"]
    if name in asked.on.tags:
        raise RefusedError(409, f"Tag {name} already exists")
    asked.on.tags[name] = asked.on.at(unquote(asked.rest)).sha
    return Answer()


def _discussions(asked: Asked) -> Answer:
    wanted = asked.query.get("status", ["open"])[0]
    found = [_discussion(asked, n) for n, request in asked.on.pulls.items() if request.status == wanted]
    return Answer.json({"count": len(found), "start": 0, "discussions": found})


def _discussion(asked: Asked, number: int) -> dict[str, Any]:
    request = asked.on.pulls[number]
    author = {"name": request.author, "fullname": request.author, "type": "user"}
    shared = {"createdAt": DATE, "author": author, "type": "comment", "id": "0" * 24}
    return {
        "num": number,
        "title": request.title,
        "status": request.status,
        "isPullRequest": True,
        "createdAt": DATE,
        "author": author,
        "repo": {"name": asked.on.name, "type": asked.on.kind},
        "changes": {"base": "refs/heads/main", "mergeCommitId": request.merged_as},
        "filesWithConflicts": [],
        "diff": "",
        "events": [
            {**shared, "data": {"edited": False, "hidden": False, "latest": {"raw": request.description}}}
        ],
    }


def _details(asked: Asked) -> Answer:
    if int(asked.rest) not in asked.on.pulls:
        raise RefusedError(404, "No such discussion")
    return Answer.json(_discussion(asked, int(asked.rest)))


def _merge(asked: Asked) -> Answer:
    asked.on.merge(int(asked.rest))
    return Answer()


def _batch(asked: Asked) -> Answer:
    found = []
    for wanted in asked.json()["objects"]:
        oid, size, hub = wanted["oid"], wanted["size"], asked.hub
        if asked.on and oid in hub.objects:
            found.append({"oid": oid, "size": size})
            continue
        upload: dict[str, Any] = {"href": f"{hub.endpoint}/lfs/{oid}", "header": {}}
        if hub.part_size and size > hub.part_size:
            numbers = range(1, -(-size // hub.part_size) + 1)
            upload["href"] = f"{hub.endpoint}/lfs-complete/{oid}"
            upload["header"] = {str(n): f"{hub.endpoint}/lfs/{oid}/{n}" for n in numbers}
            upload["header"]["chunk_size"] = str(hub.part_size)
        verify = {"href": f"{hub.endpoint}/lfs-verify/{oid}"}
        found.append({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
    return Answer.json({"transfer": "basic", "objects": found})


def _put(asked: Asked) -> Answer:
    oid, _, part = asked.rest.partition("/")
    if part:
        asked.hub.parts.setdefault(oid, {})[int(part)] = asked.body
        return Answer(b"", {"ETag": f'"{part}"'})
    return _store(asked, oid, asked.body)


def _complete(asked: Asked) -> Answer:
    parts = asked.hub.parts[asked.rest]
    return _store(asked, asked.rest, b"".join(parts[p["partNumber"]] for p in asked.json()["parts"]))


def _store(asked: Asked, oid: str, content: bytes) -> Answer:
    if hashlib.sha256(content).hexdigest() != oid:
        raise RefusedError(400, "content does not match its oid")
    asked.hub.objects[oid] = content
    return Answer(b"")


def _verify(asked: Asked) -> Answer:
    if len(asked.hub.objects.get(asked.rest, b"")) != asked.json()["size"]:
        raise RefusedError(404, "not uploaded")
    return Answer()


_NAMED = r"(?P<kind>dataset|model)s/(?P<name>[^/]+/[^/]+)"
_PLAIN = r"(?:(?P<kind>dataset)s/)?(?P<name>[^/]+/[^/]+?)"
ROUTES: tuple[tuple[str, str, str, Callable[[Asked], Answer]], ...] = (
    ("whoami", "GET", r"/api/whoami-v2", lambda asked: Answer.json({"type": "user", "name": "contributor"})),
    ("create_repo", "POST", r"/api/repos/create", _create),
    ("validate-yaml", "POST", r"/api/validate-yaml", lambda a: Answer.json({"errors": [], "warnings": []})),
    ("lfs-put", "PUT", r"/lfs/(?P<rest>.+)", _put),
    ("lfs-complete", "POST", r"/lfs-complete/(?P<rest>.+)", _complete),
    ("lfs-verify", "POST", r"/lfs-verify/(?P<rest>.+)", _verify),
    ("lfs-batch", "POST", rf"/{_PLAIN}\.git/info/lfs/objects/batch", _batch),
    ("resolve", "GET", rf"/{_PLAIN}/resolve/(?P<rest>.+)", _resolve),
    ("info", "GET", rf"/api/{_NAMED}(?:/revision/(?P<rest>.+))?", _info),
    ("tree", "GET", rf"/api/{_NAMED}/tree/(?P<rest>.+)", _tree),
    ("paths-info", "POST", rf"/api/{_NAMED}/paths-info/(?P<rest>.+)", _paths_info),
    ("preupload", "POST", rf"/api/{_NAMED}/preupload/(?P<rest>.+)", _preupload),
    ("commit", "POST", rf"/api/{_NAMED}/commit/(?P<rest>.+)", _commit),
    ("refs", "GET", rf"/api/{_NAMED}/refs", _refs),
    ("tag", "POST", rf"/api/{_NAMED}/tag/(?P<rest>.+)", _tag),
    ("discussions", "GET", rf"/api/{_NAMED}/discussions", _discussions),
    ("discussion", "GET", rf"/api/{_NAMED}/discussions/(?P<rest>\d+)", _details),
    ("merge", "POST", rf"/api/{_NAMED}/discussions/(?P<rest>\d+)/merge", _merge),
)
# Signed addresses carry no token; comparing files reads.
ANONYMOUS = ("lfs-put", "lfs-complete", "paths-info")


@contextmanager
def serve(folder: Path | None = None) -> Iterator[Hub]:
    """A Hub on a free local port; with ``folder``, dataset ``REPO`` holds its files at ``REVISION``."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve()

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

        def _serve(self) -> None:
            body = self._body()
            parts = urlsplit(self.path)
            hub.paths.append(f"{self.command} {parts.path}")
            hub.authorizations.add(self.headers.get("Authorization"))
            method = "GET" if self.command == "HEAD" else self.command
            for call, wanted, pattern, answer in ROUTES:
                match = re.fullmatch(pattern, parts.path)
                if match is not None and wanted == method:
                    named = match.groupdict()
                    repo = hub.repos.get((named.get("kind") or "model", named.get("name") or ""))
                    rest = named.get("rest") or ""
                    asked = Asked(hub, self.command, rest, parse_qs(parts.query), body, self.headers, repo)
                    self._answer(call, asked, answer)
                    return
            self._send(Answer.json({"error": f"no such call: {self.path}"}, 404))

        def _answer(self, call: str, asked: Asked, answer: Callable[[Asked], Answer]) -> None:
            hub.calls.append(call)
            fault = hub.strike(call)
            if fault is not None and not (fault.done or fault.half):
                self._fail(fault)
                return
            hub.before(call)
            try:
                if hub.refuse is not None:
                    raise RefusedError(hub.refuse, "refused")
                writes = asked.method in {"POST", "PUT"} and call not in ANONYMOUS
                if writes and not self.headers.get("Authorization"):
                    raise RefusedError(401, "Invalid credentials")
                with lock:
                    found = answer(asked)
            except RefusedError as error:
                codes = {"X-Error-Code": error.code} if error.code else {}
                content = json.dumps({"error": error.message}).encode()
                found = Answer(content, {**codes, "X-Error-Message": error.message}, error.status)
            if fault is not None and fault.half:
                self._send(found, cut=True)
            elif fault is not None:
                self._fail(fault)
            else:
                self._send(found)

        def _fail(self, fault: Fault) -> None:
            if fault.status is not None:
                self._send(Answer(b"<html>not now</html>", fault.headers, fault.status))
                return
            if not fault.drop:
                threading.Event().wait(SILENCE)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def _send(self, answer: Answer, *, cut: bool = False) -> None:
            self.send_response(answer.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(answer.content))}
            for name, value in {**headers, **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.content[: len(answer.content) // 2] if cut else answer.content)
            if cut:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # type: ignore[method-assign]
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    if folder is not None:
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        hub.repos["dataset", REPO] = Repo("dataset", REPO)
        hub.repos["dataset", REPO].add(files, "initial commit", sha=REVISION)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
