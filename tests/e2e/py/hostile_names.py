"""Logs in with a version, a name and paths that are meant to do harm where they are shown: PORT ARGUMENTS.

ARGUMENTS is a JSON file: version, user, key, dir, file. Puts the file into the directory, opens it again, prints
"open", and holds everything until standard input ends.
"""

import json
import sys

try:
    import paramiko
except ModuleNotFoundError:
    sys.exit("paramiko is missing: `pip install paramiko` into the environment that scripts/test makes")

wanted = json.load(open(sys.argv[2]))
transport = paramiko.Transport(("127.0.0.1", int(sys.argv[1])))
transport.local_version = wanted["version"]
transport.start_client(timeout=20)
transport.auth_publickey(wanted["user"], paramiko.Ed25519Key.from_private_key_file(wanted["key"]))
sftp = paramiko.SFTPClient.from_transport(transport)
path = wanted["dir"] + "/" + wanted["file"]
sftp.mkdir(wanted["dir"])
with sftp.open(path, "wb") as file:
    file.write(b"content")
sftp.rename(path, path + "2")
try:
    sftp.remove(path)
except FileNotFoundError:
    pass
file = sftp.open(path + "2", "rb")
file.read(3)
print("open", flush=True)
sys.stdin.read()
file.close()
transport.close()
