"""The fleetrun command of every node."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from vilg import config
from vilg.config import require
from vilg.distributed.topology import build_topology
from vilg.errors import SettingsError, UserError, os_reason

SCRIPT = "tools/pretrain.py"


@dataclass(frozen=True)
class Job:
    """A pre-training run as the user specified it: the settings file, the overrides, and the resolved settings."""

    file: str
    overrides: list[str]
    settings: config.Pretraining

    @property
    def folder(self) -> Path:
        return self.settings.run.folder

    def fleetrun_command(
        self, nodes: int, node: str, master: str, attempt: int = 0, host: str | None = None
    ) -> list[str]:
        """The command of one node. From the second attempt on it resumes.

        node: index of the node. master: address of the first node. Both may be shell variables. host: address under
        which the other nodes reach this one.
        """
        cluster = self.settings.cluster
        command = ["vilg", "fleetrun", "--grace_period", str(cluster.grace_period)]
        if nodes > 1:
            # Each attempt uses another port, because the previous port may still be in use.
            command += ["--nnodes", str(nodes), "--master", f"{master}:{cluster.master_port + attempt}", "--rank", node]
            command += ["--host", host] if host else []
        command += [
            "--nproc_per_node",
            str(cluster.devices_per_node),
            "--log_dir",
            f"{self.folder}/log/node-{node}",
            SCRIPT,
            "-c",
            self.file,
            *self.overrides,
        ]
        return command + (self.resume_overrides() if attempt else [])

    def resume_overrides(self) -> list[str]:
        """With these, a restarted job continues from its newest checkpoint, or without one from that of the user."""
        chosen = self.settings.resume
        return [*([] if chosen in ("none", "auto") else [f"checkpoint.initial_load_path={chosen}"]), "resume=auto"]

    def environment(self) -> list[str]:
        return [f"{name}={value}" for name, value in self.settings.cluster.environment.items()]

    def shell_command(self, nodes: int, node: str, master: str, host: str | None = None) -> str:
        """The command as a shell line. If `node` or `master` is a variable, such as $RANK, the shell replaces it.

        Everything else is quoted, whatever the settings contain.
        """
        stand_ins = {}
        if node.startswith("$"):
            stand_ins["@vilg-node@"], node = node, "@vilg-node@"
        if master.startswith("$"):
            stand_ins["@vilg-master@"], master = master, "@vilg-master@"
        # A quoted assignment is none for the shell, but it is for env.
        environment = ["env", *self.environment()] if self.environment() else []
        words = map(shlex.quote, [*environment, *self.fleetrun_command(nodes, node, master, host=host)])
        return " ".join(_with_variables(word, stand_ins) for word in words)


def _with_variables(word: str, stand_ins: dict[str, str]) -> str:
    """A word of a shell line with variables in the place of their stand-ins, outside of single quotes."""
    for stand_in, variable in stand_ins.items():
        word = word.replace(stand_in, f"'\"{variable}\"'" if word.startswith("'") else variable)
    return word


def validate(job: Job, hosts: list[str]) -> None:
    """Raise UserError if hosts and settings do not fit together, before anything starts."""
    settings = job.settings
    nodes, devices = settings.cluster.nodes or len(hosts), settings.cluster.devices_per_node
    require(nodes == len(hosts), f"cluster.nodes={nodes}: {len(hosts)} hosts are given")
    if len(set(hosts)) < len(hosts):
        raise UserError(f"{', '.join(hosts)}: a host is listed twice")
    build_topology(settings.distributed, nodes * devices, devices)
    settings.train.accumulation(nodes * devices)
    if not Path(SCRIPT).is_file():
        raise UserError(f"{SCRIPT}: no such file; start from a checkout of vilg, at the same path on every node")


def read_hosts_file(file: Path) -> list[str]:
    """The first word of each line, without empty lines and comments (#). Raises UserError."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError as error:
        raise UserError(f"{file}: {os_reason(error)}") from None
    hosts = [words[0] for words in lines if words and not words[0].startswith("#")]
    if not hosts:
        raise SettingsError(f"{file}: lists no host")
    return hosts
