"""The stage to which the SDK uploads a large flush: S3's PutObject, and the decryption of what was put there.

The body comes as aws-chunked with a trailer; the file is zstd over NDJSON under AES-256 in counter mode with the pipe's key. Files live in
memory until their fragment is taken: a file whose registration never comes is dropped with the oldest.
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict

import zstandard
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

FILES_MAX = 256
PIPE_KEY = hashlib.sha256(b"the local Snowflake's pipe key").digest()  # protects nothing: both ends are on this machine
BUCKET = "local-stage"


class StageFiles:
    """Uploaded files by path (`bucket/path`)."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, bytes] = OrderedDict()

    def put(self, path: str, body: bytes, encoding: str) -> str:
        """Keep a file; its ETag."""
        data = dechunked(body) if "aws-chunked" in encoding else body
        self._files[path] = data
        while len(self._files) > FILES_MAX:
            self._files.popitem(last=False)
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def fragment(self, path: str, start: int, length: int, iv_base64: str) -> bytes:
        """The NDJSON of a part of a file. KeyError when the file is not there."""
        sealed = self._files[path][start : start + length]
        cipher = Cipher(algorithms.AES(PIPE_KEY), modes.CTR(base64.b64decode(iv_base64)))
        return unzstd(cipher.decryptor().update(sealed))

    def forget(self, path: str) -> None:
        """The file was taken."""
        self._files.pop(path, None)


def unzstd(data: bytes) -> bytes:
    """Decompress all frames, whether or not they tell their size. ValueError when the last one is not whole."""
    found = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            found.append(frame.decompress(data))
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None
        if not frame.eof:
            raise ValueError("the data ends within a frame")
        data = frame.unused_data
    return b"".join(found)


def dechunked(body: bytes) -> bytes:
    """aws-chunked: hexadecimal size, CRLF, data, CRLF, …, a chunk of size 0 and trailers."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].split(b";")[0], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
