"""A server on this machine that speaks the Hugging Face Hub's protocol, what models need of it."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repos: owner/name -> file -> bytes, all of one commit, on the branch main.
        token: what private repositories (owner "private") need.
        break_after: bytes after which the next download of a file of weights breaks, once.
        requests: (method, path, Range header) of each request.
    """

    daemon_threads = True

    def __init__(self, repos: dict[str, dict[str, bytes]]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos = repos
        self.token = "hf_secret"
        self.break_after: int | None = None
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self.server.requests.append((self.command, self.path, None))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._error(401, "Unauthorized")
        if self.path == "/api/repos/create":
            values = json.loads(body)
            repo = f"{values.get('organization') or 'me'}/{values['name']}"
            self.server.repos.setdefault(repo, {})
            return self._json({"url": f"{self.server.url}/{repo}", "id": repo})
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        match = re.match(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path)
        if match is None:
            return self._error(404, "EntryNotFound")
        if match[2] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        self.server.repos[match[1]] |= files_of_commit(body)
        commit = {"commitUrl": f"{self.server.url}/{match[1]}/commit/{COMMIT}", "commitOid": COMMIT}
        return self._json({"success": True, **commit})

    def _respond(self) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        path = self.path.partition("?")[0]
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        if match is None:
            return self._error(404, "EntryNotFound")
        repo, revision = match[1], match[3] if api else match[2]
        authorized = self.headers.get("Authorization") == f"Bearer {self.server.token}"
        if repo not in self.server.repos or (repo.startswith("private/") and not authorized):
            return self._error(401, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self._error(404, "RevisionNotFound")
        files = self.server.repos[repo]
        if api:
            return self._json(_tree(files) if api[2] == "tree" else _info(repo, files))
        return (
            self._file(files[match[3]]) if match[3] in files else self._error(404, "EntryNotFound")
        )

    def _file(self, data: bytes) -> None:
        start, end = 0, len(data)
        if ranged := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start = int(ranged[1])
            end = int(ranged[2]) + 1 if ranged[2] else end
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.server.break_after
        if limit is not None and end - start > limit:
            self.server.break_after = None
            self.wfile.write(data[start : start + limit])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(data[start:end])

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def files_of_commit(body: bytes) -> dict[str, bytes]:
    """The files in the lines of JSON that an upload sends."""
    values = [json.loads(line) for line in body.splitlines()]
    files = [value["value"] for value in values if value["key"] == "file"]
    return {file["path"]: base64.b64decode(file["content"]) for file in files}


def _info(repo: str, files: dict[str, bytes]) -> dict[str, object]:
    siblings = [{"rfilename": name} for name in files]
    return {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "private": False}


def _tree(files: dict[str, bytes]) -> list[dict[str, object]]:
    return [
        {
            "type": "file",
            "path": name,
            "size": len(data),
            "oid": hashlib.sha1(data).hexdigest(),
        }
        for name, data in files.items()
    ]


@contextlib.contextmanager
def serve(repos: dict[str, dict[str, bytes]]) -> Iterator[HubServer]:
    """A running server of these repositories."""
    with HubServer(repos) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
