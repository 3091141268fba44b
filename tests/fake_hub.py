"""A hub on this machine: the endpoints that sending and fetching a model need."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TOKEN = "hf_right"
COMMIT = "c" * 40


def blob_id(data):
    """Git's SHA-1 of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class FakeHub(ThreadingHTTPServer):
    """Repositories in memory; what it is asked for is in `asked`.

    Attributes:
        repos: Files of each repository.
        large: Names that are kept as large files, with SHA-256.
        says: What it says of a file instead of the truth: name -> changes.
        answers: Paths (regular expressions) answered with a status instead.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.forget()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def forget(self):
        """Everything of the test before."""
        self.repos, self.large, self.says, self.answers = {}, set(), {}, {}
        self.asked, self.objects = [], {}

    def siblings(self, repo):
        """Names, sizes and hashes of a repository's files."""
        rows = []
        for name, data in self.repos[repo].items():
            row = {"rfilename": name, "size": len(data), "blobId": blob_id(data)}
            if name in self.large:
                sha = hashlib.sha256(data).hexdigest()
                row["lfs"] = {"size": len(data), "sha256": sha, "pointerSize": 134}
            rows.append(row | self.says.get(name, {}))
        return rows


class Handler(BaseHTTPRequestHandler):
    """Answers of the fake hub."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Nothing."""

    def answer(self, data, status=200, **headers):
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "Connection": "close"} | headers
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True

    def handle_any(self):
        path = unquote(self.path.partition("?")[0])
        self.server.asked.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, status in self.server.answers.items():
            if re.search(pattern, path):
                return self.answer({"error": f"status {status}"}, status)
        for method, pattern, act in ROUTES:
            if method == self.command and (found := re.fullmatch(pattern, path)):
                return act(self, body, *found.groups())
        return self.answer({"error": "?"}, 404)

    do_GET = do_POST = do_PUT = do_HEAD = handle_any

    def allowed(self):
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.answer({"error": "Invalid username or password."}, 401)
        return False

    def create(self, body):
        wish = json.loads(body)
        repo = f"{wish.get('organization', 'me')}/{wish['name']}"
        if self.allowed():
            self.server.repos.setdefault(repo, {})
            self.answer({"url": f"{self.server.url}/{repo}", "name": repo})

    def preupload(self, body, repo):
        names = [file["path"] for file in json.loads(body)["files"]]
        modes = ["lfs" if name in self.server.large else "regular" for name in names]
        files = [
            {"path": name, "uploadMode": mode, "shouldIgnore": False}
            for name, mode in zip(names, modes, strict=True)
        ]
        if self.allowed():
            self.answer({"files": files})

    def batch(self, body, repo):
        objects = [
            one | {"actions": {"upload": {"href": f"{self.server.url}/o/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, body, oid):
        self.server.objects[oid] = body
        self.answer({})

    def commit(self, body, repo):
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                data = base64.b64decode(value["content"])
                self.server.repos[repo][value["path"]] = data
            elif entry["key"] == "lfsFile":
                data = self.server.objects[value["oid"]]
                self.server.repos[repo][value["path"]] = data
        url = f"{self.server.url}/{repo}/commit/{COMMIT}"
        self.answer({"commitUrl": url, "commitOid": COMMIT})

    def info(self, _, repo):
        if repo not in self.server.repos:
            return self.answer({"error": "?"}, 404, X_Error_Code="RepoNotFound")
        files = self.server.siblings(repo)
        return self.answer({"id": repo, "sha": COMMIT, "siblings": files})

    def resolve(self, _, repo, name):
        data = self.server.repos[repo].get(name)
        if data is None:
            return self.answer({"error": "?"}, 404, X_Error_Code="EntryNotFound")
        etag = {"ETag": f'"{blob_id(data)}"', "X_Repo_Commit": COMMIT}
        return self.answer(data, **etag)


ROUTES = (
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", lambda self, _: self.answer({})),
    ("POST", r"/api/models/(.+)/preupload/main", Handler.preupload),
    ("POST", r"/(.+)\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/o/(\w+)", Handler.store),
    ("POST", r"/api/models/(.+)/commit/main", Handler.commit),
    ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/main)?", Handler.info),
    ("HEAD", rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", Handler.resolve),
    ("GET", rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", Handler.resolve),
)
