"""`vilg train-image-tokenizer`, `import-image-tokenizer`, `pretrain`, `plan`, `launch` and `fleetrun`."""

import json
import shlex
from pathlib import Path

from vilg import config
from vilg.commands.command import command, overwrite_option, positive, settings
from vilg.files import refuse_existing


def add(commands) -> None:
    _training(
        commands,
        "train-image-tokenizer",
        "train a VQ-VAE, VQGAN or dVAE",
        _train_image_tokenizer,
        "fleet_configs/emoji_vqvae.yaml",
    )
    _import_image_tokenizer(commands)
    _training(
        commands, "pretrain", "pre-train the transformer in both directions", _pretrain, "fleet_configs/emoji.yaml"
    )
    _plan(commands)
    _launch(commands)
    _fleetrun(commands)


def _training(commands, name: str, summary: str, run, file: str) -> None:
    parser = command(
        commands,
        name,
        summary,
        f"vilg {name} -c {file} train.steps=100\n  fleetrun --nproc_per_node 2 "
        f"tools/{name.replace('-', '_')}.py -c {file} resume=auto\n\n"
        "resume=none|auto|step:N|PATH selects the checkpoint to start from. Settings that differ from those of the\n"
        "checkpoint are printed; unlikely ones are refused unless resume.allow=[..] names them (docs/checkpoints.md).",
        run,
    )
    settings(parser)


def _train_image_tokenizer(options) -> None:
    resolved = config.resolve(config.ImageTokenizerTraining, options.config, options.overrides)
    from vilg.training.entry_points import train_image_tokenizer

    train_image_tokenizer(resolved)


def _import_image_tokenizer(commands) -> None:
    parser = command(
        commands,
        "import-image-tokenizer",
        "convert published weights of an image tokenizer",
        "vilg import-image-tokenizer --from taming last.ckpt --settings model.yaml --out vqgan\n"
        "  vilg import-image-tokenizer --from openai-dvae enc.pkl dec.pkl --out dvae",
        _run_import,
    )
    parser.add_argument(
        "--from",
        dest="origin",
        choices=["taming", "openai-dvae"],
        required=True,
        help="format of the published weights",
    )
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="SRC", help="checkpoint file; for openai-dvae encoder and decoder"
    )
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="for taming: settings of the model in YAML or JSON"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    overwrite_option(parser)


def _run_import(options) -> None:
    from vilg.image.importing import import_tokenizer

    refuse_existing("--out", options.out, options.overwrite)
    tokenizer = import_tokenizer(options.origin, options.files, options.settings, options.out)
    print(
        f"{options.out}: {tokenizer.kind}, {tokenizer.codebook_size} codes, "
        f"each for {tokenizer.factor} x {tokenizer.factor} pixels"
    )


def _pretrain(options) -> None:
    resolved = config.resolve(config.Pretraining, options.config, options.overrides)
    from vilg.training.entry_points import pretrain

    pretrain(resolved)


def _plan(commands) -> None:
    parser = command(
        commands,
        "plan",
        "estimate memory, traffic and time of a pre-training job",
        "vilg plan -c fleet_configs/10b.yaml cluster.nodes=4\n"
        "  vilg plan -c fleet_configs/lite.yaml cluster.device_memory=40 --json",
        _run_plan,
    )
    settings(parser)
    parser.add_argument(
        "--utilisation",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="share of cluster.device_tflops that the devices reach (0.4)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def _run_plan(options) -> int:
    resolved = config.resolve(config.Pretraining, options.config, options.overrides)
    from vilg.plan import estimate, input_sizes, report, suggest

    sizes = input_sizes.read_input_sizes(resolved)
    plan = estimate.estimate(resolved, sizes, options.utilisation)
    better = None if plan.fits else suggest.suggest(resolved, sizes, options.utilisation)
    if options.json:
        print(json.dumps(plan.to_dict() | {"suggestion": better and {"overrides": better[0], **better[1].to_dict()}}))
    else:
        print(report.report(plan))
        if not plan.fits:
            print("\n" + report.format_suggestion(better))
    return 0 if plan.fits else 1


def _launch(commands) -> None:
    parser = command(
        commands,
        "launch",
        "print or start the fleetrun command of every node of a pre-training job",
        "vilg launch -c fleet_configs/10b.yaml --hosts a.lab,b.lab,c.lab,d.lab\n"
        "  vilg launch -c fleet_configs/10b.yaml --hosts a.lab,b.lab,c.lab,d.lab --start\n"
        "  vilg launch -c fleet_configs/emoji.yaml cluster.devices_per_node=2 --start",
        _run_launch,
    )
    settings(parser, required=True)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--hosts",
        default="localhost",
        metavar="A,B",
        help="comma-separated nodes, each '[USER@]NAME[:SSH_PORT] [address=ADDRESS]'; the first one is the master; "
        "ADDRESS is its IPv4 address, or its name with a dot, in the job's network if NAME is only for ssh (localhost)",
    )
    where.add_argument("--hosts-file", type=Path, metavar="FILE", help="file with one such host on each line")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--start", action="store_true", help="start the job, follow its logs, and restart it after failures"
    )
    what.add_argument("--slurm", action="store_true", help="print a Slurm batch script for cluster.nodes nodes")
    what.add_argument("--kubernetes", metavar="IMAGE", help="print a Kubernetes manifest for cluster.nodes nodes")
    parser.add_argument(
        "--ssh",
        default="ssh -o BatchMode=yes",
        metavar="COMMAND",
        help="command to reach a host (ssh -o BatchMode=yes)",
    )


def _run_launch(options) -> int:
    from vilg.distributed.launch import commands, hosts, manifests
    from vilg.distributed.launch.supervisor import Supervisor

    resolved = config.resolve(config.Pretraining, options.config, options.overrides)
    job = commands.Job(str(options.config), options.overrides, resolved)
    if options.slurm or options.kubernetes:
        commands.validate(job, resolved.cluster.nodes or 1)
        print(manifests.slurm(job) if options.slurm else manifests.kubernetes(job, options.kubernetes), end="")
        return 0
    named = hosts.read_hosts_file(options.hosts_file) if options.hosts_file else hosts.parse_hosts(options.hosts)
    commands.validate(job, len(named))
    nodes = hosts.with_addresses(named)
    if options.start:
        return Supervisor(job, nodes, shlex.split(options.ssh)).run()
    for number, host in enumerate(nodes):
        print(f"# {host}\n{job.shell_command(len(nodes), str(number), nodes[0].address or '', host.address)}")
    return 0


def _fleetrun(commands) -> None:
    parser = command(
        commands,
        "fleetrun",
        "run Paddle's fleetrun, with another time for saving after SIGTERM than its 30 seconds",
        "vilg fleetrun --nproc_per_node 8 tools/pretrain.py -c fleet_configs/10b.yaml resume=auto\n"
        "  vilg fleetrun --grace_period 300 --nproc_per_node 8 tools/pretrain.py -c fleet_configs/10b.yaml resume=auto",
        _run_fleetrun,
    )
    parser.add_argument(
        "--grace_period",
        type=positive,
        default=config.Cluster().grace_period,
        metavar="SECONDS",
        help=f"time between SIGTERM and SIGKILL ({config.Cluster().grace_period}); all other arguments are fleetrun's",
    )
    parser.set_defaults(other_arguments=[])


def _run_fleetrun(options) -> None:
    from vilg.distributed.launch import fleetrun

    fleetrun.run(options.grace_period, options.other_arguments)
