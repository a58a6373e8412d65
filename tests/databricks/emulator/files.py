"""Files of /Volumes, /dbfs, /Workspace and /Models. Each has a folder of its own, which all clusters share."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from emulator.errors import ApiError, invalid, missing

ROOTS = ("Volumes", "dbfs", "Workspace", "Models")
VOLUMES = ("ml_artifacts/dev/testing", "ml_artifacts/prod/testing")


class Files:
    """The shared storage of one workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in (*(f"Volumes/{name}" for name in VOLUMES), "dbfs", "Workspace/Shared", "Workspace/Users", "Models"):
            (folder / name).mkdir(parents=True)

    def local(self, path: str) -> Path:
        """Return the path on this machine of a path in the workspace."""
        path = "/dbfs/" + path.removeprefix("dbfs:").lstrip("/") if path.startswith("dbfs:") else path
        parts = PurePosixPath(path).parts
        if len(parts) < 2 or parts[0] != "/" or parts[1] not in ROOTS or ".." in parts:
            raise invalid(f"{path} is not a path below {', '.join('/' + name for name in ROOTS)}.")
        return self.folder.joinpath(*parts[1:])

    def volume(self, path: str) -> Path:
        """Return the path on this machine of a path of the Files API. The Volume must exist."""
        target, parts = self.local(path), PurePosixPath(path).parts
        if parts[1] == "Volumes" and not (len(parts) > 4 and self.folder.joinpath(*parts[1:5]).is_dir()):
            raise ApiError(404, "NOT_FOUND", f"Volume '{'.'.join(parts[2:5])}' does not exist.")
        return target

    def upload(self, path: str, content: bytes, overwrite: bool) -> None:
        """Write a file, and create its folders."""
        target = self.volume(path)
        if target.exists() and not overwrite:
            raise ApiError(409, "ALREADY_EXISTS", f"File already exists: {path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        part.write_bytes(content)
        part.rename(target)

    def download(self, path: str) -> Path:
        """Return the file at a path."""
        target = self.volume(path)
        if not target.is_file():
            raise ApiError(404, "NOT_FOUND", f"The file being accessed is not found: {path}")
        return target

    def make_directory(self, path: str) -> None:
        """Create a directory and its parents."""
        self.volume(path).mkdir(parents=True, exist_ok=True)

    def directory(self, path: str) -> Path:
        """Return the directory at a path."""
        target = self.volume(path)
        if not target.is_dir():
            raise ApiError(404, "NOT_FOUND", f"The directory being accessed is not found: {path}")
        return target

    def contents(self, path: str) -> list[dict[str, Any]]:
        """List a directory."""
        entries = sorted(self.directory(path).iterdir())
        return [{"path": f"{path.rstrip('/')}/{entry.name}", "name": entry.name, **_stat(entry)} for entry in entries]

    def delete(self, path: str, directory: bool) -> None:
        """Delete a file, or an empty directory."""
        target = self.directory(path) if directory else self.download(path)
        if directory and any(target.iterdir()):
            raise ApiError(400, "DIRECTORY_NOT_EMPTY", f"The directory is not empty: {path}")
        shutil.rmtree(target) if directory else target.unlink()

    def dbfs_status(self, path: str) -> dict[str, Any]:
        """Answer dbfs/get-status."""
        target = self.local("dbfs:" + path)
        if not target.exists():
            raise missing(f"No file or directory exists on path {path}.")
        return {"path": path, "is_dir": target.is_dir(), "file_size": target.stat().st_size}

    def import_file(self, body: dict[str, Any]) -> None:
        """Write a workspace file (workspace/import)."""
        target = self.local("/Workspace" + body["path"].removeprefix("/Workspace"))
        if not target.parent.is_dir():
            raise missing(f"The parent folder ({PurePosixPath(body['path']).parent}) does not exist.")
        if target.exists() and not body.get("overwrite"):
            raise ApiError(400, "RESOURCE_ALREADY_EXISTS", f"Path ({body['path']}) already exists.")
        target.write_bytes(base64.b64decode(body.get("content", "")))


def _stat(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return {"is_directory": True}
    return {"is_directory": False, "file_size": path.stat().st_size, "last_modified": int(path.stat().st_mtime * 1000)}
