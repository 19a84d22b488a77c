"""What a file is that was taken for another: a web page, a pointer, an archive, by its first bytes."""

from pathlib import Path
from typing import Final

HEAD: Final = 512  # bytes that are looked at

_DOWNLOAD: Final = "not the file itself: what was downloaded is a web page, such as a login or an error"

# What a file may begin with, white space aside and in lower case, and what it then is.
_TEXTS: Final = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch that with git lfs pull"),
    (b"<!doctype html", f"an HTML page, {_DOWNLOAD}"),
    (b"<html", f"an HTML page, {_DOWNLOAD}"),
    (b"<head", f"an HTML page, {_DOWNLOAD}"),
    (b"<?xml", "an XML document, such as a storage service answers with in place of a file"),
)
_MAGIC: Final = (
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"PK\x03\x04", "a zip archive, as torch.save also writes"),
    (b"\x80\x02", "a pickle, as torch.save wrote before torch 1.6"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG picture"),
)


def head_of(path: Path) -> bytes | None:
    """The first HEAD bytes of a file; None where it is no regular file, or cannot be read."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            return file.read(HEAD)
    except (OSError, ValueError):  # a NUL in the name
        return None


def mistaken(head: bytes) -> str | None:
    """What a file is that begins so, in words that follow "it is"; None where its beginning says nothing.

    `head` are its first HEAD bytes. To be asked where a file is JSON, safetensors, a pickle, an .npz or a picture by
    its name: none of them begins in one of these ways, but for a pickle, which may be a zip archive or begin as an old
    one, an .npz, which is a zip archive, and a PNG picture.
    """
    if not head:
        return "empty: a download or a copy was not finished"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, what in _TEXTS:
        if text.startswith(beginning):
            return what
    for beginning, what in _MAGIC:
        if head.startswith(beginning):
            return what
    if head.count(0) == len(head):
        return "zeros at its beginning: a download or a copy was not finished"
    return None
