"""A stand-in for libLLVM, which libwasmedge wants for its compiler alone.

The forkserver compiles nothing, and every fork of its zygote would carry libLLVM and what that needs: a third of all
its mappings. So before libwasmedge is loaded, a shared object is made that has libLLVM's name and the functions that
libwasmedge asks it for, which do nothing and return zero. The dynamic linker finds it loaded already, and looks no
further (ld.so(8)). Layout: elf(5), and "Symbol Versioning" in the Linux Standard Base.
"""

from __future__ import annotations

import ctypes
import posix
import struct

_HASH, _STRTAB, _SYMTAB, _STRSZ, _SYMENT, _SONAME = 4, 5, 6, 10, 11, 14
_VERSYM, _VERDEF, _VERDEFNUM, _VERNEED, _VERNEEDNUM = 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
_LOAD, _DYNAMIC, _GNU_STACK = 1, 2, 0x6474E551
_READ, _WRITE, _EXECUTE = 4, 2, 1
_FUNC, _GLOBAL = 2, 1 << 4
_HEADER, _SEGMENT, _SYMBOL = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ"), struct.Struct("<IBBHQQ")
_PAGE = posix.sysconf("SC_PAGE_SIZE")
_OBJECT_BYTES = 65536  # of zeros, at which all objects lie: nothing reads them
_RETURN_ZERO = {62: bytes.fromhex("31c0c3"), 183: bytes.fromhex("000080d2c0035fd6")}  # x86-64, aarch64
_VERSION = 2  # index of the only one beside the file's own


class Unfit(Exception):
    """The library is not one that asks for a libLLVM, or not in a way that is understood."""


def load(library: str) -> None:
    """Load a stand-in for the libLLVM that this library needs, if it does. Raises ``OSError``."""
    path = _find(library)
    try:
        with open(path, "rb") as file:
            made = make(file.read())
    except (Unfit, struct.error, ValueError):
        return  # it works as well with the real one
    fd = posix.memfd_create("libLLVM", posix.MFD_CLOEXEC)
    try:
        posix.write(fd, made)
        ctypes.CDLL(f"/proc/self/fd/{fd}")
    finally:
        posix.close(fd)


def make(library: bytes) -> bytes:
    """A stand-in for what this library, an ELF file, needs of libLLVM. Raises ``Unfit``."""
    wants = _Needs(library)
    return _Maker(wants.machine, wants.file, wants.version, wants.symbols).file


class _Needs:
    """The symbols that an ELF file needs of libLLVM."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        ident, _, self.machine, _, _, table, _, _, _, size, count, *_ = _HEADER.unpack_from(content)
        if ident[:6] != b"\x7fELF\2\1" or self.machine not in _RETURN_ZERO:  # 64 bits, little-endian
            raise Unfit
        self._segments = [_SEGMENT.unpack_from(content, table + size * i) for i in range(count)]
        dynamic: dict[int, int] = {}
        for kind, _, offset, _, _, length, _, _ in self._segments:
            if kind == _DYNAMIC:
                dynamic = dict(struct.iter_unpack("<QQ", content[offset : offset + length]))
        if _VERNEED not in dynamic:
            raise Unfit
        self._texts = self._offset(dynamic[_STRTAB])
        index = self._find_version(self._offset(dynamic[_VERNEED]), dynamic[_VERNEEDNUM])
        self.symbols = self._find_symbols(self._offset(dynamic[_SYMTAB]), self._offset(dynamic[_VERSYM]), index)

    def _find_version(self, at: int, files: int) -> int:
        """The index of the one version that is needed of libLLVM."""
        for _ in range(files):
            _, count, file, first, following = struct.unpack_from("<HHIII", self._content, at)
            self.file = self._text(file)
            if self.file.startswith(b"libLLVM"):
                _, _, index, name, _ = struct.unpack_from("<IHHII", self._content, at + first)
                self.version = self._text(name)
                if count == 1:
                    return int(index)
            at += following
        raise Unfit

    def _find_symbols(self, symbols: int, versions: int, index: int) -> list[tuple[bytes, int]]:
        """Names and kinds of the symbols of that version. The symbols end where the texts begin."""
        found = []
        for i in range((self._texts - symbols) // _SYMBOL.size):
            if struct.unpack_from("<H", self._content, versions + 2 * i)[0] & 0x7FFF == index:
                name, info, *_ = _SYMBOL.unpack_from(self._content, symbols + _SYMBOL.size * i)
                found.append((self._text(name), info & 0xF))
        return found

    def _offset(self, address: int) -> int:
        for kind, _, offset, begin, _, length, _, _ in self._segments:
            if kind == _LOAD and begin <= address < begin + length:
                return int(offset + address - begin)
        raise Unfit

    def _text(self, at: int) -> bytes:
        begin = self._texts + at
        return self._content[begin : self._content.index(b"\0", begin)]


class _Maker:
    """A shared object of two segments: all that is only read or run, and the dynamic section with the objects."""

    def __init__(self, machine: int, name: bytes, version: bytes, symbols: list[tuple[bytes, int]]) -> None:
        self._body = bytearray(_HEADER.size + 4 * _SEGMENT.size)
        texts = b"\0".join([b"", name, version, *(each for each, _ in symbols), b""])
        at, places = 1, []
        for text in (name, version, *(each for each, _ in symbols)):
            places.append(at)
            at += len(text) + 1
        code = self._add(_RETURN_ZERO[machine])
        count = len(symbols) + 1
        strtab = self._add(texts)
        hash_ = self._add(_hash_table([each for each, _ in symbols]))
        versym = self._add(struct.pack(f"<{count}H", 0, *[_VERSION] * (count - 1)))
        verdef = self._add(
            struct.pack("<HHHHIII", 1, 1, 1, 1, _hash(name), 20, 28)
            + struct.pack("<II", places[0], 0)
            + struct.pack("<HHHHIII", 1, 0, _VERSION, 1, _hash(version), 20, 0)
            + struct.pack("<II", places[1], 0)
        )
        symtab = self._add(bytes(_SYMBOL.size * count))
        data = -(-len(self._body) // _PAGE) * _PAGE
        dynamic = [(_SONAME, places[0]), (_HASH, hash_), (_STRTAB, strtab), (_SYMTAB, symtab), (_STRSZ, len(texts))]
        dynamic += [(_SYMENT, _SYMBOL.size), (_VERSYM, versym), (_VERDEF, verdef), (_VERDEFNUM, 2), (0, 0)]
        section = b"".join(struct.pack("<QQ", *pair) for pair in dynamic)
        objects = data + len(section)
        for i, ((_, kind), place) in enumerate(zip(symbols, places[2:], strict=True), 1):
            value = code if kind == _FUNC else objects
            _SYMBOL.pack_into(self._body, symtab + _SYMBOL.size * i, place, _GLOBAL | kind, 0, 1, value, 0)
        read = len(self._body)
        segments = (
            (_LOAD, _READ | _EXECUTE, 0, 0, 0, read, read, _PAGE),
            (_LOAD, _READ | _WRITE, data, data, data, len(section), len(section) + _OBJECT_BYTES, _PAGE),
            (_DYNAMIC, _READ | _WRITE, data, data, data, len(section), len(section), 8),
            (_GNU_STACK, _READ | _WRITE, 0, 0, 0, 0, 0, 16),
        )
        for i, segment in enumerate(segments):
            _SEGMENT.pack_into(self._body, _HEADER.size + _SEGMENT.size * i, *segment)
        ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
        shared, size = 3, _HEADER.size
        _HEADER.pack_into(self._body, 0, ident, shared, machine, 1, 0, size, 0, 0, size, _SEGMENT.size, 4, 64, 0, 0)
        self.file = bytes(self._body) + bytes(data - read) + section

    def _add(self, content: bytes) -> int:
        self._body += bytes(-len(self._body) % 8)
        at = len(self._body)
        self._body += content
        return at


def _hash_table(names: list[bytes]) -> bytes:
    buckets = [0] * (len(names) // 2 + 1)
    chains = [0] * (len(names) + 1)
    for i, name in enumerate(names, 1):
        bucket = _hash(name) % len(buckets)
        chains[i], buckets[bucket] = buckets[bucket], i
    return struct.pack(f"<{2 + len(buckets) + len(chains)}I", len(buckets), len(chains), *buckets, *chains)


def _hash(name: bytes) -> int:
    value = 0
    for byte in name:
        value = (value << 4) + byte
        value = (value ^ (value & 0xF0000000) >> 24) & 0x0FFFFFFF
    return value


def _find(library: str) -> str:
    """The path at which the dynamic linker finds a library: asked in a fork, which then has it loaded.

    A path is itself. Raises ``FileNotFoundError``.
    """
    if "/" in library:
        return library
    reader, writer = posix.pipe()
    pid = posix.fork()
    if pid == 0:
        try:
            ctypes.CDLL(library)
            with open("/proc/self/maps", "rb") as maps:
                paths = (line.split(maxsplit=5)[5] for line in maps if b"/" in line)
                stem = library.partition(".so")[0].encode()
                posix.write(writer, next((path for path in paths if path.rpartition(b"/")[2].startswith(stem)), b""))
        finally:
            posix._exit(0)
    posix.close(writer)
    with open(reader, "rb") as said:
        path = said.read().strip()
    posix.waitpid(pid, 0)
    if not path:
        raise FileNotFoundError(f"{library}: not found")
    return path.decode()
