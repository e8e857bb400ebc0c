"""A server that speaks as much of the Hub's HTTP as creating, committing to and reading a repository take.

Files are kept as Git LFS does it where they are binary, else within commits, as on the Hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml


class StandInHub:
    """The server, on a free port while the context lasts.

    Attributes:
        branches: Files by name, by branch, by repository.
        private: Whether a repository was made private, by its name.
        summaries: Messages of all commits.
        token: What must be known to write.
    """

    def __init__(self, token: str = "hf_secret") -> None:
        self.token = token
        self.branches: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.summaries: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.gated: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> StandInHub:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        return self.branches[repo][branch]


def _handler(hub: StandInHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def answer(self, status: int, content: Any = None, **headers: str) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def fail(self, status: int, code: str, message: str) -> None:
            self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path)
            if asked is None:
                self.fail(404, "", "not spoken here")
                return
            repo, branch, name = asked.groups()
            if repo not in hub.branches:
                self.fail(401, "RepoNotFound", "Repository not found")
            elif repo in hub.gated:
                self.fail(403, "GatedRepo", "Access is restricted")
            elif branch not in hub.branches[repo]:
                self.fail(404, "RevisionNotFound", "Invalid rev id")
            elif name not in hub.files(repo, branch):
                self.fail(
                    404,
                    "EntryNotFound",
                    "Entry not found",
                )
            else:
                data = hub.files(repo, branch)[name]
                digest = hashlib.sha256(data).hexdigest()
                commit = hashlib.sha1(f"{repo}{branch}".encode()).hexdigest()
                self.answer(200, data, ETag=f'"{digest}"', X_Repo_Commit=commit)

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            oid = self.path.removeprefix("/lfs/")
            assert hashlib.sha256(data).hexdigest() == oid
            hub.objects[oid] = data
            self.answer(200, {})

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.fail(401, "", "Invalid username or password.")
                return
            path = unquote(urlsplit(self.path).path)
            if path == "/api/repos/create":
                self.create(json.loads(data))
            elif path == "/api/validate-yaml":
                front = yaml.safe_load(json.loads(data)["content"].split("---\n")[1])
                wrong = [] if isinstance(front, dict) else [{"message": "no mapping"}]
                self.answer(400 if wrong else 200, {"errors": wrong, "warnings": []})
            elif asked := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/branch/(.+)", path):
                self.branch(*asked.groups())
            elif re.fullmatch(r"/api/datasets/[^/]+/[^/]+/preupload/.+", path):
                files = [file["path"] for file in json.loads(data)["files"]]
                modes = [{"path": name, "uploadMode": _mode(name), "shouldIgnore": False} for name in files]
                self.answer(200, {"files": modes})
            elif path.endswith(".git/info/lfs/objects/batch"):
                self.answer(
                    200, {"transfer": "basic", "objects": [_upload(hub, o) for o in json.loads(data)["objects"]]}
                )
            elif asked := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/commit/(.+)", path):
                self.commit(*asked.groups(), data)
            else:
                self.fail(404, "", f"not spoken here: {path}")

        def create(self, wanted: dict[str, Any]) -> None:
            repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            assert wanted["type"] == "dataset"
            url = f"{hub.url}/datasets/{repo}"
            if repo in hub.branches:
                self.answer(409, {"error": "You already created this dataset repo", "url": url})
                return
            hub.branches[repo] = {"main": {}}
            hub.private[repo] = wanted.get("private") or wanted.get("visibility") == "private"
            self.answer(200, {"url": url, "name": repo, "id": "0"})

        def branch(self, repo: str, name: str) -> None:
            if name in hub.branches[repo]:
                self.answer(409, {"error": "Reference already exists"})
                return
            hub.branches[repo][name] = dict(hub.files(repo))
            self.answer(200, {})

        def commit(self, repo: str, branch: str, data: bytes) -> None:
            for line in map(json.loads, data.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    hub.summaries.append(value["summary"])
                elif line["key"] == "file":
                    hub.files(repo, branch)[value["path"]] = base64.b64decode(value["content"])
                else:
                    assert line["key"] == "lfsFile"
                    hub.files(repo, branch)[value["path"]] = hub.objects[value["oid"]]
            self.answer(200, {"commitUrl": f"{hub.url}/datasets/{repo}/commit/{'0' * 40}", "commitOid": "0" * 40})

    return Handler


def _mode(name: str) -> str:
    return "lfs" if name.endswith((".safetensors", ".parquet")) else "regular"


def _upload(hub: StandInHub, wanted: dict[str, Any]) -> dict[str, Any]:
    upload = {"upload": {"href": f"{hub.url}/lfs/{wanted['oid']}"}}
    return {"oid": wanted["oid"], "size": wanted["size"], "actions": upload}
