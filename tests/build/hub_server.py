"""A hub of Hugging Face on this machine, as far as a push uses it: one repository that keeps what is committed."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """files: path -> content of the repository. commits: title of each. private: as it was made."""

    def __init__(self, refuses: bool = False):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.refuses = refuses
        self.files: dict[str, bytes] = {}
        self.commits: list[str] = []
        self.private: bool | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        if "/tree/" in self.path:
            self._answer(
                [
                    {"type": "file", "path": path, "size": len(one), "oid": "0" * 40}
                    for path, one in self.server.files.items()
                ]
            )
        else:
            names = [{"rfilename": path} for path in self.server.files]
            self._answer({"id": "me/model", "sha": "0" * 40, "siblings": names, "private": False, "tags": []})

    def do_POST(self) -> None:
        if self.server.refuses:
            self._answer({"error": "You may not write here"}, 403)
        elif self.path == "/api/repos/create":
            asked = json.loads(self._body())
            self.server.private = asked.get("visibility") == "private" or asked.get("private", False)
            self._answer({"url": f"{self.server.address}/me/model", "id": "me/model"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            sent = json.loads(self._body())["files"]
            how = {"shouldIgnore": False, "uploadMode": "regular"}  # inside the commit, large files too
            self._answer({"files": [{"path": one["path"], **how} for one in sent]})
        elif "/commit/" in self.path:
            for line in self._body().splitlines():
                self._commit(**json.loads(line))
            address = f"{self.server.address}/me/model/commit/{'1' * 40}"
            self._answer({"success": True, "commitOid": "1" * 40, "commitUrl": address})
        else:
            self._answer({"error": f"not served: {self.path}"}, 404)

    def _commit(self, key: str, value: dict[str, Any]) -> None:
        if key == "header":
            self.server.commits.append(value["summary"])
        elif key == "file":
            self.server.files[value["path"]] = base64.b64decode(value["content"])
        elif key == "deletedFile":
            del self.server.files[value["path"]]

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, body: Any, status: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words: object) -> None:
        """Nothing is printed."""


@contextmanager
def hub(**how: bool) -> Iterator[Hub]:
    """A hub that serves until the block ends."""
    server = Hub(**how)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
