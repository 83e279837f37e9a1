"""A real server with a JWKS document: its keys, those beside them, and its end."""

import datetime
import ipaddress
import ssl
import tempfile
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.documents import Behaviour, DocumentServer, dripping, good, jwk, jwks, silent
from tests.integration.harness import MEMORY, Odin, OdinTestCase, eventually
from tests.integration.test_tokens import CLAIMS, pem

ONE, TWO = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in "12")
HEAD = b"HTTP/1.1 200 OK\r\n"


def signed(key: rsa.RSAPrivateKey, kid: str | None = None) -> str:
    return jwt.encode(CLAIMS, key, algorithm="RS256", headers={"kid": kid} if kid else None)


def certificate() -> tuple[ssl.SSLContext, Path]:
    """A TLS server's context for 127.0.0.1, and its certificate."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(ONE.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(ONE, hashes.SHA256())
    )
    file = Path(tempfile.mkdtemp()) / "both.pem"
    key = ONE.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(built.public_bytes(serialization.Encoding.PEM) + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context, file


class JwksTests(OdinTestCase):
    def serve(self, behaviour: Behaviour, context: ssl.SSLContext | None = None) -> DocumentServer:
        server = DocumentServer(behaviour, context)
        self.addCleanup(server.stop)
        return server

    def fetching(self, server: DocumentServer, **environment: str) -> Odin:
        """An Odin that fetches its keys there."""
        return self.start(*MEMORY, AUTH_JWKS_URL=server.url, JWT_SECRET="", **environment)

    def status(self, odin: Odin, token: str) -> int:
        return self.wire(odin).upgrade(f"Authorization: Bearer {token}\r\n").status

    def test_keys(self) -> None:
        """The only key of a document needs no kid, and the configured one counts beside it."""
        server = self.serve(good(jwks({"kty": "new"}, jwk(ONE.public_key()))))
        odin = self.fetching(server, AUTH_JWT_PUBLIC_KEY=pem(TWO))
        odin.says("1 keys from the JWKS document")
        for token in (signed(ONE), signed(ONE, "k"), signed(TWO), signed(TWO, "k")):
            self.assertEqual(self.status(odin, token), 101)
        stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.assertEqual(self.status(odin, signed(stranger)), 401)

    def test_https(self) -> None:
        """Over TLS the server's certificate must be one that the system trusts."""
        context, file = certificate()
        server = self.serve(good(jwks(jwk(ONE.public_key(), kid="k"))), context)
        odin = self.fetching(server, SSL_CERT_FILE=str(file))
        odin.says("1 keys from the JWKS document")
        self.assertEqual(self.status(odin, signed(ONE, "k")), 101)
        self.fetching(server).says("the JWKS document: .*CERTIFICATE_VERIFY_FAILED")

    def test_stop(self) -> None:
        """A server that never gets to the end of its document keeps Odin from nothing."""
        for behaviour in (
            dripping(HEAD + b"Content-Length: 100000\r\n\r\n"),
            dripping(HEAD + b"X: "),
            silent,
        ):
            server = self.serve(behaviour)
            odin = self.fetching(server, SERVER_SHUTDOWN_TIMEOUT="2")
            eventually(lambda server=server: server.requests)
            self.assertGreater(odin.port, 0)
            odin.signal(15)
            self.assertEqual(odin.wait(), 0)  # the server goes on

    def test_stop_in_the_tls_handshake(self) -> None:
        """The same in the middle of a TLS handshake."""
        server = self.serve(dripping(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03"))
        url = server.url.replace("http:", "https:")
        odin = self.start(*MEMORY, AUTH_JWKS_URL=url, SERVER_SHUTDOWN_TIMEOUT="2")
        eventually(lambda: server.requests)
        self.assertGreater(odin.port, 0)
        odin.signal(15)
        self.assertEqual(odin.wait(), 0)
