"""A Hugging Face Hub on 127.0.0.1, just enough of it to push a model, load it back, and go wrong on request.

Model repositories live in memory. Spoken: whoami, repos/create and delete, preupload, NDJSON commits, Git-LFS batch
and upload, tree, paths-info, model info, and resolve with HEAD and Range. Clients must set HF_HUB_DISABLE_XET=1: xet
storage is not spoken.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USER = "tester"
TOKEN = "hf_" + "LoopbackOnly" * 2
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class StoredFile:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def describe(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(self.content), "oid": self.git_oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "sha256": self.sha256, "size": len(self.content), "pointerSize": 134}
        return entry


@dataclass
class Repo:
    private: bool
    gated: bool = False
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    head: str = ""

    def commit(self, files: dict[str, StoredFile]) -> str:
        listing = sorted((path, file.git_oid) for path, file in files.items())
        self.head = hashlib.sha1(json.dumps([len(self.commits), self.head, listing]).encode()).hexdigest()
        self.commits[self.head] = files
        return self.head


@dataclass
class Fault:
    """Answer `times` requests whose "METHOD /path" matches `pattern` with `status`; 0 drops the line, -1 hangs."""

    pattern: str
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


class LoopbackHub:
    """State of the server; `requests` lists every "METHOD /path", `faults` is taken from the front."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.endpoint = ""

    def files(self, repo_id: str) -> dict[str, bytes]:
        """Contents of the newest commit by path."""
        repo = self.repos[repo_id]
        return {path: file.content for path, file in repo.commits[repo.head].items()}

    def fault(self, request: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and re.search(fault.pattern, request):
                fault.times -= 1
                return fault
        return None


class HubError(Exception):
    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *args: Any) -> None:
        pass

    # --- plumbing

    def answer(self, value: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({} if value is None else value).encode()
        self.send_response(status)
        for name, text in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    @property
    def authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def dispatch(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.read_body()
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
            fault = self.hub.fault(f"{self.command} {path}")
        if fault:
            if fault.status < 0:
                self.hub.closing.wait()
            if fault.status <= 0:
                self.close_connection = True
                self.connection.close()
                return
            return self.answer({"error": "made to fail"}, fault.status, fault.headers)
        try:
            with self.hub.lock:
                for method, pattern, name in ROUTES:
                    if self.command in method.split() and (match := re.fullmatch(pattern, path)):
                        return getattr(self, name)(query, body, **match.groupdict())
            raise HubError(404, "EntryNotFound", f"no route for {self.command} {path}")
        except HubError as error:
            self.answer(
                {"error": str(error)}, error.status, {"X-Error-Code": error.code, "X-Error-Message": str(error)}
            )

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = dispatch

    def need_token(self) -> None:
        if not self.authorised:
            raise HubError(401, "Unauthorized", "Invalid username or password.")

    def need_repo(self, repo: str) -> Repo:
        found = self.hub.repos.get(repo)
        if found is None or (found.private and not self.authorised):  # as the Hub: a private repo does not exist
            raise HubError(404 if self.authorised else 401, "RepoNotFound", "Repository not found")
        return found

    def need_access(self, repo: str) -> None:
        if self.need_repo(repo).gated:  # files only: facts and listings of a gated repo are public
            raise HubError(403 if self.authorised else 401, "GatedRepo", f"Access to {repo} is restricted.")

    def need_files(self, repo: str, revision: str) -> tuple[str, dict[str, StoredFile]]:
        found = self.need_repo(repo)
        sha = found.head if revision == "main" else revision
        if sha not in found.commits:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, found.commits[sha]

    # --- account and repositories

    def whoami(self, query: dict[str, str], body: bytes) -> None:
        self.need_token()
        token = {"type": "access_token", "accessToken": {"displayName": "t", "role": "write", "createdAt": DATE}}
        self.answer(
            {"type": "user", "id": "1", "name": USER, "fullname": USER, "orgs": [], "isPro": False, "auth": token}
        )

    def create(self, query: dict[str, str], body: bytes) -> None:
        self.need_token()
        wanted = json.loads(body)
        owner = wanted.get("organization") or USER
        if owner != USER:
            raise HubError(
                403, "Forbidden", f"You don't have the rights to create a model under the namespace {owner}"
            )
        repo_id = f"{owner}/{wanted['name']}"
        answer = {"url": f"{self.hub.endpoint}/{repo_id}", "name": repo_id, "id": "1"}
        if repo_id in self.hub.repos:
            return self.answer(answer | {"error": "You already created this model repo"}, 409)
        repo = self.hub.repos[repo_id] = Repo(
            private=wanted.get("visibility") == "private" or bool(wanted.get("private"))
        )
        repo.commit({".gitattributes": StoredFile(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False)})
        self.answer(answer)

    def may_write(self, query: dict[str, str], body: bytes, repo: str) -> None:
        self.need_token()
        self.need_repo(repo)
        self.answer({})

    def delete(self, query: dict[str, str], body: bytes) -> None:
        self.need_token()
        wanted = json.loads(body)
        self.hub.repos.pop(f"{wanted.get('organization') or USER}/{wanted['name']}", None)
        self.answer()

    def validate_yaml(self, query: dict[str, str], body: bytes) -> None:
        self.answer({"errors": [], "warnings": []})

    # --- writing

    def preupload(self, query: dict[str, str], body: bytes, repo: str, revision: str) -> None:
        self.need_token()
        _, files = self.need_files(repo, revision)
        answers = []
        for asked in json.loads(body)["files"]:
            mode = "lfs" if asked["path"].endswith(".safetensors") or asked["size"] > 10 << 20 else "regular"
            answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False})
            if (old := files.get(asked["path"])) is not None:
                answers[-1]["oid"] = old.sha256 if old.lfs else old.git_oid
        self.answer({"files": answers})

    def lfs_batch(self, query: dict[str, str], body: bytes, repo: str) -> None:
        self.need_token()
        objects = []
        for wanted in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.endpoint}/lfs/{wanted['oid']}", "header": {}}}
            objects.append(wanted | ({} if wanted["oid"] in self.hub.uploads else {"actions": upload}))
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, query: dict[str, str], body: bytes, sha256: str) -> None:
        if hashlib.sha256(body).hexdigest() != sha256:
            raise HubError(400, "BadRequest", "content does not match its name")
        self.hub.uploads[sha256] = body
        self.answer()

    def commit(self, query: dict[str, str], body: bytes, repo: str, revision: str) -> None:
        self.need_token()
        found, (head, files) = self.need_repo(repo), self.need_files(repo, revision)
        files = dict(files)
        for line in body.splitlines():
            operation = json.loads(line)
            kind, value = operation["key"], operation["value"]
            if kind == "header" and value.get("parentCommit") not in (None, head):
                raise HubError(412, "PreconditionFailed", "A commit has happened since")
            if kind == "file":
                files[value["path"]] = StoredFile(base64.b64decode(value["content"]), lfs=False)
            elif kind == "lfsFile":
                if value["oid"] not in self.hub.uploads:
                    raise HubError(400, "BadRequest", f"{value['path']} was never uploaded")
                files[value["path"]] = StoredFile(self.hub.uploads[value["oid"]], lfs=True)
            elif kind in ("deletedFile", "deletedFolder"):
                gone = value["path"].rstrip("/")
                files = {p: f for p, f in files.items() if p != gone and not p.startswith(gone + "/")}
        sha = found.commit(files)
        url = f"{self.hub.endpoint}/{repo}/commit/{sha}"
        self.answer({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    # --- reading

    def info(self, query: dict[str, str], body: bytes, repo: str, revision: str | None = None) -> None:
        sha, files = self.need_files(repo, revision or "main")
        siblings = []
        for path, file in sorted(files.items()):
            entry = file.describe(path)
            sibling = {"rfilename": path, "size": entry["size"], "blobId": entry["oid"]}
            siblings.append(sibling | ({"lfs": entry["lfs"]} if file.lfs else {}))
        readme = files.get("README.md")
        front = re.match(r"---\n(.*?)\n---", readme.content.decode(), re.DOTALL) if readme else None
        meta = yaml.safe_load(front[1]) if front else {}
        self.answer(
            {
                "_id": "1", "id": repo, "modelId": repo, "sha": sha, "lastModified": DATE, "createdAt": DATE,
                "private": self.hub.repos[repo].private, "gated": False, "disabled": False, "downloads": 0, "likes": 0,
                "tags": meta.get("tags", []), "pipeline_tag": meta.get("pipeline_tag"), "cardData": meta,
                "library_name": meta.get("library_name"), "siblings": siblings,
            }
        )  # fmt: skip

    def tree(self, query: dict[str, str], body: bytes, repo: str, revision: str, under: str | None = None) -> None:
        _, files = self.need_files(repo, revision)
        prefix = f"{under.rstrip('/')}/" if under else ""
        recursive = query.get("recursive", "").lower() in ("1", "true")
        entries: dict[str, dict[str, Any]] = {}
        for path, file in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts)):
                folder = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(folder.encode()).hexdigest()
                if recursive or depth == 1:
                    entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": oid}
            if recursive or len(parts) == 1:
                entries[path] = file.describe(path)
        if prefix and not entries:
            raise HubError(404, "EntryNotFound", f"{under} does not exist")
        self.answer(list(entries.values()))

    def paths_info(self, query: dict[str, str], body: bytes, repo: str, revision: str) -> None:
        _, files = self.need_files(repo, revision)
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = json.loads(body)["paths"] if is_json else parse_qs(body.decode()).get("paths", [])
        self.answer([files[path].describe(path) for path in paths if path in files])

    def auth_check(self, query: dict[str, str], body: bytes, repo: str) -> None:
        self.need_access(repo)
        self.answer({})

    def resolve(self, query: dict[str, str], body: bytes, repo: str, revision: str, path: str) -> None:
        sha, files = self.need_files(repo, revision)
        self.need_access(repo)
        headers = {"X-Repo-Commit": sha}
        if path not in files:
            return self.answer({"error": "Entry not found"}, 404, headers | {"X-Error-Code": "EntryNotFound"})
        content, status = files[path].content, 200
        headers["ETag"] = f'"{files[path].sha256 if files[path].lfs else files[path].git_oid}"'
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if content and (part := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            start, end = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        self.send_response(status)
        for name, text in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


REPO = r"(?P<repo>[^/]+/[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("GET", rf"/api/models/{REPO}/auth-check/write", "may_write"),
    ("DELETE", r"/api/repos/delete", "delete"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"/api/models/{REPO}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"/api/(?:models|datasets)/{REPO}/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("GET", rf"/api/(?:models|datasets)/{REPO}/auth-check", "auth_check"),
    ("GET", rf"/api/(?:models|datasets)/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<under>.+))?", "tree"),
    ("GET", rf"/api/(?:models|datasets)/{REPO}(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<sha256>[0-9a-f]{64})", "lfs_put"),
    ("GET HEAD", rf"/(?:datasets/)?{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


@contextmanager
def serve_hub() -> Iterator[LoopbackHub]:
    """A running hub; `hub.endpoint` is its address. Stops when the block ends."""
    hub = LoopbackHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


if __name__ == "__main__":
    with serve_hub() as running:
        print(f"export HF_ENDPOINT={running.endpoint} HF_TOKEN={TOKEN} HF_HUB_DISABLE_XET=1", flush=True)
        while True:
            time.sleep(3600)
