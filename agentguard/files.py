"""Files whose content decides what is permitted: keys, settings, rules.

Somebody who may write such a file decides in the guard's place. So a file that all users may write is
refused, and one that its group may write, unless that group is the owner's alone. What is not looked at: the
directories above, in which others could replace the file, and access control lists.

`make_private_folder` makes the folder of a file that we write.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from agentguard.errors import ConfigurationError

__all__ = [
    "is_writable_by_others",
    "make_private_folder",
    "read_trusted",
    "require_own",
    "require_trusted",
]

_HOME = ".agentguard"
_GITIGNORE = """\
# Made by agentguard: keys, state and the audit log belong in no repository.
*
"""
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def is_writable_by_others(status: os.stat_result) -> bool:
    """Return whether the file's mode lets its group or all users write it."""
    return bool(status.st_mode & _OTHERS)


def require_trusted(file: Path, status: os.stat_result) -> None:
    """Refuse a file that others may write. Its owner is trusted, who may be another user, such as a deployer.

    Raises:
        ConfigurationError: Others may write it.
    """
    if is_writable_by_others(status) and not _is_private_group(status):
        raise ConfigurationError(
            "other users may write this file, and so decide what is permitted",
            hint=f"chmod go-w {file}",
            file=file,
        )


def _is_private_group(status: os.stat_result) -> bool:
    """Return whether the group alone may write, is named like the owner, and has no other member.

    Many systems give each user such a group, and a umask by which it may write each new file, so also those
    that git writes. OpenSSH trusts such a file too, as these systems build it.
    """
    if status.st_mode & stat.S_IWOTH:
        return False
    try:
        group, owner = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid)
    except KeyError:
        return False
    return group.gr_name == owner.pw_name and set(group.gr_mem) <= {owner.pw_name}


def require_own(file: Path, status: os.stat_result) -> None:
    """Refuse a file with a key that belongs to another user than this one or root.

    Raises:
        ConfigurationError: It belongs to another user.
    """
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigurationError(
            "this private key belongs to another user, who may write it", hint=f"chown it: {file}", file=file
        )


def read_trusted(file: Path, encoding: str = "utf-8") -> str:
    """Read a text that no others may write.

    Raises:
        ConfigurationError: Others may write it.
        OSError: It cannot be read.
        ValueError: It is not in *encoding*.
    """
    with file.open(encoding=encoding) as stream:
        require_trusted(file, os.fstat(stream.fileno()))
        return stream.read()


def make_private_folder(folder: Path) -> None:
    """Make *folder*, and the folders above it that are missing. Only the owner can enter them.

    A new folder with the name ``.agentguard`` gets a ``.gitignore``, by which git leaves out all that is in
    it. A folder that exists stays as it is.

    Raises:
        OSError: A folder or the file cannot be made.
    """
    missing = [directory for directory in (folder, *folder.parents) if not directory.exists()]
    for directory in reversed(missing):  # mkdir(parents=True) would let other users into the outer ones
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:  # another process has made it meanwhile
            continue
        if directory.name == _HOME:
            (directory / ".gitignore").write_text(_GITIGNORE, "utf-8")
