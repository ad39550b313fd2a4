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
            await sftp.symlink(source, "asyncssh-link")
            # The server refuses READLINK (sftp-server.md §13, 16); the link works all the same.
            assert (await sftp.stat("asyncssh-link")).size == (await sftp.stat(source)).size
            await sftp.remove("asyncssh-link")
            await sftp.rmdir("asyncssh-dir")


asyncio.run(main())
