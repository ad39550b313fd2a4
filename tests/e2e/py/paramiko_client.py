"""Puts and gets one file with paramiko: PORT USER KEY SOURCE TARGET [REKEY_BYTES].

`get` prefetches: it asks for the whole file at once and reads the answers later.
"""
import sys

try:
    import paramiko
except ModuleNotFoundError:
    sys.exit("paramiko is missing: `pip install paramiko` into the environment that scripts/test makes")

port, user, key, source, target, *more = sys.argv[1:]
if more:
    paramiko.packet.Packetizer.REKEY_BYTES = int(more[0])
    paramiko.packet.Packetizer.REKEY_PACKETS = 1 << 40
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect("127.0.0.1", int(port), user, key_filename=key, allow_agent=False, look_for_keys=False, timeout=20)
sftp = client.open_sftp()
sftp.put(source, source)
sftp.get(source, target)
assert source in sftp.listdir("."), sftp.listdir(".")
assert sftp.stat(source).st_size == sftp.lstat(source).st_size
with sftp.open(source, "rb") as remote:
    remote.seek(1_000)
    with open(source, "rb") as local:
        local.seek(1_000)
        assert remote.read(50_000) == local.read(50_000)
    chunks = list(remote.readv([(0, 100), (500_000, 200_000), (7, 1)]))
    assert [len(chunk) for chunk in chunks] == [100, 200_000, 1]
client.close()
