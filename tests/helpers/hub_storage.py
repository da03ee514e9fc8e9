"""What a Hub stores: repositories with real commits and branches, and their files, all in memory."""

import hashlib
import json
import time

LFS_ENDINGS = (".safetensors", ".bin", ".onnx", ".png", ".jpg", ".parquet")
ATTRIBUTES = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LFS_ENDINGS).encode()


class MissingError(Exception):
    """There is no such repository, revision or entry; the argument is the Hub's code for it."""


def blob_name(content):
    """Return git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Storage:
    """Files by the SHA-256 of their content, and repositories by kind and name."""

    def __init__(self):
        self.content, self.repositories = {}, {}

    def put(self, content):
        name = hashlib.sha256(content).hexdigest()
        self.content[name] = content
        return name

    def repository(self, kind, name):
        if (kind, name) not in self.repositories:
            raise MissingError("RepoNotFound")
        return self.repositories[kind, name]

    def create(self, kind, name, private=False):
        made = self.repositories[kind, name] = Repository(self, name, private)
        made.commit("main", {".gitattributes": made.entry(ATTRIBUTES)}, "initial commit", made.owner)
        return made


class Repository:
    """A chain of commits, each with its parent and everything it holds; branches point to commits."""

    def __init__(self, storage, name, private):
        self.storage, self.name, self.owner = storage, name, name.split("/")[0]
        self.private, self.gated, self.branches, self.commits = private, False, {}, {}

    def entry(self, content):
        return {"sha256": self.storage.put(content), "oid": blob_name(content), "size": len(content), "lfs": False}

    def entry_of_lfs(self, sha256, size):
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return {"sha256": sha256, "oid": blob_name(pointer), "size": size, "lfs": True, "pointer": len(pointer)}

    def resolve(self, revision):
        """Return the commit of a branch or a commit's own name."""
        name = self.branches.get(revision) or revision
        if name not in self.commits:
            raise MissingError("RevisionNotFound")
        return name

    def files(self, revision):
        return dict(self.commits[self.resolve(revision)]["files"])

    def commit(self, branch, files, title, user, description=""):
        """Add a commit that holds exactly these files to a branch, and return its name."""
        made = {"parent": self.branches.get(branch), "title": title, "message": description, "user": user,
                "date": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()), "files": files}  # fmt: skip
        name = self.branches[branch] = hashlib.sha1(json.dumps(made).encode()).hexdigest()
        self.commits[name] = made
        return name

    def history(self, revision):
        name = self.resolve(revision)
        while name:
            yield self.commits[name]
            name = self.commits[name]["parent"]
