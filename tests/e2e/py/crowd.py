"""Many asyncssh clients at once: PORT USER KEY COUNT, then `login`, or `put SIZE`.

login  connects COUNT times and holds what it gets until every attempt has ended.
put    opens COUNT sessions one after the other; then all of them upload a file of SIZE bytes at the same time,
       each under a name of its own: f0, f1, and so on.

Prints a JSON object: for each outcome how often it came.
"""
import asyncio
import collections
import json
import sys

try:
    import asyncssh
except ModuleNotFoundError:
    sys.exit("asyncssh is missing: `pip install asyncssh` into the environment that scripts/test makes")

port, user, key, count, what, *more = sys.argv[1:]
count = int(count)


def connect():
    return asyncssh.connect(
        "127.0.0.1", int(port), username=user, client_keys=[key], known_hosts=None, config=[], login_timeout=90
    )


async def log_in(ended):
    """One attempt; who gets in waits for the others."""
    try:
        async with connect() as connection, connection.start_sftp_client() as sftp:
            await sftp.stat("/")
            ended.release()
            async with ended.all:
                await ended.all.wait_for(lambda: ended.count >= count)
            # Still there.
            await sftp.stat("/")
            return "in"
    except asyncssh.PermissionDenied:
        ended.release()
        return "refused"


class Ended:
    def __init__(self):
        self.all, self.count = asyncio.Condition(), 0

    def release(self):
        self.count += 1
        asyncio.get_running_loop().create_task(self.tell())

    async def tell(self):
        async with self.all:
            self.all.notify_all()


async def put(sftp, number, size, start):
    await start.wait()
    try:
        async with sftp.open(f"f{number}", "wb") as file:
            await file.write(bytes([number % 251]) * size)
        return "stored"
    except asyncssh.SFTPError as error:
        return f"{type(error).__name__}: {error.reason}"


async def main():
    if what == "login":
        ended = Ended()
        outcomes = await asyncio.gather(*(log_in(ended) for _ in range(count)))
    else:
        size, start = int(more[0]), asyncio.Event()
        connections = [await connect() for _ in range(count)]
        clients = [await connection.start_sftp_client() for connection in connections]
        puts = asyncio.gather(*(put(sftp, number, size, start) for number, sftp in enumerate(clients)))
        start.set()
        outcomes = await puts
        for connection in connections:
            connection.close()
            await connection.wait_closed()
    print(json.dumps(collections.Counter(outcomes)))


asyncio.run(main())
