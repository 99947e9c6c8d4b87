"""A stand-in for the Hugging Face hub on 127.0.0.1: repositories of files, kept in memory."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """`repos` holds {name: {commit: {path: bytes}}}; the newest commit is main."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos, self.unknown = {}, []
        self.lies = {}  # sizes by path that it claims falsely
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo, files):
        commits = self.repos.setdefault(repo, {})
        merged = {**(list(commits.values())[-1] if commits else {}), **files}
        name = hashlib.sha1(repr((len(commits), sorted(merged))).encode()).hexdigest()
        commits[name] = merged
        return name

    def find(self, repo, revision):
        """The commit and files of a revision, or None."""
        commits = self.repos.get(repo, {})
        if revision in (None, "main") and commits:
            return list(commits.items())[-1]
        return (revision, commits[revision]) if revision in commits else None


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def send(self, status, body=b"", headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **dict(headers)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, code):
        self.send(404, {"error": code}, {"X-Error-Code": code})

    def do_GET(self):
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", path):
            commit = self.server.find(found[1], found[2])
            if commit is None:
                missing = "RevisionNotFound" if found[1] in self.server.repos else "RepoNotFound"
                return self.refuse(missing)
            sizes = {k: self.server.lies.get(k, len(v)) for k, v in commit[1].items()}
            siblings = [{"rfilename": k, "size": n, "blobId": "0"} for k, n in sizes.items()]
            return self.send(200, {"id": found[1], "sha": commit[0], "siblings": siblings})
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            commit = self.server.find(found[1], found[2])
            if commit is None or found[3] not in commit[1]:
                return self.refuse("EntryNotFound")
            data = commit[1][found[3]]
            etag = hashlib.sha256(data).hexdigest()
            return self.send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit[0]})
        self.server.unknown.append(self.path)
        self.refuse("EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            told = json.loads(body)
            repo = "/".join(filter(None, [told.get("organization"), told["name"]]))
            self.server.repos.setdefault(repo, {})
            return self.send(200, {"url": f"{self.server.url}/{repo}"})
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
            files = [
                {"path": x["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for x in json.loads(body)["files"]
            ]
            return self.send(200, {"files": files})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                x["value"]["path"]: base64.b64decode(x["value"]["content"])
                for x in lines
                if x["key"] == "file"
            }
            name = self.server.commit(found[1], files)
            url = f"{self.server.url}/{found[1]}/commit/{name}"
            return self.send(200, {"success": True, "commitOid": name, "commitUrl": url})
        self.server.unknown.append(self.path)
        self.refuse("EntryNotFound")
