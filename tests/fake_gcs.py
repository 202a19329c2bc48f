"""A fake of Google Cloud Storage's JSON API, for tests without a network.

It holds objects in memory and serves what gcsfs, TensorStore and the C++ client inside array_record
ask for: media, multipart and resumable uploads; whole, ranged and suffix reads; generations and
their preconditions; listing by prefix and delimiter in pages; copies, moves and deletions. It fails
on order: `faults` answers a share of the requests, or the n-th, with an error status, late, or with
a body cut short.

    with FakeGcs(buckets=["b"]) as server:
        os.environ.update(server.environment)

By itself it is a server to try things against: `python tests/fake_gcs.py --fail=0.01`.
"""

import argparse
import base64
import dataclasses
import datetime
import email.parser
import functools
import hashlib
import json
import random
import re
import socket
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import google_crc32c

_API = re.compile(
    r"(/upload|/download|/resumable/upload)?/storage/v1/b(?:/([^/]+)(/o(?:/(.*))?)?)?"
)


@dataclasses.dataclass(frozen=True)
class Object:
    """One generation of an object."""

    data: bytes
    generation: int
    content_type: str
    created: datetime.datetime
    metadata: dict[str, str]
    metageneration: int = 1

    def resource(self, bucket: str, name: str) -> dict[str, Any]:
        """As the API describes it."""
        created = self.created.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{self.generation}",
            "bucket": bucket,
            "name": name,
            "size": str(len(self.data)),
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "contentType": self.content_type,
            "storageClass": "STANDARD",
            "timeCreated": created,
            "updated": created,
            "crc32c": self.crc32c,
            "md5Hash": self.md5,
            "metadata": self.metadata,
        }

    @functools.cached_property
    def crc32c(self) -> str:
        return base64.b64encode(google_crc32c.value(self.data).to_bytes(4, "big")).decode()

    @functools.cached_property
    def md5(self) -> str:
        return base64.b64encode(hashlib.md5(self.data).digest()).decode()


@dataclasses.dataclass
class Fault:
    """What goes wrong with some requests.

    Attributes:
        kind: an HTTP status; "cut": the body ends early; "lost": it is carried out, and the
            connection closes without an answer; "slow": `seconds` later.
        rate: the share of the matching requests.
        nth: instead of a rate, the numbers (from 1) of the matching requests.
        method: "GET", "POST", …; any by default.
        path: a regular expression searched in the decoded path and query.
        seconds: the delay of "slow".
    """

    kind: int | str
    rate: float = 0.0
    nth: frozenset[int] = frozenset()
    method: str | None = None
    path: str = ""
    seconds: float = 1.0
    matched: int = 0

    def applies(self, method: str, path: str, draw: random.Random) -> bool:
        if self.method not in (None, method) or not re.search(self.path, path):
            return False
        self.matched += 1
        return self.matched in self.nth if self.nth else draw.random() < self.rate


def faults_at_rate(rate: float) -> list[Fault]:
    """Faults of every kind, which share `rate`."""
    kinds: tuple[int | str, ...] = (503, 429, 500, "cut", "lost", "slow")
    return [Fault(kind, rate / len(kinds), seconds=0.5) for kind in kinds]


class FakeGcs:
    """The server; a context in which it runs.

    Attributes:
        objects: by (bucket, name).
        buckets: their names.
        faults: applied to each request, the first that does so wins.
        requests: how many of each kind were answered, such as "GET data", and of each fault, such
            as "fault 503".
    """

    def __init__(self, buckets: Iterable[str] = ("bucket",), *, port: int = 0, seed: int = 0):
        self.objects: dict[tuple[str, str], Object] = {}
        self.buckets = set(buckets)
        self.faults: list[Fault] = []
        self.requests: Counter[str] = Counter()
        self.page_size = 1000
        self._uploads: dict[str, _Upload] = {}
        self._generation = int(time.time() * 1e6)
        self._draw = random.Random(seed)
        self._lock = threading.RLock()
        self._server = _Server(("127.0.0.1", port), _handler_class(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "FakeGcs":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which the three clients reach it, without credentials."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks for the bucket's layout by gRPC
            "GOOGLE_CLOUD_PROJECT": "test",
        }

    def clear(self) -> None:
        """Forgets objects, faults and counts."""
        with self._lock:
            self.objects.clear()
            self.faults = []
            self.requests.clear()
            self.page_size = 1000

    def names(self, prefix: str = "", bucket: str = "bucket") -> list[str]:
        """The names of the objects that begin with `prefix`, sorted."""
        with self._lock:
            return sorted(n for b, n in self.objects if b == bucket and n.startswith(prefix))

    def read(self, name: str, bucket: str = "bucket") -> bytes:
        """The bytes of an object."""
        return self.objects[bucket, name].data

    def write(self, name: str, data: bytes, bucket: str = "bucket") -> None:
        """Puts an object in place."""
        self._insert(bucket, name, data, "application/octet-stream", {})

    # --- requests; each returns an answer

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            return next((f for f in self.faults if f.applies(method, path, self._draw)), None)

    def count(self, kind: str) -> None:
        with self._lock:
            self.requests[kind] += 1

    def answer(self, request: "_Request") -> "_Answer":
        match = _API.fullmatch(request.path)
        if match is None:
            return _error(404, f"no such method: {request.path}")
        upload, bucket, name = match[1], match[2], match[4]
        with self._lock:
            if bucket is None:
                return self._on_buckets(request)
            bucket = urllib.parse.unquote(bucket)
            if bucket not in self.buckets:
                return _error(404, f"The specified bucket does not exist: {bucket}")
            if match[3] is None:
                return _json({"kind": "storage#bucket", "name": bucket, "id": bucket})
            if upload in ("/upload", "/resumable/upload"):
                return self._on_upload(request, bucket)
            if name is None:
                return self._list(bucket, request.query)
            return self._on_object(request, bucket, name)

    def _on_buckets(self, request: "_Request") -> "_Answer":
        if request.method == "POST":
            name = json.loads(request.body)["name"]
            self.buckets.add(name)
            return _json({"kind": "storage#bucket", "name": name})
        items = [{"name": name} for name in sorted(self.buckets)]
        return _json({"kind": "storage#buckets", "items": items})

    def _on_object(self, request: "_Request", bucket: str, name: str) -> "_Answer":
        copied = re.fullmatch(r"(.+)/(?:copyTo|rewriteTo)/b/([^/]+)/o/(.+)", name)
        moved = re.fullmatch(r"(.+)/moveTo/o/(.+)", name)
        if request.method == "POST" and copied:
            source, target_bucket, target = map(urllib.parse.unquote, copied.groups())
            return self._copy(
                request, (bucket, source), (target_bucket, target), "rewriteTo" in name
            )
        if request.method == "POST" and moved:
            source, target = map(urllib.parse.unquote, moved.groups())
            answer = self._copy(request, (bucket, source), (bucket, target), False)
            if answer.status == 200 and source != target:
                del self.objects[bucket, source]
            return answer
        name = urllib.parse.unquote(name)
        stored = self.objects.get((bucket, name))
        if failed := _precondition(request.query, stored):
            return failed
        if stored is None:
            return _error(404, f"No such object: {bucket}/{name}")
        if request.method == "DELETE":
            del self.objects[bucket, name]
            return _Answer(204)
        if request.query.get("alt") == "media" or request.path.startswith("/download"):
            return _media(stored, request.headers.get("range"))
        return _json(stored.resource(bucket, name))

    def _copy(
        self, request: "_Request", source: tuple[str, str], target: tuple[str, str], rewrite: bool
    ) -> "_Answer":
        stored = self.objects.get(source)
        if stored is None:
            return _error(404, f"No such object: {'/'.join(source)}")
        if failed := _precondition(request.query, self.objects.get(target)):
            return failed
        copy = self._insert(*target, stored.data, stored.content_type, stored.metadata)
        resource = copy.resource(*target)
        if rewrite:
            return _json({"kind": "storage#rewriteResponse", "done": True, "resource": resource})
        return _json(resource)

    def _list(self, bucket: str, query: dict[str, str]) -> "_Answer":
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        first, last = query.get("startOffset", ""), query.get("endOffset", "")
        after = query.get("pageToken", "")
        limit = min(int(query.get("maxResults", self.page_size)), self.page_size)
        items: list[dict[str, Any]] = []
        prefixes: list[str] = []
        token = None
        for name in self.names(prefix, bucket):
            if name < first or (last and name >= last):
                continue
            end = name.find(delimiter, len(prefix)) if delimiter else -1
            entry = name[: end + len(delimiter)] if end >= 0 else name
            if entry <= after or (prefixes and prefixes[-1] == entry):
                continue
            if len(items) + len(prefixes) == limit:
                token = max([*prefixes[-1:], *(item["name"] for item in items[-1:])])
                break
            if end >= 0:
                prefixes.append(entry)
            else:
                items.append(self.objects[bucket, name].resource(bucket, name))
        body: dict[str, Any] = {"kind": "storage#objects", "items": items, "prefixes": prefixes}
        return _json(body | ({"nextPageToken": token} if token else {}))

    # --- uploads

    def _insert(
        self, bucket: str, name: str, data: bytes, content_type: str, metadata: dict[str, str]
    ) -> Object:
        with self._lock:
            self._generation += 1
            now = datetime.datetime.now(datetime.UTC)
            stored = Object(data, self._generation, content_type, now, metadata)
            self.objects[bucket, name] = stored
            return stored

    def _on_upload(self, request: "_Request", bucket: str) -> "_Answer":
        query = request.query
        if "upload_id" in query:
            return self._continue(request, query["upload_id"])
        described: dict[str, Any] = {}
        kind, data = query.get("uploadType", "media"), request.body
        content_type = request.headers.get("content-type", "application/octet-stream")
        if kind == "multipart":
            described, content_type, data = _parts(request.headers["content-type"], data)
        elif kind == "resumable":
            described = json.loads(data) if data else {}
            content_type = request.headers.get("x-upload-content-type", "application/octet-stream")
        upload = _Upload(
            bucket, described.get("name") or query["name"], content_type, query, described
        )
        if kind == "resumable":
            identity = f"upload{len(self._uploads)}"
            self._uploads[identity] = upload
            location = f"{self.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable"
            return _Answer(200, b"", {"Location": f"{location}&upload_id={identity}"})
        return self._finish(upload, data)

    def _continue(self, request: "_Request", identity: str) -> "_Answer":
        upload = self._uploads.get(identity)
        if upload is None:
            return _error(404, f"no such upload: {identity}")
        if request.method == "DELETE":
            del self._uploads[identity]
            return _Answer(499)
        if upload.answer is not None:  # complete; the client did not hear of it
            return upload.answer
        span = request.headers.get("content-range", "")
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", span)
        start = int(match[1]) if match and match[1] else len(upload.data)
        if start > len(upload.data):
            return _error(400, f"byte {start} follows byte {len(upload.data)}")
        if match is None or match[1]:
            upload.data[start:] = request.body
        if match is None or match[3] == str(len(upload.data)):
            upload.answer = self._finish(upload, bytes(upload.data))
            return upload.answer
        headers = {"Range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else {}
        return _Answer(308, b"", headers)

    def _finish(self, upload: "_Upload", data: bytes) -> "_Answer":
        key = upload.bucket, upload.name
        if failed := _precondition(upload.query, self.objects.get(key)):
            return failed
        metadata = upload.described.get("metadata") or {}
        return _json(self._insert(*key, data, upload.content_type, metadata).resource(*key))


@dataclasses.dataclass
class _Upload:
    bucket: str
    name: str
    content_type: str
    query: dict[str, str]
    described: dict[str, Any]
    data: bytearray = dataclasses.field(default_factory=bytearray)
    answer: "_Answer | None" = None


@dataclasses.dataclass(frozen=True)
class _Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclasses.dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


def _json(value: Any) -> _Answer:
    return _Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _error(status: int, message: str) -> _Answer:
    body = {"error": {"code": status, "message": message, "errors": [{"message": message}]}}
    return _Answer(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


def _media(stored: Object, span: str | None) -> _Answer:
    headers = {
        "Content-Type": stored.content_type,
        "X-Goog-Generation": str(stored.generation),
        "X-Goog-Metageneration": str(stored.metageneration),
        "X-Goog-Stored-Content-Length": str(len(stored.data)),
        "X-Goog-Hash": f"crc32c={stored.crc32c},md5={stored.md5}",
    }
    size = len(stored.data)
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", span or "")
    if match is None or not (match[1] or match[2]):
        return _Answer(200, stored.data, headers)
    if match[1]:
        start = int(match[1])
        stop = min(int(match[2]) + 1, size) if match[2] else size
    else:
        start, stop = max(size - int(match[2]), 0), size
    if start >= size:
        answer = _error(416, "The requested range cannot be satisfied.")
        return dataclasses.replace(answer, headers={"Content-Range": f"bytes */{size}"})
    del headers["X-Goog-Hash"]  # it is that of the whole object
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return _Answer(206, stored.data[start:stop], headers)


def _precondition(query: dict[str, str], stored: Object | None) -> _Answer | None:
    """The answer where a precondition does not hold."""
    generation = 0 if stored is None else stored.generation
    metageneration = 0 if stored is None else stored.metageneration
    for name, actual in (("Generation", generation), ("Metageneration", metageneration)):
        match, mismatch = query.get(f"if{name}Match"), query.get(f"if{name}NotMatch")
        if match is not None and int(match) != actual:
            return _error(412, "At least one of the pre-conditions you specified did not hold.")
        if mismatch is not None and int(mismatch) == actual:
            return _Answer(304)
    wanted = query.get("generation")
    if wanted is not None and int(wanted) != generation:
        return _error(404, f"No such generation: {wanted}")
    return None


def _parts(content_type: str, body: bytes) -> tuple[dict[str, Any], str, bytes]:
    """The description, the content type and the data of a multipart upload."""
    boundary = re.search(r'boundary="?([^";]+)"?', content_type)
    assert boundary is not None, content_type
    mark = b"--" + boundary[1].encode()
    _, first, rest = body.split(mark, 2)
    data = rest[: rest.rindex(mark)]
    head, text = _split_part(first)
    described = json.loads(text)
    head, data = _split_part(data)
    fields = email.parser.Parser().parsestr(head.decode(), headersonly=True)
    return described, fields.get("content-type", "application/octet-stream"), data


def _split_part(part: bytes) -> tuple[bytes, bytes]:
    """The head and the body of a part, each without the line breaks around it."""
    line = b"\r\n" if part.startswith(b"\r\n") else b"\n"
    head, _, body = part.removeprefix(line).partition(line + line)
    return head, body.removesuffix(line)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that were killed are no news."""


def _handler_class(server: FakeGcs) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_one(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = _Request(self.command, url.path, query, headers, self._body(headers))
            fault = server.fault(self.command, urllib.parse.unquote(self.path))
            kind = fault.kind if fault else None
            server.count(f"fault {kind}" if fault else f"{self.command} {_kind(request)}")
            if fault and kind == "slow":
                time.sleep(fault.seconds)
            if isinstance(kind, int):
                self._send(_error(kind, "fault on order"))
                return
            answer = server.answer(request)
            if kind == "lost":
                self._close()
            else:
                self._send(answer, cut=kind == "cut")

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_one

        def _body(self, headers: dict[str, str]) -> bytes:
            if headers.get("transfer-encoding") == "chunked":
                chunks = []
                while size := int(self.rfile.readline(), 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(chunks)
            return self.rfile.read(int(headers.get("content-length", 0)))

        def _send(self, answer: _Answer, cut: bool = False) -> None:
            try:
                phrase = HTTPStatus(answer.status).phrase
            except ValueError:
                phrase = "Client Closed Request"
            lines = [f"HTTP/1.1 {answer.status} {phrase}"]
            lines += [f"{name}: {value}" for name, value in answer.headers.items()]
            if answer.status not in (204, 304):
                lines.append(f"Content-Length: {len(answer.body)}")
            head = ("\r\n".join(lines) + "\r\n\r\n").encode()
            self.wfile.write(head + (answer.body[: len(answer.body) // 2] if cut else answer.body))
            if cut:
                self._close()

        def _close(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _kind(request: _Request) -> str:
    if request.path.startswith("/upload") or request.path.startswith("/resumable"):
        return "upload"
    if request.query.get("alt") == "media" or request.path.startswith("/download"):
        return "data"
    return "list" if request.path.endswith("/o") else "metadata"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fail", type=float, default=0.0, help="share of requests that fail")
    arguments = parser.parse_args()
    with FakeGcs(port=arguments.port) as server:
        server.faults = faults_at_rate(arguments.fail) if arguments.fail else []
        for name, value in server.environment.items():
            print(f"export {name}={value}", flush=True)
        seen: Counter[str] = Counter()
        wait: Callable[[float], None] = time.sleep
        while True:
            wait(10)
            if server.requests != seen:
                seen = Counter(server.requests)
                print(dict(seen), flush=True)


if __name__ == "__main__":
    main()
