"""Runs where git and rsync run, and tries to get out. Prints what it was granted, one line each, sorted.

Arguments: a directory outside, the id of a process outside, the name of the mode, then (appended by the
server's own program) the directory inside.
"""

import ctypes
import os
import socket
import sys

outside, pid, mode, place = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
libc = ctypes.CDLL(None, use_errno=True)


def call(name, *args):
    function = getattr(libc, name)
    if function(*args) == -1:
        raise OSError(ctypes.get_errno(), name)


def attempt(name, action):
    try:
        action()
    except (OSError, AttributeError):
        return
    print(name)


def spawn(path):
    child = os.fork()
    if child == 0:
        try:
            os.execv(path, [path, "-c", "exit 0"])
        except OSError:
            os._exit(99)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 99:
        raise OSError(path)


def write(path):
    with open(path, "w") as file:
        file.write("#!/bin/sh\nexit 0\n")


def through_link(name, target):
    link = f"{place}/{name}"
    os.symlink(target, link)
    try:
        open(link).read()
    finally:
        os.unlink(link)


secret = f"{outside}/secret"

# What honest programs need.
attempt("inside: list", lambda: os.listdir(place))
attempt("inside: read", lambda: open(f"{place}/file").read())
attempt("inside: write", lambda: write(f"{place}/new"))
attempt("inside: rename", lambda: os.rename(f"{place}/new", f"{place}/dir/new"))
attempt("inside: mkdir", lambda: os.mkdir(f"{place}/sub"))
attempt("inside: chmod", lambda: os.chmod(f"{place}/dir/new", 0o755))
attempt("inside: remove", lambda: os.unlink(f"{place}/file"))
attempt("processes: fork", lambda: os.waitpid(os.fork() or os._exit(0), 0))
attempt("processes: socketpair", socket.socketpair)
attempt("devices: null", lambda: open("/dev/null", "w").write("x"))

# Nothing of the server's.
for descriptor in range(3, 1024):
    attempt(f"server: descriptor {descriptor}", lambda: os.fstat(descriptor))

# Nobody else's files.
attempt("outside: read", lambda: open(secret).read())
attempt("outside: write", lambda: open(secret, "a"))
attempt("outside: truncate", lambda: os.truncate(secret, 0))
attempt("outside: create", lambda: write(f"{outside}/new"))
attempt("outside: list", lambda: os.listdir(outside))
attempt("outside: mkdir", lambda: os.mkdir(f"{outside}/dir"))
attempt("outside: remove", lambda: os.unlink(secret))
attempt("outside: take", lambda: os.rename(secret, f"{place}/taken"))
attempt("outside: give", lambda: os.rename(f"{place}/dir/new", f"{outside}/given"))
attempt("outside: hard link", lambda: os.link(secret, f"{place}/hard"))
attempt("outside: through a link", lambda: through_link("link", secret))
attempt("outside: by dots", lambda: open(f"{place}/../../../../../../../..{secret}").read())
attempt("outside: chdir and list", lambda: (os.chdir(outside), os.listdir(".")))
for path in ["/etc/passwd", "/etc/shadow", "/proc/1/environ", f"/proc/{pid}/environ", "/proc/self/environ"]:
    attempt(f"outside: {path}", lambda: open(path).read())
for path in ["/", "/etc", "/proc", "/tmp", "/root", "/home"]:
    attempt(f"outside: list {path}", lambda: os.listdir(path))
if mode == "namespaces":
    attempt("outside: stat", lambda: os.stat(secret))
    attempt("outside: chmod", lambda: os.chmod(secret, 0o777))
    attempt("outside: utime", lambda: os.utime(secret, (1, 1)))
    attempt("outside: chown", lambda: os.chown(secret, 1, 1))
    attempt("outside: stat of passwd", lambda: os.stat("/etc/passwd"))
    attempt("outside: stat of proc", lambda: os.stat("/proc/1"))
    attempt("outside: write to a library", lambda: os.chmod("/usr/lib", 0o777))

# No network, no other processes.
for name in ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET"]:
    attempt(f"network: {name}", lambda: socket.socket(getattr(socket, name), socket.SOCK_DGRAM))
attempt("processes: signal 0", lambda: os.kill(pid, 0))
attempt("processes: signal", lambda: os.kill(pid, 18))
attempt("processes: pidfd", lambda: os.pidfd_open(pid))
attempt("processes: ptrace", lambda: call("ptrace", 16, pid, None, None))
attempt("processes: priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, 5))
attempt("processes: setsid", os.setsid)
attempt("processes: setpgid", lambda: os.setpgid(0, 0))
attempt("processes: shmget", lambda: call("shmget", 0, 4096, 0o1600))

# Nothing else to execute.
for path in ["/bin/sh", "/usr/bin/env", "/usr/bin/git", "/usr/local/bin/git"]:
    attempt(f"execute: {path}", lambda: spawn(path))
attempt("execute: what was uploaded", lambda: spawn(f"{place}/dir/evil"))
attempt("execute: what was written", lambda: spawn(f"{place}/dir/new"))
attempt("execute: memory", lambda: os.memfd_create("x"))

# Nothing of the kernel's.
attempt("kernel: unshare users", lambda: call("unshare", 0x10000000))
attempt("kernel: unshare mounts", lambda: call("unshare", 0x00020000))
attempt("kernel: mount", lambda: call("mount", b"tmpfs", place.encode(), b"tmpfs", 0, None))
attempt("kernel: chroot", lambda: os.chroot(place))
attempt("kernel: device", lambda: os.mknod(f"{place}/disk", 0o60666, os.makedev(8, 0)))
attempt("kernel: memory device", lambda: open("/dev/mem"))
attempt("kernel: fifo", lambda: os.mkfifo(f"{place}/fifo"))
attempt("kernel: host name", lambda: socket.sethostname("x"))
attempt("kernel: personality", lambda: call("personality", 0))
attempt("kernel: keyctl", lambda: call("syscall", {"x86_64": 250}.get(os.uname().machine, 219), 0, -3, 0))
attempt("kernel: io_uring", lambda: call("syscall", 425, 1, ctypes.create_string_buffer(256)))
attempt("kernel: bpf", lambda: call("syscall", {"x86_64": 321}.get(os.uname().machine, 280), 0, 0, 0))
