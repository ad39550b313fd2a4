"""Runs ssh-audit against 127.0.0.1:PORT, with its plain output."""
import sys

try:
    from ssh_audit import ssh_audit
except ModuleNotFoundError:
    sys.exit("ssh-audit is missing: `pip install ssh-audit` into the environment that scripts/test makes")

sys.argv = ["ssh-audit", "-n", "-t", "20", f"127.0.0.1:{int(sys.argv[1])}"]
sys.exit(ssh_audit.main())
