"""Logs in with a security key made of software: PORT USER FLAGS, or without arguments prints its public key.

FLAGS is the byte that says, among other things, whether the key was touched (OpenSSH's PROTOCOL.u2f).
"""
import asyncio
import base64
import hashlib
import sys

try:
    import asyncssh
    from asyncssh.packet import Byte, String, UInt32
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519
except ModuleNotFoundError:
    sys.exit("asyncssh is missing: `pip install asyncssh` into the environment that scripts/test makes")

KIND = b"sk-ssh-ed25519@openssh.com"
APPLICATION = b"ssh:"
SECRET = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
POINT = SECRET.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
PUBLIC = String(KIND) + String(POINT) + String(APPLICATION)


class SecurityKey(asyncssh.SSHKeyPair):
    """Signs as an authenticator does: over the application, flags, a counter and the message."""

    _key_type = "software"

    def __init__(self, flags):
        super().__init__(KIND, KIND, (KIND,), (KIND,), PUBLIC, b"software")
        self.trailer = Byte(flags) + UInt32(7)

    def sign(self, data):
        signed = hashlib.sha256(APPLICATION).digest() + self.trailer + hashlib.sha256(data).digest()
        return String(KIND) + String(SECRET.sign(signed)) + self.trailer


async def main(port, user, flags):
    key = SecurityKey(int(flags))
    async with asyncssh.connect(
        "127.0.0.1", int(port), username=user, client_keys=[key], known_hosts=None, config=[]
    ) as connection:
        async with connection.start_sftp_client() as sftp:
            await sftp.listdir(".")


if len(sys.argv) == 1:
    print(KIND.decode(), base64.b64encode(PUBLIC).decode(), "software")
else:
    try:
        asyncio.run(main(*sys.argv[1:]))
    except asyncssh.PermissionDenied as denied:
        sys.exit(str(denied))
