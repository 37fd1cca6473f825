"""The fleetrun command of every node."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from vilg import config
from vilg.config import require
from vilg.distributed.topology import build_topology
from vilg.errors import UserError

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

        node: index of the node. master: address of the first node. host: address under which the other nodes reach
        this one; the first node becomes the master because the two are equal. Both have to contain a dot: see
        `hosts.with_addresses`. All three may be shell variables.
        """
        cluster = self.settings.cluster
        command = ["vilg", "fleetrun", "--grace_period", str(cluster.grace_period)]
        if nodes > 1:
            command += ["--nnodes", str(nodes), "--master", f"{master}:{cluster.port_of(attempt)}", "--rank", node]
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
        named = chosen.checkpoint not in ("none", "auto") and chosen.step is None
        return [*([f"checkpoint.initial_load_path={chosen.checkpoint}"] if named else []), "resume=auto"]

    def environment(self) -> list[str]:
        return [f"{name}={value}" for name, value in self.settings.cluster.environment.items()]

    def shell_command(self, nodes: int, node: str, master: str, host: str | None = None) -> str:
        """The command as a shell line. Where `node`, `master` and `host` are variables, such as $RANK, the shell
        replaces them. Everything else is quoted, whatever the settings contain.
        """
        given = {"@vilg-node@": node, "@vilg-master@": master, "@vilg-host@": host or ""}
        variables = {marker: value for marker, value in given.items() if value.startswith("$")}
        names = [marker if marker in variables else value for marker, value in given.items()]
        command = self.fleetrun_command(nodes, names[0], names[1], host=names[2])
        # A quoted assignment is none for the shell, but it is for env.
        environment = ["env", *self.environment()] if self.environment() else []
        return " ".join(_with_variables(shlex.quote(word), variables) for word in [*environment, *command])


def _with_variables(word: str, variables: dict[str, str]) -> str:
    """A quoted word of a shell line with variables in the place of their markers, outside of single quotes."""
    for marker, variable in variables.items():
        word = word.replace(marker, f"'\"{variable}\"'" if word.startswith("'") else variable)
    return word


def validate(job: Job, hosts: int) -> None:
    """Raise UserError if the number of hosts and the settings do not fit together, before anything starts."""
    settings = job.settings
    nodes, devices = settings.cluster.nodes or hosts, settings.cluster.devices_per_node
    require(nodes == hosts, f"cluster.nodes={nodes}: {hosts} hosts are given")
    build_topology(settings.distributed, nodes * devices, devices)
    settings.train.accumulation(nodes * devices)
    if not Path(SCRIPT).is_file():
        raise UserError(f"{SCRIPT}: no such file; start from a checkout of vilg, at the same path on every node")
