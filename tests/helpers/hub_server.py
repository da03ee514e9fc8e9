"""A Hub on 127.0.0.1 that the real `huggingface_hub` client pushes to and loads from; `hub_storage` keeps its content.

It speaks what the client needs for repositories, commits, LFS uploads (no Xet), downloads and cards, for two users. As
on the Hub, large files come from another host name, to which a client must not send its token.
"""

import base64
import json
import re
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from hub_storage import LFS_ENDINGS, MissingError, Storage

TOKENS = {"hf_alice": "alice", "hf_bob": "bob"}
_REPOSITORY = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
_LARGE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+?)"


class RefusedError(Exception):
    """An answer that is no success: status, the Hub's code, and its message."""


class HubServer:
    """A running Hub; `url` is what `HF_ENDPOINT` is set to. `requests` lists (method, path, user, status)."""

    def __init__(self):
        self.storage = Storage()
        self.requests, self.faults = [], []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def fault(self, method, path, status=None, times=10**6):
        """Answer the next so many requests that match with a status; None cuts the connection in mid-body.

        Method and path are regular expressions, the path's is searched for.

        Yields the fault, whose `left` says how often it would still strike.
        """
        one = {"method": method, "path": path, "status": status, "left": times}
        self.faults.append(one)
        try:
            yield one
        finally:
            self.faults.remove(one)

    def put(self, name, files):
        """Add a commit with files, given by path, to a model's repository; one that is not there is created."""
        try:
            found = self.storage.repository("models", name)
        except MissingError:
            found = self.storage.create("models", name)
        made = {}
        for path, content in files.items():
            lfs = path.endswith(LFS_ENDINGS)
            made[path] = found.entry_of_lfs(self.storage.put(content), len(content)) if lfs else found.entry(content)
        return found.commit("main", {**found.files("main"), **made}, "put", found.owner)

    def files(self, name, revision="main", kind="models"):
        """Return the contents of a repository's files by path."""
        found = self.storage.repository(kind, name).files(revision)
        return {path: self.storage.content[entry["sha256"]] for path, entry in found.items()}

    def commits(self, name, revision="main", kind="models"):
        """Return the titles of a repository's commits, the newest first."""
        return [commit["title"] for commit in self.storage.repository(kind, name).history(revision)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None

    def log_message(self, *arguments):
        pass

    def handle_any(self):
        parts = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        self.status, self.user = None, None
        try:
            if self._strikes(parts.path):
                return
            self.body = self._read_body()
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token and token not in TOKENS:
                raise RefusedError(401, "", "Invalid credentials in Authorization header")
            self.user = TOKENS.get(token)
            for method, pattern, action in _ROUTES:
                match = re.fullmatch(pattern, parts.path)
                if match and self.command in method.split():
                    with self.hub.lock:
                        action(self, **{key: value and unquote(value) for key, value in match.groupdict().items()})
                    break
            else:
                raise RefusedError(404, "", f"no such route: {self.command} {parts.path}")
        except MissingError as missing:
            self._refuse(404, str(missing), "not found")
        except RefusedError as refused:
            self._refuse(*refused.args)
        finally:
            self.hub.requests.append((self.command, parts.path, self.user, self.status))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

    def _strikes(self, path):
        for fault in self.hub.faults:
            if fault["left"] and re.fullmatch(fault["method"], self.command) and re.search(fault["path"], path):
                fault["left"] -= 1
                if fault["status"] is None:
                    self.rfile.read(min(100, int(self.headers.get("Content-Length", 0)) // 2))
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                else:
                    self._read_body()
                    self._refuse(fault["status"], "", "a fault of the server")
                return True
        return False

    def _read_body(self):
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send(self, status, content=b"", **headers):
        """Answer with bytes, or anything else as JSON; `_` in a header's name stands for `-`."""
        if not isinstance(content, bytes):
            content, headers = json.dumps(content).encode(), {"Content_Type": "application/json", **headers}
        self.status = status
        self.send_response(status)
        for key, value in {"Content_Length": len(content), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status, code, message, **headers):
        named = {"X_Error_Code": code} if code else {}
        self.send(status, {"error": message}, **named, X_Error_Message=message, **headers)

    def repository(self, kind, name, write=False, files=False):
        """Return a repository that the user may see (or write to, or take files of)."""
        try:
            found = self.hub.storage.repository(kind or "models", name)
        except MissingError as missing:
            raise RefusedError(404 if self.user else 401, "RepoNotFound", "Repository not found") from missing
        if found.private and self.user != found.owner:
            raise RefusedError(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if found.gated and files and self.user != found.owner:
            raise RefusedError(403 if self.user else 401, "GatedRepo", f"Access to model {name} is restricted")
        if write and self.user != found.owner:
            raise RefusedError(403 if self.user else 401, "", f"{self.user} may not write to {name}")
        return found

    def whoami(self):
        if self.user is None:
            raise RefusedError(401, "", "Invalid username or password.")
        self.send(200, {"type": "user", "name": self.user, "fullname": self.user, "orgs": [],
                        "auth": {"accessToken": {"role": "write", "displayName": "t"}}})  # fmt: skip

    def create(self):
        if self.user is None:
            raise RefusedError(401, "", "Invalid username or password.")
        given = json.loads(self.body)
        kind = given.get("type", "model") + "s"
        name = f"{given.get('organization') or self.user}/{given['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if not name.startswith(f"{self.user}/"):
            raise RefusedError(403, "", f"You don't have the rights to create a {kind[:-1]} under this namespace")
        try:
            self.hub.storage.repository(kind, name)
            self.send(409, {"error": "You already created this repo", "url": url})
        except MissingError:
            self.hub.storage.create(kind, name, private=given.get("visibility") == "private")
            self.send(200, {"url": url, "name": name})

    def information(self, kind, name, revision=None):
        found = self.repository(kind, name)
        self.send(200, self._about(found, revision or "main"))

    def _about(self, found, revision):
        sha = found.resolve(revision)
        entries, date, card = found.files(sha), found.commits[sha]["date"], {}
        if "README.md" in entries:
            card = read_metadata(self.hub.storage.content[entries["README.md"]["sha256"]].decode())
        siblings = [{"rfilename": path, "size": e["size"], "blobId": e["oid"], **self._lfs(e)}
                    for path, e in entries.items()]  # fmt: skip
        return {"_id": "1", "id": found.name, "author": found.owner, "sha": sha, "private": found.private,
                "gated": found.gated, "disabled": False, "downloads": 0, "likes": 0, "tags": card.get("tags", []),
                "lastModified": date, "createdAt": date, "cardData": card,
                "library_name": card.get("library_name"), "pipeline_tag": card.get("pipeline_tag"),
                "siblings": siblings}  # fmt: skip

    @staticmethod
    def _lfs(entry):
        if not entry["lfs"]:
            return {}
        return {"lfs": {"oid": entry["sha256"], "sha256": entry["sha256"], "size": entry["size"],
                        "pointerSize": entry["pointer"]}}  # fmt: skip

    def tree(self, kind, name, revision, path=""):
        entries = self.repository(kind, name, files=True).files(revision)
        self.send(200, self._rows({p: e for p, e in entries.items() if p.startswith(path or "")}))

    def _rows(self, entries):
        return [{"type": "file", "oid": e["oid"], "size": e["size"], "path": path, **self._lfs(e)}
                for path, e in entries.items()]  # fmt: skip

    def paths_info(self, kind, name, revision):
        wanted = parse_qs(self.body.decode()).get("paths", [])
        entries = self.repository(kind, name, files=True).files(revision)
        self.send(200, self._rows({path: entries[path] for path in wanted if path in entries}))

    def branch(self, kind, name, revision):
        found = self.repository(kind, name, write=True)
        if revision in found.branches:
            raise RefusedError(409, "", f"Reference already exists: {revision}")
        found.branches[revision] = found.resolve(json.loads(self.body or b"{}").get("startingPoint", "main"))
        self.send(201, {})

    def preupload(self, kind, name, revision):
        found = self.repository(kind, name, write=True)
        entries, answers = found.files(revision), []
        for one in json.loads(self.body)["files"]:
            entry = entries.get(one["path"])
            lfs = one["path"].endswith(LFS_ENDINGS) or one["size"] > 10_000_000
            known = {"oid": entry["sha256"] if entry["lfs"] else entry["oid"]} if entry else {}
            answers.append({"path": one["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False,
                            **known})  # fmt: skip
        self.send(200, {"files": answers})

    def batch(self, kind, name):
        self.repository(kind, name, write=True)
        objects = []
        for one in json.loads(self.body)["objects"]:
            href = f"{self.hub.url}/upload/{one['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{self.hub.url}/verify"}}
            objects.append({**one, **({} if one["oid"] in self.hub.storage.content else {"actions": actions})})
        self.send(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def upload(self, sha256):
        if self.hub.storage.put(self.body) != sha256:
            raise RefusedError(400, "", "the content has another checksum")
        self.send(200)

    def verify(self):
        given = json.loads(self.body)
        found = self.hub.storage.content.get(given["oid"])
        self.send(404 if found is None or len(found) != given["size"] else 200)

    def commit(self, kind, name, revision):
        found = self.repository(kind, name, write=True)
        head = found.branches.get(revision)
        if head is None:
            raise MissingError("RevisionNotFound")
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header, files = {}, found.files(revision)
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "header":
                header = value
            elif key == "file":
                files[value["path"]] = found.entry(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if value["oid"] not in self.hub.storage.content:
                    raise RefusedError(400, "", f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = found.entry_of_lfs(value["oid"], value["size"])
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                folder = value["path"].rstrip("/") + "/"
                files = {path: entry for path, entry in files.items() if not path.startswith(folder)}
        if header.get("parentCommit", head) != head:
            raise RefusedError(412, "", "A commit has happened since. Please refresh and try again.")
        sha = found.commit(revision, files, header["summary"], self.user, header.get("description", ""))
        self.send(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"})

    def resolve(self, kind, name, revision, path):
        found = self.repository(kind, name, files=True)
        sha = found.resolve(revision)
        entry = found.files(sha).get(path)
        if entry is None:
            self._refuse(404, "EntryNotFound", "Entry not found", X_Repo_Commit=sha)
        elif entry["lfs"]:
            sha256 = entry["sha256"]
            self.send(302, X_Repo_Commit=sha, X_Linked_Etag=f'"{sha256}"', X_Linked_Size=entry["size"],
                      ETag=f'"{entry["oid"]}"', Location=f"http://localhost:{self.hub.port}/cdn/{sha256}")  # fmt: skip
        else:
            self._send_content(entry, X_Repo_Commit=sha, ETag=f'"{entry["oid"]}"')

    def cdn(self, sha256):
        if self.headers.get("Authorization"):
            raise RefusedError(400, "", "a token was sent to another host")
        self._send_content({"sha256": sha256}, ETag=f'"{sha256}"')

    def _send_content(self, entry, **headers):
        content = self.hub.storage.content[entry["sha256"]]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self.send(200, content, **headers)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        self.send(206, content[first : last + 1], **headers, Content_Range=f"bytes {first}-{last}/{len(content)}")

    def check_card(self):
        try:
            read_metadata(json.loads(self.body)["content"])
            self.send(200, {"errors": [], "warnings": []})
        except (yaml.YAMLError, ValueError) as error:
            self.send(400, {"errors": [{"message": str(error)}], "warnings": []})


def read_metadata(text):
    """Return the mapping at the head of a card."""
    found = re.match(r"---\n(.*?)\n---(\n|$)", text, re.DOTALL)
    metadata = yaml.safe_load(found[1]) if found else {}
    if not isinstance(metadata, dict):
        raise ValueError("the metadata of a card are a mapping")
    return json.loads(json.dumps(metadata, default=str))


_ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.check_card),
    ("GET", _REPOSITORY + "(?:/revision/(?P<revision>[^/]+))?", _Handler.information),
    ("GET", _REPOSITORY + "/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", _Handler.tree),
    ("POST", _REPOSITORY + "/paths-info/(?P<revision>[^/]+)", _Handler.paths_info),
    ("POST", _REPOSITORY + "/branch/(?P<revision>[^/]+)", _Handler.branch),
    ("POST", _REPOSITORY + "/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", _REPOSITORY + "/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("POST", _LARGE + r"\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/upload/(?P<sha256>[0-9a-f]+)", _Handler.upload),
    ("POST", "/verify", _Handler.verify),
    ("GET HEAD", "/cdn/(?P<sha256>[0-9a-f]+)", _Handler.cdn),
    ("GET HEAD", _LARGE + "/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
