"""Downloads over two channels of one connection without reading, says on each that it takes no more
(`eow@openssh.com`, OpenSSH's PROTOCOL 2.1), and waits until the server has closed them.

Arguments: port, user, key. There must be a file `/big`.
"""

import sys
import time

try:
    import paramiko
except ModuleNotFoundError:
    sys.exit("paramiko is missing: `pip install paramiko` into the environment that scripts/test makes")

port, user, key = sys.argv[1:]
transport = paramiko.Transport(("127.0.0.1", int(port)))
transport.connect(username=user, pkey=paramiko.Ed25519Key.from_private_key_file(key))

scp = transport.open_session()
scp.exec_command("scp -f /big")
scp.sendall(b"\0\0\0")

sftp = paramiko.SFTPClient.from_transport(transport)
sftp.open("/big", "rb").prefetch(8 << 20)

channels = {"scp": scp, "sftp": sftp.get_channel()}
time.sleep(1)
for channel in channels.values():
    message = paramiko.Message()
    message.add_byte(bytes([98]))  # SSH_MSG_CHANNEL_REQUEST
    message.add_int(channel.remote_chanid)
    message.add_string("eow@openssh.com")
    message.add_boolean(False)
    transport._send_user_message(message)

for name, channel in channels.items():
    deadline = time.monotonic() + 20
    while not (channel.eof_received and channel.exit_status_ready()):
        if time.monotonic() > deadline:
            sys.exit(f"the channel of {name} is still open")
        time.sleep(0.02)
paramiko.SFTPClient.from_transport(transport).listdir("/")
print("closed", flush=True)
transport.close()
