"""How tools/fuzz.py spoils a file: as bytes, and within its own format, with lengths and checksums made right again.

Every mutator is a function of a `random.Random` and the bytes of a file, and returns other bytes.
"""

import functools
import io
import json
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

Rng = random.Random
Mutator = Callable[[Rng, bytes], bytes]

NUMBERS: Final = (0, 1, -1, 2, 7, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30, 10**400)
FLOATS: Final = (0.0, -0.0, 0.5, -1.5, 1e-320, 1e30, 1e300, 1e309, float("nan"), float("-inf"))
TEXTS: Final = ("", "x", " ", "\n", "\0", "../../etc/passwd", "/dev/zero", "$\\frac", "os.system", "\ud800", "é" * 300)
OTHERS: Final = (None, True, False, [], {}, [[]], [0] * 3, {"name": "linear"}, [None] * 10, "9" * 5000)
FOREIGN: Final = (
    b"",
    b"\0" * 300,
    b"<!DOCTYPE html><html><body>404</body></html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n",
    b"{" * 5000,
    b"[" * 100_000,
    b"PK\x05\x06" + bytes(18),
    b"\x80\x02}q\x00.",
    b"\x89PNG\r\n\x1a\n",
)


def flipped(rng: Rng, data: bytes) -> bytes:
    """A few bytes set to others, mostly to the extremes."""
    out = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        out[rng.randrange(len(out))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(out)


def cut(rng: Rng, data: bytes) -> bytes:
    """The beginning of it."""
    return data[: rng.choice((rng.randrange(len(data) + 1), max(len(data) - rng.randrange(40), 0), 8))]


def spliced(rng: Rng, data: bytes) -> bytes:
    """A piece taken out, repeated, zeroed, or put elsewhere."""
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    piece, at = data[a:b], rng.randrange(len(data) + 1)
    return rng.choice((data[:a] + data[b:], data[:at] + piece + data[at:], data[:a] + bytes(b - a) + data[b:]))


def grown(rng: Rng, data: bytes) -> bytes:
    """More behind it."""
    return data + rng.choice((b"\0", b" ", b"\xff" * 7, data[:1000], bytes(1 << 16)))


def foreign(rng: Rng, data: bytes) -> bytes:
    """Another thing altogether."""
    return rng.choice((*FOREIGN, rng.randbytes(rng.randrange(2000))))


PLAIN: Final[tuple[Mutator, ...]] = (flipped, flipped, cut, spliced, grown, foreign)


def extreme(rng: Rng) -> Any:
    """A JSON value that is seldom right."""
    return rng.choice(
        (rng.choice(NUMBERS), -rng.choice(NUMBERS), rng.choice(FLOATS), rng.choice(TEXTS), rng.choice(OTHERS))
    )


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def changed(rng: Rng, value: Any) -> Any:
    """A JSON value with one place in it changed: another value, no value, another name, one more."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        out, key = dict(value), rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            del out[key]
        elif kind < 0.2:
            out[rng.choice((key + "_", key.upper(), rng.choice(TEXTS)))] = out.pop(key)
        elif kind < 0.3:
            out["more" + rng.choice(TEXTS)] = extreme(rng)
        else:
            out[key] = changed(rng, out[key])
        return out
    if isinstance(value, list) and value and rng.random() < 0.7:
        at, kind = rng.randrange(len(value)), rng.random()
        if kind < 0.2:
            return value[:at] + value[at + 1 :]
        if kind < 0.4:
            return value * rng.choice((2, 50, 2000))
        return [*value[:at], changed(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice((value + 1, -value, value * 2, value * 1000, value / 3))
    return nested(rng.choice((50, 900, 990))) if rng.random() < 0.04 else extreme(rng)


def written(rng: Rng, value: Any) -> bytes:
    """JSON, now and then of a kind that few write."""
    try:
        text = json.dumps(value, ensure_ascii=rng.random() < 0.7)
    except (RecursionError, ValueError):
        text = "[" * 2000
    kind = rng.random()
    if kind < 0.05 and text.startswith("{"):
        name = text[1:-1].split(":", 1)[0]
        text = "{" + ", ".join([f"{name}: 1"] * rng.choice((2, 20_000))) + ", " + text[1:]
    elif kind < 0.08:
        text = text.replace(": ", ":" + " " * 1000)
    encoding = "utf-8" if kind > 0.1 else rng.choice(("utf-8-sig", "utf-16", "utf-32"))
    return text.encode(encoding, "surrogatepass")


def json_changed(rng: Rng, data: bytes) -> bytes:
    """A JSON file with one to three changes."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = changed(rng, value)
    return written(rng, value)


def safetensors_parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a sound file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def safetensors_file(header: bytes, tensors: bytes, length: int | None = None) -> bytes:
    """A file of both; `length` is what it says of its header's."""
    return struct.pack("<Q", len(header) if length is None else length) + header + tensors


def safetensors_changed(rng: Rng, data: bytes) -> bytes:
    """A header that says other things, or of another length than it has; tensors that hold other numbers."""
    header, tensors = safetensors_parts(data)
    kind = rng.random()
    if kind < 0.15:
        return safetensors_file(json.dumps(header).encode(), tensors, rng.choice((0, 1, 2**31, 2**63 + 1, len(data))))
    if kind < 0.35:
        bits = rng.choice(
            (b"\0\0\x80\x7f", b"\0\0\xc0\xff", b"\xff\xff\x7f\x7f", b"\1\0\0\0")
        )  # inf, nan, large, small
        at = rng.randrange(max(len(tensors) // 4, 1)) * 4
        return safetensors_file(json.dumps(header).encode(), tensors[:at] + bits + tensors[at + 4 :])
    if kind < 0.45:
        dtype = rng.choice(("F16", "BF16", "F64", "I32", "BOOL", "F8_E4M3"))
        for entry in header.values():
            if "dtype" in entry:
                entry["dtype"] = dtype
        return safetensors_file(json.dumps(header).encode(), tensors)
    if kind < 0.5:
        many = {
            f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(rng.choice((2000, 30_000)))
        }
        return safetensors_file(json.dumps(many).encode(), b"")
    return safetensors_file(written(rng, changed(rng, header)), tensors)


def npy(rng: Rng, header: str, values: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    """An .npy with any header."""
    text = (header + " " * (-(len(header) + 11) % 64) + "\n").encode("latin-1", "replace")
    size = struct.pack("<H", min(len(text), 65_535)) if version == (1, 0) else struct.pack("<I", len(text))
    if rng.random() < 0.05:
        size = b"\xff" * len(size)
    return b"\x93NUMPY" + bytes(version) + size + text + values


def npy_changed(rng: Rng, data: bytes) -> bytes:
    """Another dtype, order or shape than the values have."""
    length = int.from_bytes(data[8:10], "little")
    values = data[10 + length :]
    descr = rng.choice(
        ("'|u1'", "'|i1'", "'<i8'", "'>i8'", "'<u2'", "'|O'", "'<U9'", "'<M8[s]'", "'|V0'", "[('a', '|u1')]", "7")
    )
    sides = [rng.choice((0, 1, 2, 8, 40, 2048, 10**6, 2**33, -1, True, "8", None)) for _ in range(rng.randrange(6))]
    shape = rng.choice((f"({', '.join(map(repr, sides))},)", "(40, 8, 8)", "(40,)", "(40, 8, 8, 1)", "()", "8"))
    header = f"{{'descr': {descr}, 'fortran_order': {rng.choice(('True', 'False', 'False', '0'))}, 'shape': {shape}, }}"
    if rng.random() < 0.15:
        header = rng.choice(
            ("(" * 9000, "{", header * 200, "__import__('os')", "-" * 9000 + "1", header.replace("}", ", 'x': 1}"))
        )
    return npy(
        rng,
        header,
        rng.choice((values, values[:7], values * 3, b"")),
        rng.choice(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9))),
    )


METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def zip_changed(members: Mapping[str, Sequence[Mutator]]) -> Mutator:
    """A mutator of archives: members changed by their own mutators, twice there, shadowed, bombs, or lied about."""

    def change(rng: Rng, data: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            held = [(info.filename, archive.read(info)) for info in archive.infolist()]
        at = rng.randrange(len(held))
        name, content = held[at]
        mutators = next((found for ending, found in members.items() if name.endswith(ending)), PLAIN)
        kind = rng.random()
        if kind < 0.55:
            held[at] = (name, rng.choice((*mutators, *PLAIN))(rng, content))
        elif kind < 0.7:
            twin = rng.choice((name, name.removesuffix(".npy"), name + ".npy", "/" + name, name + "\0.npy"))
            held.insert(rng.randrange(len(held) + 1), (twin, rng.choice((content, flipped(rng, content), b""))))
        elif kind < 0.8:
            held[at] = (rng.choice((name.upper(), name + "x", "../" + name, "é\ud800"[:1])), content)
        elif kind < 0.85:
            held[at] = (name, content + bytes(rng.choice((1, 1 << 20, 48 << 20))))
        page = io.BytesIO()
        with zipfile.ZipFile(page, "w", rng.choice(METHODS) if rng.random() < 0.3 else rng.choice(METHODS[:2])) as out:
            for each, inside in held:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of a name that is there twice
                    # By its name alone it would have the time of day, and a case is a function of its seed and number.
                    member = zipfile.ZipInfo(each)
                    member.compress_type = out.compression
                    out.writestr(member, inside)
        packed = page.getvalue()
        return lied(rng, packed) if rng.random() < 0.4 else packed

    return change


def lied(rng: Rng, data: bytes) -> bytes:
    """A field of a member's two headers, or of the end of the directory, that says something else."""
    out = bytearray(data)
    signature, fields = rng.choice(
        (
            (b"PK\x01\x02", (8, 10, 16, 20, 24, 28, 30, 32, 42)),
            (b"PK\x03\x04", (6, 8, 14, 18, 22, 26, 28)),
            (b"PK\x05\x06", (8, 10, 12, 16, 20)),
        )
    )
    at = data.find(signature)
    if at >= 0:
        field = at + rng.choice(fields)
        value = rng.choice(
            (b"\0\0", b"\1\0", b"\x01\x08", b"\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\x7f", rng.randbytes(2))
        )
        out[field : field + len(value)] = value
    return bytes(out)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of each chunk of a sound PNG."""
    found, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def png_file(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A PNG of them, with sizes and checksums that are right."""
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@functools.cache
def bomb(size: int) -> bytes:
    """So many zeros, compressed to a thousandth."""
    return zlib.compress(bytes(size))


def new_chunk(rng: Rng) -> tuple[bytes, bytes]:
    """A chunk that a reader may choke on."""
    packed = bomb(rng.choice((1000, 1_100_000, 30 << 20)))
    side = struct.pack(">II", rng.choice((0, 8, 2**31)), rng.choice((0, 8, 2**31)))
    chosen: tuple[bytes, bytes] = rng.choice(
        (
            (b"zTXt", b"Software\0\0" + packed),
            (b"zTXt", b"k\0" + rng.randbytes(30)),
            (b"iCCP", b"icc\0\0" + packed),
            (b"iCCP", b"icc"),
            (b"iTXt", b"Software\0\1\0\0\0" + packed),
            (b"iTXt", b"k\0\0\0\xff\xff\0\xed\xa0\x80"),
            (b"iTXt", b"k"),
            (b"tEXt", b"Software\0fewstep " + b"9" * rng.choice((1, 2_000_000))),
            (b"tEXt", b"\xff" * 200 + b"\0\x1b[2J\n"),
            (b"acTL", struct.pack(">II", rng.choice((0, 1, 2, 2**31)), 0)),
            (b"fcTL", struct.pack(">I", 0) + side + side + bytes(6)),
            (b"fdAT", struct.pack(">I", 1) + rng.randbytes(20)),
            (b"PLTE", rng.randbytes(rng.choice((0, 1, 3, 768, 3000)))),
            (b"tRNS", rng.randbytes(rng.randrange(300))),
            (b"eXIf", rng.choice((b"", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0"))),
            (b"IDAT", rng.choice((b"", packed, zlib.compress(b"\5" * 600)))),
            (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 6, 0, 0, 1)),
            (b"cHRM", b"\0"),
            (b"pHYs", b"\xff" * 9),
            (b"zzzz", bytes(100)),
        )
    )
    return chosen


def png_changed(rng: Rng, data: bytes) -> bytes:
    """A chunk spoilt, gone, twice there, elsewhere or new, its checksum right; a size that is none of the picture's."""
    chunks = png_chunks(data)
    at, kind = rng.randrange(len(chunks)), rng.random()
    name, content = chunks[at]
    if kind < 0.2:
        chunks[at] = (name, rng.choice(PLAIN)(rng, content))
    elif kind < 0.3:
        del chunks[at]
    elif kind < 0.4:
        chunks.insert(rng.randrange(len(chunks) + 1), (name, content))
    elif kind < 0.55:
        sides = [rng.choice((0, 1, 7, 8, 9, 3000, 8192, 65_536, 2**31 - 1, 2**31)) for _ in range(2)]
        depth, colour = rng.choice((1, 2, 4, 8, 16, 3)), rng.choice((0, 2, 3, 4, 6, 5))
        chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *sides, depth, colour, 0, 0, rng.choice((0, 1, 2))))
    else:
        for _ in range(rng.choice((1, 1, 3, 70))):
            chunks.insert(rng.randrange(len(chunks) + 1), new_chunk(rng))
    return png_file(chunks)


def lines_changed(rng: Rng, data: bytes) -> bytes:
    """A text of lines with one of them gone, twice there, or saying something extreme."""
    lines = data.decode().split("\n")
    at, kind = rng.randrange(len(lines)), rng.random()
    if kind < 0.2:
        del lines[at]
    elif kind < 0.3:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind < 0.4:
        lines.insert(
            at,
            rng.choice((".".join(["a"] * 5000) + " = 1", "x = " + "[" * 2000, "[a.b]\n" * 500, "k = 0x" + "f" * 9000)),
        )
    else:
        left = lines[at].split("=", 1)[0] if "=" in lines[at] else lines[at].rsplit(",", 1)[0]
        between = " = " if "=" in lines[at] else ","
        value = rng.choice(
            (
                *map(str, NUMBERS[:15]),
                "nan",
                "-inf",
                "1e999",
                "''",
                "'x'",
                "[]",
                "{}",
                "true",
                "9" * 5000,
                "[1, 'a']",
                "x" * 200_000,
            )
        )
        lines[at] = left + between + value
    return "\n".join(lines).encode()
