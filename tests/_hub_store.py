"""What a Hub keeps: repositories with commits, branches, tags and pull requests, and large files by hash."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LARGE = (".parquet", ".safetensors")


class RefusedError(Exception):
    """A request that gets an error status."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Commit:
    """A state of all files, with what it came from."""

    sha: str
    parent: str | None
    files: Mapping[str, bytes]
    title: str
    description: str = ""


@dataclass
class PullRequest:
    """A pull request; ``base`` is the commit it was opened on."""

    number: int
    title: str
    description: str
    base: str
    author: str = "contributor"
    status: str = "open"
    merged_as: str | None = None


@dataclass
class Repo:
    """A repository: ``refs`` holds ``main`` and ``refs/pr/N``."""

    kind: str
    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, PullRequest] = field(default_factory=dict)

    def add(
        self,
        files: Mapping[str, bytes],
        title: str,
        *,
        parent: str | None = None,
        ref: str = "main",
        sha: str = "",
        description: str = "",
    ) -> Commit:
        """Commit a state of all files to a branch."""
        seed = "\0".join((self.name, str(len(self.commits)), title, *sorted(files)))
        commit = Commit(
            sha or hashlib.sha1(seed.encode()).hexdigest(), parent, dict(files), title, description
        )
        self.commits[commit.sha] = commit
        self.refs[ref] = commit.sha
        return commit

    def at(self, revision: str) -> Commit:
        """The commit that a branch, tag, pull request or hash names."""
        sha = self.refs.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise RefusedError(404, "Revision not found", "RevisionNotFound")
        return self.commits[sha]

    def apply(
        self, revision: str, lines: list[dict[str, Any]], objects: Mapping[str, bytes], *, open_pull: bool
    ) -> tuple[Commit, PullRequest | None]:
        """Carry out the lines of a commit request: a header, then files, large files and deletions."""
        header = lines[0]["value"]
        base = self.at(header.get("parentCommit") or revision)
        if not open_pull and base.sha != self.at(revision).sha:
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(base.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in objects:
                    raise RefusedError(400, f"LFS pointer of {value['path']} points to nothing")
                files[value["path"]] = objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise RefusedError(400, f"unknown operation {line['key']}")
        request = None
        ref = revision
        if open_pull:
            number = len(self.pulls) + 1
            request = PullRequest(number, header["summary"], header["description"], base.sha)
            self.pulls[number] = request
            ref = f"refs/pr/{number}"
        commit = self.add(
            files, header["summary"], parent=base.sha, ref=ref, description=header["description"]
        )
        return commit, request

    def merge(self, number: int) -> Commit:
        """Bring the changes of a pull request to main."""
        request = self.pulls[number]
        base, head, main = (
            self.commits[request.base],
            self.at(f"refs/pr/{number}"),
            self.at("main"),
        )
        changed = {path: content for path, content in head.files.items() if base.files.get(path) != content}
        if any(main.files.get(path) != base.files.get(path) for path in changed):
            raise RefusedError(409, "Conflicts with main")
        commit = self.add({**main.files, **changed}, request.title, parent=main.sha)
        request.status, request.merged_as = "merged", commit.sha
        return commit


def is_large(path: str) -> bool:
    """Whether a file is kept by hash beside the repository, as .gitattributes of the Hub has it."""
    return path.endswith(LARGE)


def git_oid(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as the Hub lists it."""
    found: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
    if is_large(path):
        sha = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 134}
        found["oid"] = git_oid(b"pointer to " + sha.encode())
    return found
