"""`aer pki secure-boot`: a key that signs images, and a certificate that firmware knows it by."""

from datetime import UTC, datetime, timedelta
from typing import Final

from aer.command import Call
from runtime.identity import store
from runtime.identity.authority import Pair

# Firmware looks at no dates; a certificate must have some.
DAYS: Final = 3650
# What every firmware knows. Many know no other kind and no other length.
_BITS: Final = 2048


def secure_boot(call: Call) -> int:
    files = store.PairFiles.at(call["dir"] / "db")
    key = files.leftover_key() or _make_key()
    files.write(_certified(key, call["name"]))
    print(f"{files.certificate}, {files.key}")
    return 0


def _make_key() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(public_exponent=65537, key_size=_BITS).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _certified(pem: bytes, name: str) -> Pair:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC).replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.OID_CODE_SIGNING]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), pem)
