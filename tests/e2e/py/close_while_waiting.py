"""Starts an upload and a download over SFTP and an upload by scp, each in a channel of one connection, and closes
the channels while they wait for their bandwidth.

Arguments: port, user, key. Goes on at each line of standard input.
"""

import sys

try:
    import paramiko
except ModuleNotFoundError:
    sys.exit("paramiko is missing: `pip install paramiko` into the environment that scripts/test makes")

port, user, key = sys.argv[1:]
transport = paramiko.Transport(("127.0.0.1", int(port)))
transport.connect(username=user, pkey=paramiko.Ed25519Key.from_private_key_file(key))

listing = paramiko.SFTPClient.from_transport(transport)
reader = paramiko.SFTPClient.from_transport(transport)
down = reader.open("/down", "rb")
down.prefetch(200_000)

writer = paramiko.SFTPClient.from_transport(transport)
up = writer.open("/up", "wb")
up.set_pipelined(True)
up.write(bytes(100_000))

scp = transport.open_session()
scp.exec_command("scp -t /scp")
scp.sendall(b"C0644 200000 scp\n" + bytes(100_000))

sys.stdin.readline()
for channel in (reader.get_channel(), writer.get_channel(), scp):
    channel.close()
listing.listdir("/")
print("closed", flush=True)

sys.stdin.readline()
# There is room for as many channels as before.
for _ in range(3):
    paramiko.SFTPClient.from_transport(transport).listdir("/")
print("room", flush=True)
transport.close()
