"""Write to a Hub repository: one commit or pull request at a time, never a part of one, never the same thing twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpi_bench._io import sha256_file
from kpi_bench.errors import HubError
from kpi_bench.hub.retry import (
    Patience,
    client_errors,
    insist,
    network_off,
    patient_session,
    pause,
    reason,
    status,
)

MAIN = "main"
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
PATHS_A_CALL = 500


@dataclass(frozen=True)
class Upload:
    """A file to be written: its path in the repository and where its bytes are."""

    path: str
    source: Path | bytes

    def sha256(self) -> str:
        """Hex SHA-256 of the bytes: how the Hub names large files."""
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).hexdigest()
        return sha256_file(self.source)

    def git_oid(self) -> str:
        """Hex SHA-1 as git has it for a file: how the Hub names the others."""
        content = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Published:
    """Where it is now: full commit hash, address of the page, and the pull request's number; ``changed`` is False when all of it was
    there already and nothing was written."""

    revision: str
    url: str
    pull_request: int | None
    changed: bool


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub knows it: SHA-256 of a large one, git's hash of another."""

    sha256: str | None
    git_oid: str

    def equals(self, upload: Upload) -> bool:
        """Whether it has the bytes that would be uploaded."""
        return upload.git_oid() == self.git_oid if self.sha256 is None else upload.sha256() == self.sha256


class Repository:
    """A dataset or model repository of the Hub, through the official client and its token.

    Raises (all methods):
        HubError: the network is off, no access, no such repository, no connection after several attempts. Tokens are never shown.
    """

    def __init__(
        self,
        name: str,
        *,
        kind: str = "dataset",
        endpoint: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        from huggingface_hub import HfApi

        if not _NAME.fullmatch(name):
            raise HubError(f"{name!r} is no valid name of a Hub repository: wanted is OWNER/NAME")
        if network_off():
            raise HubError(
                f"{kind} {name}: the network is off (HF_HUB_OFFLINE is set); unset it and run the command again"
            )
        self.name, self.kind = name, kind
        self._api = HfApi(endpoint=endpoint, library_name="kpi-bench")
        self._patience = patience or Patience()
        self._where: dict[str, Any] = {"repo_id": name, "repo_type": kind}

    @property
    def page(self) -> str:
        """Address of the repository's page."""
        return f"{self._api.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def exists(self) -> bool:
        """Whether there is such a repository of this kind that the token may see."""
        return bool(self._insist("look it up", lambda: self._api.repo_exists(self.name, repo_type=self.kind)))

    def create(self, *, private: bool) -> None:
        """Make the repository unless it exists; an existing one keeps its visibility."""
        self._insist(
            "create it",
            lambda: self._api.create_repo(self.name, repo_type=self.kind, private=private, exist_ok=True),
        )

    def resolve(self, revision: str = MAIN) -> str:
        """Full commit hash of a branch, tag, ``refs/pr/N`` or hash."""
        info = self._insist(
            f"look up {revision}", lambda: self._api.repo_info(**self._where, revision=revision)
        )
        return str(info.sha)

    def paths(self, revision: str) -> list[str]:
        """Paths of all files at a revision."""
        found = self._insist(
            "list files", lambda: self._api.list_repo_files(**self._where, revision=revision)
        )
        return sorted(found)

    def read(self, path: str, revision: str) -> bytes:
        """Bytes of one file."""
        local = self._insist(
            f"read {path}", lambda: self._api.hf_hub_download(**self._where, filename=path, revision=revision)
        )
        return Path(local).read_bytes()

    def tags(self) -> dict[str, str]:
        """Commit hash by tag."""
        refs = self._insist("list tags", lambda: self._api.list_repo_refs(**self._where))
        return {ref.name: str(ref.target_commit) for ref in refs.tags}

    def tag(self, name: str, revision: str) -> None:
        """Name a commit.

        Raises:
            HubError: the tag names another one already.
        """
        self._insist(
            f"tag {name}",
            lambda: self._api.create_tag(**self._where, tag=name, revision=revision, exist_ok=True),
        )
        if self.tags().get(name) != revision:
            raise HubError(
                f"{self._label}: tag {name} names another commit than {revision}; take another tag"
            )

    def holds(self, uploads: Sequence[Upload], revision: str) -> bool:
        """Whether every file is there with the same bytes."""
        remote = self._files([upload.path for upload in uploads], revision)
        return all(u.path in remote and remote[u.path].equals(u) for u in uploads)

    def publish(
        self,
        uploads: Sequence[Upload],
        *,
        title: str,
        description: str = "",
        pull_request: bool = False,
        delete: Sequence[str] = (),
        base: str | None = None,
    ) -> Published:
        """Write files as one commit to main, or as one pull request against it.

        What is there already is not written again: neither content that main has, nor a pull request of this title with this content
        that is open. That also holds for what an attempt wrote whose answer was lost. Large files that were uploaded before a failure
        are not uploaded again.

        Args:
            uploads: the files.
            title: first line of the commit; that of the pull request.
            description: Markdown below it.
            pull_request: open one, in place of a commit to main.
            delete: paths to remove, where they are there.
            base: full hash of the commit that the files were made from, None for what main has now.

        Raises:
            HubError: somebody else changed one of these files meanwhile, or since ``base``.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        additions = [
            CommitOperationAdd(u.path, u.source if isinstance(u.source, bytes) else str(u.source))
            for u in uploads
        ]
        paths = [u.path for u in uploads]
        before: Mapping[str, RemoteFile] | None = None if base is None else self._files(paths, base)
        sent = False
        for attempt in range(self._patience.attempts):
            head = self.resolve()
            remote = self._files(paths, head)
            stale = sorted(self._files(delete, head))
            if not stale and all(u.path in remote and remote[u.path].equals(u) for u in uploads):
                return Published(head, f"{self.page}/commit/{head}", None, sent)
            if pull_request and (found := self._open_pull_request(title, uploads)) is not None:
                return Published(*found, sent)
            before = remote if before is None else before
            if moved := sorted(path for path in paths if remote.get(path) != before.get(path)):
                raise HubError(
                    f"{self._label}: {', '.join(moved)} changed on the Hub while this command ran. Look at what is there now "
                    f"({self.page}), then run it again if yours is to replace that."
                )
            try:
                # The client itself insists on each of the calls of an upload; the commit is sent once an attempt.
                with patient_session(self._patience.timeout):
                    self._api.preupload_lfs_files(
                        self.name, additions, repo_type=self.kind, create_pr=pull_request, free_memory=False
                    )
            except client_errors() as error:
                raise self._failed("upload", error) from None
            try:
                sent = True
                with patient_session(self._patience.timeout):
                    done = self._api.create_commit(
                        **self._where,
                        operations=[*additions, *(CommitOperationDelete(path) for path in stale)],
                        commit_message=title,
                        commit_description=description,
                        create_pr=pull_request,
                        parent_commit=head,
                    )
            except client_errors() as error:
                if status(error) != 412 or attempt + 1 == self._patience.attempts:
                    pause(f"{self._label}: commit", error, attempt, self._patience)
                continue
            number = done.pr_num if pull_request else None
            return Published(str(done.oid), str(done.pr_url or done.commit_url), number, True)
        raise HubError(f"{self._label}: no attempt was allowed; Patience.attempts must be 1 or more")

    def _open_pull_request(self, title: str, uploads: Sequence[Upload]) -> tuple[str, str, int] | None:
        """Commit, address and number of an open pull request with this title and these files."""
        found = self._insist(
            "list pull requests",
            lambda: list(
                self._api.get_repo_discussions(
                    self.name, repo_type=self.kind, discussion_type="pull_request", discussion_status="open"
                )
            ),
        )
        for request in found:
            if request.title == title and self.holds(uploads, reference := f"refs/pr/{request.num}"):
                return self.resolve(reference), f"{self.page}/discussions/{request.num}", int(request.num)
        return None

    def _files(self, paths: Sequence[str], revision: str) -> dict[str, RemoteFile]:
        """Those of the paths that are files at a revision."""
        files: dict[str, RemoteFile] = {}
        for start in range(0, len(paths), PATHS_A_CALL):
            some = list(paths[start : start + PATHS_A_CALL])
            infos = self._insist(
                "compare files",
                lambda some=some: self._api.get_paths_info(**self._where, paths=some, revision=revision),
            )
            for info in infos:
                if hasattr(info, "blob_id"):
                    files[info.path] = RemoteFile(info.lfs.sha256 if info.lfs else None, info.blob_id)
        return files

    @property
    def _label(self) -> str:
        return f"{self.kind} {self.name}"

    def _insist(self, what: str, action: Any) -> Any:
        return insist(f"{self._label}: {what}", action, self._patience)

    def _failed(self, what: str, error: BaseException) -> HubError:
        return HubError(
            f"{self._label}: {what}: {reason(error)} Nothing was published; what was uploaded is kept for the next attempt."
        )
