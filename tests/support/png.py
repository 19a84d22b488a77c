"""A PNG by its chunks, of any kind and content, with sizes and checksums that are right."""

import struct
import zlib


def header(width: int, height: int, bits: int = 8, colour: int = 0) -> tuple[bytes, bytes]:
    """IHDR, of the colour types 0 gray and 2 RGB among others."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """Of names and contents."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in chunks)
