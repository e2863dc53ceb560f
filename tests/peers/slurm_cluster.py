"""A Slurm cluster of one node and an OpenSSH server, both of their own, on loopback.

The cluster is made of Slurm's own daemons without MUNGE and without accounting. Everything that they write goes
with them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, Self

import asyncssh

_PROGRAMS: Final = ("slurmctld", "slurmd", "slurmstepd", "sbatch", "squeue", "scontrol", "scancel", "sshd", "flock")
_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_PATIENCE_S: Final = 60.0


def missing_programs() -> str:
    """Why no cluster can be had here; empty when one can."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    packages = "slurmctld slurmd slurm-client openssh-server"
    return f"{', '.join(missing)} not found: apt-get install {packages}" if missing else ""


class SlurmCluster:
    """Runs from ``__enter__`` to ``__exit__``.

    Attributes:
        folder: Where the cluster's files and those of jobs are.
        private_key: Text of a key that the login node takes.
        wrong_key: Text of one that it does not take.
        ssh_config: File that knows the login node as ``cluster``.
    """

    def __init__(self, *, min_job_age_s: int = 300) -> None:
        self.folder: Final = Path(tempfile.mkdtemp(prefix="propfan-slurm-"))
        self._min_job_age_s: Final = min_job_age_s
        self._environment: Final = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: Final[list[subprocess.Popen[bytes]]] = []
        self._sshd: subprocess.Popen[bytes] | None = None
        self.port: Final = _free_port()
        keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(3)]
        host_key, key, wrong = keys
        self.private_key: Final = key.export_private_key().decode()
        self.wrong_key: Final = wrong.export_private_key().decode()
        host_key.write_private_key(self._file("host_key"))
        self._file("host_key").chmod(0o600)
        key.write_public_key(self._file("authorized_keys"))
        self.known_hosts: Final = self._file("known_hosts")
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {host_key.export_public_key().decode()}")
        self.ssh_config: Final = self._file("ssh_config")
        self.ssh_config.write_text(f"Host cluster\n  HostName 127.0.0.1\n  Port {self.port}\n")

    def __enter__(self) -> Self:
        try:
            self._start_slurm()
            self.start_sshd()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.slurm("scancel", "--user", str(os.getuid()), check=False)
        self.stop_sshd()
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def slurm(self, program: str, *arguments: str, check: bool = True) -> str:
        """What one of Slurm's programs says here, on the cluster itself."""
        done = subprocess.run(
            [program, *arguments], env=self._environment, capture_output=True, text=True, check=False, timeout=30
        )
        assert done.returncode == 0 or not check, f"{program}: {done.stdout}{done.stderr}"
        return done.stdout

    def job_ids(self) -> list[str]:
        return self.slurm("squeue", "--noheader", "--states=all", "--format=%A").split()

    def start_sshd(self) -> None:
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it locks itself in
        config = self._file("sshd_config")
        lines = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": self._file("host_key"),
            "AuthorizedKeysFile": self._file("authorized_keys"),
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "yes",
            "Subsystem": "sftp internal-sftp",
            "SetEnv": f"SLURM_CONF={self.folder / 'slurm.conf'} SBATCH_OUTPUT={self.folder / '%x.%j.out'}",
        }
        config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        program = shutil.which("sshd", path=_PATH)
        assert program is not None
        with self._file("sshd.log").open("ab") as log:
            self._sshd = subprocess.Popen([program, "-D", "-e", "-f", str(config)], stderr=log)
        _wait(self._is_listening, self._file("sshd.log"))

    def stop_sshd(self) -> None:
        """The server and its connections, as when the machine restarts."""
        if self._sshd is None:
            return
        for child in _children(self._sshd.pid):
            _kill(child)
        self._sshd.terminate()
        self._sshd.wait()
        self._sshd = None

    def _start_slurm(self) -> None:
        for name in ("state", "spool"):
            self._file(name).mkdir()
        host, user = socket.gethostname().split(".")[0], user_name()
        self._file("slurm.conf").write_text(f"""\
ClusterName=propfan
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MinJobAge={self._min_job_age_s}
KillWait=1
SlurmctldPidFile={self._file("slurmctld.pid")}
SlurmdPidFile={self._file("slurmd.pid")}
StateSaveLocation={self._file("state")}
SlurmdSpoolDir={self._file("spool")}
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP
""")
        for command in (["slurmctld", "-D", "-i"], ["slurmd", "-D", "-N", host]):
            with self._file(f"{command[0]}.log").open("wb") as log:
                arguments = [*command, "-f", str(self._file("slurm.conf"))]
                self._daemons.append(subprocess.Popen(arguments, env=self._environment, stdout=log, stderr=log))
        _wait(
            lambda: "idle" in self.slurm("sinfo", "--noheader", "--format=%T", check=False),
            self._file("slurmctld.log"),
            self._file("slurmd.log"),
        )

    def _file(self, name: str) -> Path:
        return self.folder / name

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _wait(condition: object, *logs: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    assert callable(condition)
    while not condition():
        told = "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in logs)
        assert time.monotonic() < deadline, f"not up after {_PATIENCE_S:g} s:\n{told}"
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def user_name() -> str:
    return subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()


def _children(parent: int) -> list[int]:
    """All processes below it."""
    tasks = Path(f"/proc/{parent}/task/{parent}/children")
    try:
        direct = [int(child) for child in tasks.read_text().split()]
    except OSError:
        return []
    return [*direct, *(deeper for child in direct for deeper in _children(child))]


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return
