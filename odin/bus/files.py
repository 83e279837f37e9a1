"""The files that a connection to NATS needs, read strictly: each fault names setting and file."""

import base64
import binascii
import re
import ssl
from collections import UserString
from typing import Final

from odin.config import Nats
from odin.errors import BadFile

_MAX_BYTES: Final = 1 << 20
_USER_SEED: Final = "SU"  # how the seed of a user begins (an account's: SA)
_SEED_BYTES: Final = 36  # two of prefix, 32 of the key, two of checksum
_JWT: Final = re.compile(r"BEGIN NATS USER JWT-*\s+([\w-]+\.[\w-]+\.[\w-]+)\s")
_SEED: Final = re.compile(r"BEGIN USER NKEY SEED-*\s+(\S+)")


def check(config: Nats) -> None:
    """Read all files that `config` names. Raises: BadFile."""
    tls_context(config)
    if config.credentials_file:
        _ = Credentials(config.credentials_file).data


def tls_context(config: Nats) -> ssl.SSLContext | None:
    """TLS as configured; None where no file says how. Raises: BadFile."""
    ca, cert, key = config.tls_ca_file, config.tls_cert_file, config.tls_key_file
    if key and not cert:
        raise BadFile("nats.tlsKeyFile", key, "needs its certificate: nats.tlsCertFile")
    if not (ca or cert):
        return None
    context = _authorities(ca)
    if cert:
        _own_certificate(context, cert, key)
    return context


def _authorities(path: str) -> ssl.SSLContext:
    if path:
        _read("nats.tlsCaFile", path)
    try:
        return ssl.create_default_context(cafile=path or None)
    except ssl.SSLError:
        raise BadFile("nats.tlsCaFile", path, "holds no certificate in PEM format") from None


def _own_certificate(context: ssl.SSLContext, cert: str, key: str) -> None:
    _read("nats.tlsCertFile", cert)
    where = ("nats.tlsKeyFile", key) if key else ("nats.tlsCertFile", cert)
    if key:
        _read(*where)

    def encrypted() -> str:  # else OpenSSL asks at the terminal, and waits
        raise BadFile(*where, "the key is encrypted")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cert)
    except ssl.SSLError:
        raise BadFile("nats.tlsCertFile", cert, "holds no certificate in PEM format") from None
    try:
        context.load_cert_chain(cert, key or None, encrypted)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = "is not the key of nats.tlsCertFile"
        elif key:
            why = "holds no private key in PEM format"
        else:
            why = "holds no private key beside the certificate: nats.tlsKeyFile is missing"
        raise BadFile(*where, why) from None


class Credentials(UserString):
    """A `.creds` file for nats-py, read anew for each connection: it may be exchanged meanwhile.

    nats-py reads a file given by its name as well, but for ever where the token is missing.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"Credentials({self._path!r})"  # never what is in it

    @property
    def data(self) -> str:  # type: ignore[override] # nats-py only reads it
        """Token and seed, a line each below its headline. Raises: BadFile."""
        text = _read("nats.credentialsFile", self._path).decode("latin-1")
        token, seed = _JWT.search(text), _SEED.search(text)
        if token is None:
            raise self._bad("holds no user JWT (BEGIN NATS USER JWT)")
        if seed is None:
            raise self._bad("holds no user seed (BEGIN USER NKEY SEED)")
        if not _is_user_seed(seed[1]):
            raise self._bad("the user seed is damaged")
        return (
            f"-----BEGIN NATS USER JWT-----\n{token[1]}\n-----END NATS USER JWT-----\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed[1]}\n-----END USER NKEY SEED-----\n"
        )

    def _bad(self, why: str) -> BadFile:
        return BadFile("nats.credentialsFile", self._path, why)


def _is_user_seed(text: str) -> bool:
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        return False
    checksum = binascii.crc_hqx(raw[:-2], 0).to_bytes(2, "little")
    return text.startswith(_USER_SEED) and len(raw) == _SEED_BYTES and raw[-2:] == checksum


def _read(key: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise BadFile(key, path, f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise BadFile(key, path, "is no name of a file") from None
