#!/usr/bin/env python3
"""Measures Tidegate beside this machine's own OpenSSH server, with OpenSSH's client, over loopback.

Both servers run at the same time on ports of their own and serve the same folder. Every workload runs on one,
then on the other, and again, so that a machine whose speed drifts does not favour either. The table shows the
median of the runs, the CPU time of the server alone (all of its processes, from /proc), and the ratios.

Workloads (--only takes a comma-separated list):
  get, put   one large file, for each cipher
  parallel   eight clients at once, one file each, get then put
  small      2,000 files of 4 KiB, put then get
  list       `ls -l` of a folder with 20,000 entries
  login      30 logins with a key, one after the other
  scp        one large file with `scp -O`, the old protocol, down and up
  hash       digests of one large file: md5sum, sha1sum, sha256sum, sha512sum, against coreutils behind sshd
  idle       memory of 100 idle sessions, on freshly started servers
  delay      one upload over a line with a long round trip (only with --delay)

docs/performance.md explains how to read the result.
"""
import argparse
import asyncio
import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import pwd
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

CIPHERS = "aes128-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr"
WORKLOADS = "get,put,scp,hash,parallel,small,list,login,idle"
DIGESTS = "md5sum", "sha1sum", "sha256sum", "sha512sum"
TICK = os.sysconf("SC_CLK_TCK")
SMALL_FILES, LISTED, LOGINS, SESSIONS, CLIENTS = 2_000, 20_000, 30, 100, 8


# --- processes -----------------------------------------------------------------------------------------------


def family(pid):
    """The process and all of its descendants, each with the CPU ticks it and its reaped children have used."""
    parents, ticks = collections.defaultdict(list), {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = pathlib.Path("/proc", entry, "stat").read_text()
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        parents[int(fields[1])].append(int(entry))
        ticks[int(entry)] = sum(map(int, fields[11:15]))
    found, queue = {}, [pid]
    while queue:
        current = queue.pop()
        found[current] = ticks.get(current, 0)
        queue.extend(parents[current])
    return found


def memory_kib(pid):
    """Proportional set size of a process and its descendants: shared pages count once."""
    total = 0
    for member in family(pid):
        try:
            rollup = pathlib.Path("/proc", str(member), "smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stop(process):
    """Ends a process that this script started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- the two servers -----------------------------------------------------------------------------------------


class Server:
    """One server under measurement. `start` may be called again after `stop`."""

    name = ""
    user = ""
    prefix = ""  # where the shared folder is, as this server's clients see it

    def __init__(self, bench):
        self.bench = bench
        self.dir = bench.temp / self.name.lower()
        self.dir.mkdir()
        self.port = free_port()
        self.process = None

    def start(self):
        with open(self.dir / "output.txt", "ab") as output:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                    probe.settimeout(5)
                    if probe.recv(4) == b"SSH-":
                        break
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{self.name} does not start:\n{(self.dir / 'output.txt').read_text()}")
            time.sleep(0.05)
        self.ready()

    def ready(self):
        pass

    def stop(self):
        if self.process:
            stop(self.process)

    def path(self, name):
        return f"{self.prefix}/{name}"

    def options(self, port=None):
        return [
            "-q", "-F", "none", "-o", f"Port={port or self.port}", "-i", str(self.bench.key),
            "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "LogLevel=ERROR", "-o", "BatchMode=yes",
        ]

    def client(self, *options, port=None):
        return ["sftp", *self.options(port), *options, "-b", "-", f"{self.user}@127.0.0.1"]

    def run(self, batch, *options, port=None):
        command = self.client(*options, port=port)
        done = subprocess.run(command, input=batch, text=True, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {done.stderr.strip()[-300:]}")

    def execute(self, *command):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, text=True, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {done.stderr.strip()[-300:]}")
        return done.stdout

    def cpu(self):
        return sum(family(self.process.pid).values()) / TICK

    def measure(self, work):
        """Seconds on the clock and seconds of the server's CPU that `work` takes."""
        cpu, clock = self.cpu(), time.perf_counter()
        work()
        elapsed = time.perf_counter() - clock
        # sshd reaps its children a moment after the client has left.
        time.sleep(0.3)
        return elapsed, self.cpu() - cpu


class Tidegate(Server):
    name = "Tidegate"
    user = "bench"

    def command(self):
        config = {
            "sftpd": {"bind_port": self.port, "bind_address": "127.0.0.1", "max_half_open": 512,
                      "max_half_open_per_ip": 256, "enabled_ssh_commands": ["scp", *DIGESTS]},
            "httpd": {"bind_port": 0},
            "data_provider": {"driver": "sqlite", "name": "sftpgo.db"},
        }
        if not self.process:
            # The user is made once, through the REST API of a first start.
            self.http = free_port()
            config["httpd"] = {"bind_port": self.http, "bind_address": "127.0.0.1"}
        (self.dir / "sftpgo.json").write_text(json.dumps(config))
        return [str(self.bench.binary), "serve", "-c", str(self.dir), "-l", str(self.dir / "log.json")]

    def ready(self):
        if not self.http:
            return
        user = {"username": self.user, "status": 1, "home_dir": str(self.bench.data), "permissions": {"/": ["*"]},
                "public_keys": [self.bench.key.with_suffix(".pub").read_text().strip()]}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/api/v1/user", json.dumps(user).encode(),
            {"Content-Type": "application/json"}, method="POST")
        for attempt in range(50):
            try:
                urllib.request.urlopen(request, timeout=10).read()
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
            except urllib.error.URLError:
                if attempt == 49:
                    raise
                time.sleep(0.1)
        self.http = None


class OpenSsh(Server):
    name = "OpenSSH"

    def __init__(self, bench):
        super().__init__(bench)
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.prefix = str(bench.data)
        self.sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
        places = ["/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh", "/usr/libexec"]
        self.subsystem = shutil.which("sftp-server", path=":".join(places))
        if not self.sshd or not self.subsystem:
            sys.exit("OpenSSH's server is missing: apt-get install openssh-server")
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", self.dir / "host"], check=True)
        shutil.copy(bench.key.with_suffix(".pub"), self.dir / "authorized_keys")
        (self.dir / "sshd_config").write_text("\n".join([
            f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {self.dir / 'host'}", "PidFile none",
            f"AuthorizedKeysFile {self.dir / 'authorized_keys'}", "StrictModes no", "UsePAM no",
            "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password",
            # The default refuses some of the hundred idle sessions while they log in.
            "MaxStartups 400:30:500", f"Subsystem sftp {self.subsystem}", "",
        ]))

    def command(self):
        if os.getuid() == 0:
            # Where sshd separates privileges; Debian's service unit makes it as well.
            os.makedirs("/run/sshd", exist_ok=True)
        return [self.sshd, "-D", "-e", "-f", str(self.dir / "sshd_config")]


# --- workloads -----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Row:
    """One line of the table: how a workload is run once, and what its two figures are called."""

    title: str
    unit: str
    cpu_unit: str
    once: collections.abc.Callable
    more_is_better: bool = True
    runs: int | None = None
    fresh: bool = False


class Bench:
    def __init__(self, options):
        self.options = options
        root = "/dev/shm" if os.access("/dev/shm", os.W_OK) and not options.temp else options.temp
        self.temp = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-bench-", dir=root))
        self.data = self.temp / "data"
        self.binary = pathlib.Path(options.binary).resolve()
        self.key = self.temp / "key"
        self.relays = []
        self.mib = options.size

    def prepare(self):
        for name in ("up", "local"):
            (self.data / name).mkdir(parents=True)
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", self.key], check=True)
        self.big = self.data / "big"
        with open(self.big, "wb") as file:
            for _ in range(self.mib):
                file.write(os.urandom(1 << 20))
        wanted = self.options.only.split(",")
        if "small" in wanted:
            (self.data / "small").mkdir()
            for number in range(SMALL_FILES):
                (self.data / f"small/file-{number:05}").write_bytes(os.urandom(4_096))
        if "list" in wanted:
            (self.data / "many").mkdir()
            for number in range(LISTED):
                (self.data / f"many/entry-{number:06}").touch()
        self.servers = [Tidegate(self), OpenSsh(self)]
        for server in self.servers:
            server.start()

    def clean(self):
        for server in getattr(self, "servers", []):
            server.stop()
        for relay in self.relays:
            stop(relay)
        shutil.rmtree(self.temp, ignore_errors=True)

    def rows(self):
        wanted = self.options.only.split(",")
        for cipher in self.options.ciphers.split(","):
            for what in ("get", "put"):
                if what in wanted:
                    yield self.one_file(what, cipher)
        if "scp" in wanted:
            yield self.scp("get")
            yield self.scp("put")
        if "hash" in wanted:
            for name in DIGESTS:
                yield self.digest(name)
        if "parallel" in wanted:
            yield self.parallel("get")
            yield self.parallel("put")
        if "small" in wanted:
            yield self.small("put")
            yield self.small("get")
        if "list" in wanted:
            yield self.listing()
        if "login" in wanted:
            yield self.login()
        if "idle" in wanted:
            yield self.idle()
        if self.options.delay:
            yield self.delayed()

    def throughput(self, files, elapsed, cpu, mib=None):
        mib = (mib or self.mib) * files
        return mib * 1.048576 / elapsed, cpu / (mib / 1024)

    def transfer(self, server, what, target):
        remote, local = server.path(f"up/{target}"), self.data / "big"
        return f"get {server.path('big')} /dev/null\n" if what == "get" else f"put {local} {remote}\n"

    def expect_same(self, server, target):
        arrived = self.data / "up" / target
        if subprocess.run(["cmp", "-s", self.big, arrived], check=False).returncode:
            raise RuntimeError(f"{server.name}: {target} differs from what was sent")
        arrived.unlink()

    def one_file(self, what, cipher):
        def once(server):
            options = ["-c", cipher, "-o", "MACs=hmac-sha2-256-etm@openssh.com"]
            batch = self.transfer(server, what, "one")
            elapsed, cpu = server.measure(lambda: server.run(batch, *options))
            if what == "put":
                self.expect_same(server, "one")
            return self.throughput(1, elapsed, cpu)

        return Row(f"{what} {self.mib} MiB, {cipher.split('@')[0]}", "MB/s", "CPU-s/GiB", once)

    def scp(self, what):
        def once(server):
            there = f"{server.user}@127.0.0.1:"
            down, up = [there + server.path("big"), "/dev/null"], [str(self.big), there + server.path("up/scp")]
            ends = down if what == "get" else up
            command = ["scp", "-O", *server.options(), "-c", "aes128-gcm@openssh.com", *ends]
            elapsed, cpu = server.measure(lambda: server.execute(*command))
            if what == "put":
                self.expect_same(server, "scp")
            return self.throughput(1, elapsed, cpu)

        return Row(f"scp -O {what} {self.mib} MiB", "MB/s", "CPU-s/GiB", once)

    def digest(self, name):
        expected = hashlib.new(name.removesuffix("sum"), usedforsecurity=False)
        with open(self.big, "rb") as file:
            while block := file.read(1 << 20):
                expected.update(block)

        def once(server):
            command = ["ssh", *server.options(), f"{server.user}@127.0.0.1", f"{name} {server.path('big')}"]
            said = []
            elapsed, cpu = server.measure(lambda: said.append(server.execute(*command)))
            if said[0].split()[0] != expected.hexdigest():
                raise RuntimeError(f"{server.name}: {name} says {said[0].strip()}")
            return self.throughput(1, elapsed, cpu)

        return Row(f"{name} of {self.mib} MiB", "MB/s", "CPU-s/GiB", once)

    def parallel(self, what):
        def together(server):
            options = ["-c", "aes128-gcm@openssh.com"]
            clients = []
            for number in range(CLIENTS):
                client = subprocess.Popen(server.client(*options), stdin=subprocess.PIPE, text=True,
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                client.stdin.write(self.transfer(server, what, f"par{number}"))
                client.stdin.close()
                clients.append(client)
            if any([client.wait() for client in clients]):
                raise RuntimeError(f"{server.name}: one of {CLIENTS} clients failed")

        def once(server):
            elapsed, cpu = server.measure(lambda: together(server))
            if what == "put":
                for number in range(CLIENTS):
                    self.expect_same(server, f"par{number}")
            return self.throughput(CLIENTS, elapsed, cpu)

        return Row(f"{CLIENTS} clients, {what} {self.mib} MiB each", "MB/s", "CPU-s/GiB", once,
                   runs=max(1, self.options.runs - 1))

    def small(self, what):
        def once(server):
            local, remote = self.data / "local/small", self.data / "up/small"
            for folder in (local, remote):
                shutil.rmtree(folder, ignore_errors=True)
            if what == "put":
                batch = f"mkdir {server.path('up/small')}\ncd {server.path('up/small')}\nlcd {self.data}/small\nput *\n"
                arrived = remote
            else:
                local.mkdir()
                batch = f"cd {server.path('small')}\nlcd {local}\nget *\n"
                arrived = local
            elapsed, cpu = server.measure(lambda: server.run(batch))
            if subprocess.run(["diff", "-rq", self.data / "small", arrived], check=False, stdout=2).returncode:
                raise RuntimeError(f"{server.name}: {SMALL_FILES} small files did not arrive whole")
            return SMALL_FILES / elapsed, cpu * 1000 / SMALL_FILES

        return Row(f"{SMALL_FILES:,} files of 4 KiB, {what}", "files/s", "CPU-ms/file", once)

    def listing(self):
        def once(server):
            elapsed, cpu = server.measure(lambda: server.run(f"ls -ln {server.path('many')}\n"))
            return elapsed * 1000, cpu * 1000

        return Row(f"ls -l of {LISTED:,} entries", "ms", "CPU-ms", once, more_is_better=False)

    def login(self):
        def once(server):
            elapsed, cpu = server.measure(lambda: [server.run("pwd\n") for _ in range(LOGINS)])
            return LOGINS / elapsed, cpu * 1000 / LOGINS

        return Row("login with a key", "logins/s", "CPU-ms", once)

    def idle(self):
        def once(server):
            server.stop()
            server.start()
            before = memory_kib(server.process.pid)
            clients = [subprocess.Popen(server.client(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        stderr=subprocess.DEVNULL) for _ in range(SESSIONS)]
            try:
                for client in clients:
                    client.stdin.write("pwd\n")
                    client.stdin.flush()
                for client in clients:
                    if not any("Remote working" in line for line in client.stdout):
                        raise RuntimeError(f"{server.name}: an idle session was refused")
                time.sleep(1)
                return max(memory_kib(server.process.pid) - before, 0.1) / SESSIONS, 0
            finally:
                for client in clients:
                    client.stdin.close()
                for client in clients:
                    client.wait()

        return Row(f"{SESSIONS} idle sessions", "KiB each", "", once, more_is_better=False, runs=1)

    def delayed(self):
        mib = min(self.mib, self.options.delay_size)
        file = self.data / "delayed"
        ports = {}
        for server in self.servers:
            ports[server.name] = free_port()
            command = [sys.executable, __file__, "--relay", str(ports[server.name]), str(server.port),
                       str(self.options.delay / 2)]
            self.relays.append(subprocess.Popen(command))
        with open(self.big, "rb") as source:
            file.write_bytes(source.read(mib << 20))
        time.sleep(1)

        def once(server):
            port = ports[server.name]
            clock = time.perf_counter()
            server.run("pwd\n", port=port)
            login = time.perf_counter() - clock
            batch = f"put {file} {server.path('up/delayed')}\n"
            elapsed, cpu = server.measure(lambda: server.run(batch, port=port))
            if subprocess.run(["cmp", "-s", file, self.data / "up/delayed"], check=False).returncode:
                raise RuntimeError(f"{server.name}: the delayed upload differs")
            return self.throughput(1, max(elapsed - login, 0.001), cpu, mib)

        return Row(f"put {mib} MiB over {self.options.delay:g} ms", "MB/s", "CPU-s/GiB", once)

    def run(self):
        self.prepare()
        print(machine())
        ours, theirs = (server.name for server in self.servers)
        header = ["workload", ours, theirs, "ratio", f"CPU {ours}", f"CPU {theirs}", "ratio"]
        print("| " + " | ".join(header) + " |")
        print("|---" * len(header) + "|", flush=True)
        failed = False
        for row in self.rows():
            results = {server.name: [] for server in self.servers}
            for _ in range(row.runs or self.options.runs):
                for server in self.servers:
                    try:
                        results[server.name].append(row.once(server))
                    except RuntimeError as error:
                        failed = True
                        print(f"  ! {error}", file=sys.stderr)
            print(self.line(row, results[ours], results[theirs]), flush=True)
        return 1 if failed else 0

    @staticmethod
    def line(row, ours, theirs):
        if not ours or not theirs:
            return f"| {row.title} | {'FAILED' if not ours else 'ok'} | {'FAILED' if not theirs else 'ok'} | | | | |"
        (a, a_cpu), (b, b_cpu) = (tuple(map(statistics.median, zip(*runs))) for runs in (ours, theirs))
        cells = [row.title, f"{a:,.1f} {row.unit}", f"{b:,.1f} {row.unit}", f"{a / b:.2f}×"]
        if row.cpu_unit:
            share = f"{a_cpu / b_cpu:.2f}×" if b_cpu else "–"
            cells += [f"{a_cpu:.2f} {row.cpu_unit}", f"{b_cpu:.2f} {row.cpu_unit}", share]
        else:
            cells += ["–", "–", "–"]
        if not row.more_is_better:
            cells[3] += " (less is better)"
        return "| " + " | ".join(cells) + " |"


def machine():
    model = "unknown processor"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    version = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr.split(",")[0].strip()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    return f"{model}, {os.cpu_count()} CPUs, {memory} GiB, Linux {platform.release()}, {version}\n"


# --- a long line ---------------------------------------------------------------------------------------------


async def relay(listen, target, delay_ms):
    """Passes bytes on, each `delay_ms` after it came: a long line without a limit of its own rate."""
    limit = 64 << 20

    async def one_way(reader, writer):
        line, waiting = asyncio.Queue(), 0
        room = asyncio.Event()
        room.set()

        async def deliver():
            nonlocal waiting
            while True:
                due, data = await line.get()
                pause = due - time.monotonic()
                if pause > 0:
                    await asyncio.sleep(pause)
                if not data:
                    writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()
                waiting -= len(data)
                if waiting < limit:
                    room.set()

        delivery = asyncio.create_task(deliver())
        try:
            while True:
                data = await reader.read(1 << 18)
                line.put_nowait((time.monotonic() + delay_ms / 1000, data))
                waiting += len(data)
                if not data:
                    break
                if waiting >= limit:
                    room.clear()
                    await room.wait()
            await delivery
        except OSError:
            delivery.cancel()

    async def client(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target, limit=1 << 20)
        except OSError:
            writer.close()
            return
        await asyncio.gather(one_way(reader, far_writer), one_way(far_reader, writer), return_exceptions=True)
        for end in (writer, far_writer):
            end.close()

    server = await asyncio.start_server(client, "127.0.0.1", listen, limit=1 << 20)
    await server.serve_forever()


# --- the command line ----------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="the large file (default 1024)")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each workload (default 3)")
    parser.add_argument("--only", default=WORKLOADS, metavar="LIST", help=f"workloads (default {WORKLOADS})")
    parser.add_argument("--ciphers", default=CIPHERS, metavar="LIST", help="ciphers of get and put")
    parser.add_argument("--delay", type=float, nargs="?", const=100, default=0, metavar="MS",
                        help="add an upload over this round trip (100 ms if no number is given)")
    parser.add_argument("--delay-size", type=int, default=1024, metavar="MIB",
                        help="at most this much for the delayed upload (default 1024)")
    parser.add_argument("--binary", metavar="FILE", help="measure this binary instead of building release")
    parser.add_argument("--temp", metavar="DIR", help="folder for the data (default /dev/shm, else the usual)")
    parser.add_argument("--relay", nargs=3, metavar=("LISTEN", "TARGET", "MS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.relay:
        asyncio.run(relay(int(options.relay[0]), int(options.relay[1]), float(options.relay[2])))
        return 0
    unknown = set(options.only.split(",")) - set(WORKLOADS.split(","))
    if options.only and unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    if not options.binary:
        subprocess.run(["cargo", "build", "--release", "--bin", "tidegate"], check=True)
        options.binary = os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release/tidegate")
    # A signal ends the run like Ctrl-C does: both servers and the data go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench(options)
    try:
        return bench.run()
    except KeyboardInterrupt:
        return 130
    finally:
        bench.clean()


if __name__ == "__main__":
    sys.exit(main())
