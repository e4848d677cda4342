"""A small server with the part of the Hugging Face Hub's interface that models need."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

Files = dict[str, bytes]


class HubServer(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        commits: of each repository, the files of every commit, the newest last.
        refused: an HTTP status for all uploads; 0: they are accepted.
        requested: the files that were downloaded.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[Files]] = {}
        self.refused = 0
        self.requested: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repo: str, revision: str) -> tuple[str, Files] | None:
        """The commit's name and files; the revision may be main or such a name."""
        commits = {_name(i): files for i, files in enumerate(self.commits.get(repo, []))}
        if revision == "main" and commits:
            revision = list(commits)[-1]
        return (revision, commits[revision]) if revision in commits else None


def _name(number: int) -> str:
    return hashlib.sha1(str(number).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlparse(self.path).path)
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif self.server.refused:
            self._json({"error": "not allowed"}, self.server.refused)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'user'}/{asked['name']}"
            new = repo not in self.server.commits
            self.server.commits.setdefault(repo, [{}])
            self._json({"url": f"{self.server.endpoint}/{repo}"}, 200 if new else 409)
        elif "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            self._json({"files": files})
        else:
            repo = path.removeprefix("/api/models/").partition("/commit/")[0]
            files = dict(self.server.commits[repo][-1])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.server.commits[repo].append(files)
            name = _name(len(self.server.commits[repo]) - 1)
            url = f"{self.server.endpoint}/{repo}/commit/{name}"
            self._json({"commitUrl": url, "commitOid": name, "success": True})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        repo, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repo not in self.server.commits:
            self._error("RepoNotFound")
        elif (found := self.server.files(repo, revision)) is None:
            self._error("RevisionNotFound")
        elif name not in found[1]:
            self._error("EntryNotFound")
        else:
            data = found[1][name]
            if self.command == "GET":
                self.server.requested.append(name)
            etag = hashlib.sha1(data).hexdigest()
            self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": found[0]})

    def _error(self, code: str) -> None:
        self._send(404, b"", {"X-Error-Code": code})

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def hub_server() -> Iterator[HubServer]:
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
