"""Puts and gets one file with asyncssh: PORT USER KEY SOURCE TARGET [REKEY_BYTES]."""
import asyncio
import sys

try:
    import asyncssh
except ModuleNotFoundError:
    sys.exit("asyncssh is missing: `pip install asyncssh` into the environment that scripts/test makes")

port, user, key, source, target, *more = sys.argv[1:]
options = {"rekey_bytes": int(more[0])} if more else {}


async def main():
    async with asyncssh.connect(
        "127.0.0.1", int(port), username=user, client_keys=[key], known_hosts=None, config=[], **options
    ) as connection:
        async with connection.start_sftp_client() as sftp:
            await sftp.put(source, source)
            await sftp.get(source, target)
            names = await sftp.listdir(".")
            assert source in names, names
            await sftp.mkdir("asyncssh-dir")
            # No symlink: asyncssh sends its arguments in the order of the draft to any server whose
            # identification line has neither "OpenSSH" nor "paramiko" in it, and in OpenSSH's order to those.
            await sftp.rmdir("asyncssh-dir")


asyncio.run(main())
