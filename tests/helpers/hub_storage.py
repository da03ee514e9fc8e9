"""What a Hub stores: repositories with real commits and branches, and their files, all in one folder."""

import hashlib
import json
import time
from pathlib import Path

LFS_ENDINGS = (".safetensors", ".bin", ".onnx", ".png", ".jpg", ".parquet")
ATTRIBUTES = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LFS_ENDINGS).encode()


class MissingError(Exception):
    """There is no such repository, revision or entry; the argument is the Hub's code for it."""


def blob_name(content):
    """Return git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Storage:
    """Files by the SHA-256 of their content, and repositories by kind and name."""

    def __init__(self, folder):
        self.folder = Path(folder)
        (self.folder / "content").mkdir(parents=True)

    def put(self, content):
        name = hashlib.sha256(content).hexdigest()
        (self.folder / "content" / name).write_bytes(content)
        return name

    def has(self, name):
        return (self.folder / "content" / name).is_file()

    def get(self, name):
        return (self.folder / "content" / name).read_bytes()

    def repository(self, kind, name):
        found = Repository(self, self.folder / kind / name, name)
        if not found.file.is_file():
            raise MissingError("RepoNotFound")
        return found

    def create(self, kind, name, **settings):
        made = Repository(self, self.folder / kind / name, name)
        made.folder.mkdir(parents=True)
        made.write({"private": False, "gated": False, **settings, "branches": {}})
        files = {".gitattributes": made.entry(ATTRIBUTES)}
        made.commit("main", files, "initial commit", name.split("/")[0])
        return made


class Repository:
    """A chain of commits, each a file with its parent and everything it holds; branches point to commits."""

    def __init__(self, storage, folder, name):
        self.storage, self.folder, self.name = storage, folder, name
        self.file = folder / "repository.json"

    @property
    def owner(self):
        return self.name.split("/")[0]

    def read(self):
        return json.loads(self.file.read_text())

    def write(self, about):
        self.file.write_text(json.dumps(about))

    def update(self, **settings):
        self.write({**self.read(), **settings})

    def entry(self, content):
        return {"sha256": self.storage.put(content), "oid": blob_name(content), "size": len(content), "lfs": False}

    def entry_of_lfs(self, sha256, size):
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return {"sha256": sha256, "oid": blob_name(pointer), "size": size, "lfs": True, "pointer": len(pointer)}

    def resolve(self, revision):
        """Return the commit of a branch or a commit's own name."""
        about = self.read()
        name = about["branches"].get(revision) or revision
        if not (self.folder / "commits" / name).is_file():
            raise MissingError("RevisionNotFound")
        return name

    def at(self, commit):
        return json.loads((self.folder / "commits" / commit).read_text())

    def files(self, revision):
        return self.at(self.resolve(revision))["files"]

    def commit(self, branch, files, title, user, description=""):
        """Add a commit that holds exactly these files to a branch, and return its name."""
        about = self.read()
        made = {"parent": about["branches"].get(branch), "title": title, "message": description, "user": user,
                "date": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()), "files": files}  # fmt: skip
        text = json.dumps(made)
        name = hashlib.sha1(text.encode()).hexdigest()
        (self.folder / "commits").mkdir(exist_ok=True)
        (self.folder / "commits" / name).write_text(text)
        self.write({**about, "branches": {**about["branches"], branch: name}})
        return name

    def history(self, revision):
        name = self.resolve(revision)
        while name:
            commit = self.at(name)
            yield name, commit
            name = commit["parent"]
