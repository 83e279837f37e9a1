"""Accounts of NATS as `nsc` makes them: an operator, an account, and the .creds of a user."""

import base64
import hashlib
import json
import os
from pathlib import Path

import nkeys


def _key(prefix: int) -> tuple[str, nkeys.KeyPair]:
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    return seed.decode(), nkeys.from_seed(bytearray(seed))


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _token(kind: str, subject: nkeys.KeyPair, issuer: nkeys.KeyPair) -> str:
    claims = {
        "iat": 1,
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": kind,
        "nats": {"type": kind, "version": 2} | _UNLIMITED[kind],
    }
    claims["jti"] = hashlib.sha256(json.dumps(claims).encode()).hexdigest()
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    text = ".".join(_url64(json.dumps(each).encode()) for each in (head, claims))
    return f"{text}.{_url64(issuer.sign(text.encode()))}"


_UNLIMITED: dict[str, dict[str, object]] = {
    "operator": {},
    "account": {
        "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": True,
            "conn": -1, "leaf": -1,
        }
    },
    "user": {"subs": -1, "data": -1, "payload": -1},
}  # fmt: skip


def credentials() -> tuple[str, str]:
    """(configuration of a nats-server, .creds of a user that it knows)."""
    _, operator = _key(nkeys.PREFIX_BYTE_OPERATOR)
    _, account = _key(nkeys.PREFIX_BYTE_ACCOUNT)
    seed, user = _key(nkeys.PREFIX_BYTE_USER)
    server = (
        f"operator: {_token('operator', operator, operator)}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account.public_key.decode()}: {_token('account', account, operator)} }}\n"
    )
    creds = (
        f"-----BEGIN NATS USER JWT-----\n{_token('user', user, account)}\n"
        "------END NATS USER JWT------\n\n************ IMPORTANT ************\nkeep it secret\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    return server, creds


def written(path: str, text: str) -> str:
    """The same path, where `text` is now."""
    Path(path).write_text(text, "utf-8")
    return path
