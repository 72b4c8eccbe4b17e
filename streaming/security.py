"""TLS and SASL: what a Kafka client is told, and a look at the door before one is made.

kafka-python goes on trying when a broker refuses it, and after its time-out says only that it could not bootstrap. So before a
client is made, :func:`probe` connects to the broker with the same certificates and the same password, and says what is wrong: who
does not trust whom, or that the password is not right. The words of the protocol are Kafka's SaslHandshake (17) and
SaslAuthenticate (36), https://kafka.apache.org/protocol.
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Any

from kafka.net.sasl import get_sasl_mechanism

from streaming.errors import AccessError, SettingsError
from streaming.secret import reveal
from streaming.settings import KafkaSettings

_HANDSHAKE, _AUTHENTICATE = 17, 36
_UNSUPPORTED_MECHANISM = 33
_LARGEST_ANSWER = 1 << 20
_TLS_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a certificate of ours: set [kafka] ssl_certificate_file and ssl_key_file",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust who signed our certificate ([kafka] ssl_certificate_file)",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not trust our certificate ([kafka] ssl_certificate_file)",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not take our certificate ([kafka] ssl_certificate_file)",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired ([kafka] ssl_certificate_file)",
    "WRONG_VERSION_NUMBER": "its listener does not speak TLS: [kafka] security_protocol or the port is not right",
    "UNEXPECTED_EOF_WHILE_READING": "it hung up: its listener does not speak TLS ([kafka] security_protocol or the port is not right)",
    "RECORD_LAYER_FAILURE": "its listener does not speak TLS: [kafka] security_protocol or the port is not right",
}


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """What every kafka-python client of ours is told: where Kafka is, and how to get in.

    Raises:
        SettingsError: a file or a secret is not where the settings say.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in settings.bootstrap_servers.split(",")],
        "bootstrap_timeout_ms": int(settings.bootstrap_timeout.total_seconds() * 1000),
    }
    if settings.tls:
        options |= {"ssl_context": _context(settings), "ssl_check_hostname": settings.ssl_check_hostname}
    return options | _access(settings)


def probe(settings: KafkaSettings, server: str, connection: socket.socket) -> None:
    """Get in through a connection as a client would. Nothing is asked of a broker without TLS and SASL.

    Args:
        settings: how.
        server: host:port, for messages, and to check the certificate against.
        connection: just made; with TLS it is closed at the end.

    Raises:
        AccessError: it does not let us in, or is not to be trusted.
        SettingsError: a file or a secret is not where the settings say.
        OSError: it hung up.
    """
    if not settings.tls:
        if settings.sasl:
            _authenticate(settings, server, connection)
        return
    host = server.rpartition(":")[0].strip("[]")
    context = _context(settings)
    try:
        with context.wrap_socket(connection, server_hostname=host) as encrypted:
            if settings.sasl:
                _authenticate(settings, server, encrypted)
            else:
                _await_refusal(encrypted)
    except ssl.SSLError as error:
        raise _refused(server, _explained(error, host)) from error


def _access(settings: KafkaSettings) -> dict[str, Any]:
    if not settings.sasl:
        return {"security_protocol": settings.security_protocol}
    return {
        "security_protocol": settings.security_protocol,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": reveal(settings.sasl_password, setting="[kafka] sasl_password"),
    }


def _context(settings: KafkaSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = settings.ssl_check_hostname
    try:
        what = f"ssl_ca_file = {settings.ssl_ca_file}"
        if settings.ssl_ca_file:
            context.load_verify_locations(settings.ssl_ca_file)
        else:
            context.load_default_certs()
        what = f"ssl_certificate_file = {settings.ssl_certificate_file}, ssl_key_file = {settings.ssl_key_file}"
        if settings.ssl_certificate_file:
            # Never None: OpenSSL would ask at the terminal.
            password = reveal(settings.ssl_key_password, setting="[kafka] ssl_key_password")
            context.load_cert_chain(settings.ssl_certificate_file, settings.ssl_key_file, password)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        msg = f"[kafka] {what}: no PEM files that go together ({reason})"
        raise SettingsError(msg) from None
    return context


def _await_refusal(connection: ssl.SSLSocket) -> None:
    """A broker that wants a certificate of ours, and did not get a good one, hangs up; one that is content says nothing, or answers."""
    connection.settimeout(2)
    connection.sendall(struct.pack(">ihhih", 10, 18, 0, 1, -1))  # ApiVersions, which every broker answers
    connection.recv(1)


def _authenticate(settings: KafkaSettings, server: str, connection: socket.socket) -> None:
    answer = _ask(connection, _HANDSHAKE, 1, _string(settings.sasl_mechanism))
    (code,) = struct.unpack_from(">h", answer)
    if code == _UNSUPPORTED_MECHANISM:
        raise _refused(
            server, f"it does not know [kafka] sasl_mechanism = {settings.sasl_mechanism}, but {_names(answer)}"
        )
    if code:
        raise _refused(
            server, f"it refuses to talk of who we are (error {code}): [kafka] security_protocol is not its listener's"
        )
    mechanism = get_sasl_mechanism(settings.sasl_mechanism)(host=server, **_access(settings))
    while not mechanism.is_done():
        token = mechanism.auth_bytes()
        answer = _ask(connection, _AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
        (code,) = struct.unpack_from(">h", answer)
        if code:
            reason = (
                f"[kafka] sasl_username = {settings.sasl_username} or the password at sasl_password = {settings.sasl_password} "
                f"is not right for {settings.sasl_mechanism}"
            )
            raise _refused(server, reason)
        (length,) = struct.unpack_from(">h", answer, 2)
        at = 4 + max(length, 0)
        (size,) = struct.unpack_from(">i", answer, at)
        try:
            mechanism.receive(answer[at + 4 : at + 4 + max(size, 0)])
        except (KeyError, ValueError) as error:
            raise _refused(
                server, f"its answer in {settings.sasl_mechanism} is not that of a broker that knows us"
            ) from error


def _ask(connection: socket.socket, key: int, version: int, body: bytes) -> bytes:
    """One request, and the body of its answer."""
    request = struct.pack(">hhih", key, version, 1, -1) + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _exactly(connection, 4))
    if not 4 <= size <= _LARGEST_ANSWER:
        msg = "it does not speak Kafka's protocol"
        raise OSError(msg)
    return _exactly(connection, size)[4:]


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        part = connection.recv(count - len(received))
        if not part:
            msg = "it hung up: [kafka] security_protocol is not that of its listener, or it is no broker"
            raise ConnectionResetError(msg)
        received += part
    return received


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded


def _names(answer: bytes) -> str:
    (count,) = struct.unpack_from(">i", answer, 2)
    names, at = [], 6
    for _ in range(count):
        (length,) = struct.unpack_from(">h", answer, at)
        names.append(answer[at + 2 : at + 2 + length].decode(errors="replace"))
        at += 2 + length
    return ", ".join(names) or "none"


def _explained(error: ssl.SSLError, host: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if "hostname" in error.verify_message.lower() or "ip address" in error.verify_message.lower():
            return (
                f"its certificate is not for '{host}': [kafka] bootstrap_servers must call it as the certificate does "
                f"({error.verify_message})"
            )
        return f"its certificate is not signed by whom [kafka] ssl_ca_file says ({error.verify_message})"
    return _TLS_ALERTS.get(error.reason or "", f"TLS failed: {error.reason or error}")


def _refused(server: str, reason: str) -> AccessError:
    return AccessError(f"Kafka at {server} cannot be used: {reason}.")
