"""`vilg <command>`: each command is a few lines that call the room it belongs to.

Paddle takes a second to import, so the rooms are imported by the command that needs them.
"""

import argparse
import json
import logging
import shlex
import sys
import warnings
from pathlib import Path

from vilg import __version__, config
from vilg.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Bad input is one line on stderr, never a traceback."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for chatter in ("No ccache found", "Current global rank"):  # Paddle's, at every start, of no use to anyone
        warnings.filterwarnings("ignore", message=chatter)
    try:
        return options.run(options) or 0
    except UserError as error:
        print(f"vilg: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that may not be written to, a name that is a folder
        print(f"vilg: {error.filename or ''}: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vilg: interrupted", file=sys.stderr)
        return 130


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """argparse takes the overrides in one row only; here they may stand anywhere between the options."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    if unknown := [word for word in rest if word not in overrides or not hasattr(options, "overrides")]:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    if overrides:
        options.overrides = [*options.overrides, *overrides]
    return options


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="vilg", description="Pre-train ERNIE-ViLG: pictures from Chinese text, "
                                                           "Chinese text from pictures.")
    top.add_argument("--version", action="version", version=f"vilg {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _data(commands)
    _vocab(commands)
    _training(commands, "train-image-tokenizer", "train a VQ-VAE: images <-> grids of codes", _train_image_tokenizer,
              "fleet_configs/emoji_vqvae.yaml")
    _training(commands, "pretrain", "train the transformer in both directions", _pretrain, "fleet_configs/emoji.yaml")
    _plan(commands)
    _launch(commands)
    _checkpoint(commands)
    _generate(commands)
    _caption(commands)
    _export(commands)
    _bench(commands)
    return top


def _command(commands, name: str, help: str, example: str, run) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".",
                                  epilog=f"example:\n  {example}",
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    command.set_defaults(run=run)
    return command


def _data(commands) -> None:
    data = commands.add_parser("data", help="build data sets", description="Build data sets.",
                               epilog="example:\n  vilg data openmoji --out data/openmoji",
                               formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = data.add_subparsers(metavar="KIND", required=True)
    openmoji = _command(kinds, "openmoji", "build the embedded data set: emoji and their Chinese names",
                        "vilg data openmoji --out data/openmoji", _openmoji)
    openmoji.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the shards go")


def _openmoji(options) -> None:
    from vilg.data import openmoji

    counts = openmoji.build(options.out)
    print(f"{options.out}: {counts['train']} samples to train on, {counts['heldout']} held out")


def _vocab(commands) -> None:
    command = _command(commands, "vocab", "train a WordPiece vocabulary on the captions of shards",
                       "vilg vocab --shards 'data/openmoji/train-*.tar' --size 4000 --out data/openmoji/vocab.txt",
                       _train_vocabulary)
    command.add_argument("--shards", nargs="+", required=True, metavar="TAR", help="paths and globs of shards")
    command.add_argument("--size", type=int, required=True, help="entries at most")
    command.add_argument("--min-count", type=int, default=2, metavar="N",
                         help="characters seen less often become [UNK], so that a model meets some in training (2)")
    command.add_argument("--max-faults", type=int, default=config.Data.max_faults, metavar="N",
                         help=f"broken samples to skip before giving up ({config.Data.max_faults})")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the vocab.txt to write")


def _train_vocabulary(options) -> None:
    from vilg.data.captions import EveryCaption
    from vilg.text.vocabulary import train_vocabulary

    captions = EveryCaption(options.shards, options.max_faults)
    size = train_vocabulary(captions, options.size, options.out, options.min_count)
    print(f"{options.out}: {size} entries")


def _training(commands, name: str, help: str, run, file: str) -> None:
    command = _command(commands, name, help,
                       f"vilg {name} -c {file} train.steps=100\n  fleetrun --nproc_per_node 2 "
                       f"tools/{name.replace('-', '_')}.py -c {file} resume=auto", run)
    command.add_argument("-c", "--config", type=Path, metavar="FILE", help="the settings of the run, in YAML")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")


def _train_image_tokenizer(options) -> None:
    settings = config.resolve(config.ImageTokenizerTraining, options.config, options.overrides)
    from vilg.training.jobs import train_image_tokenizer

    train_image_tokenizer(settings)


def _pretrain(options) -> None:
    settings = config.resolve(config.Pretraining, options.config, options.overrides)
    from vilg.training.jobs import pretrain

    pretrain(settings)


def _plan(commands) -> None:
    command = _command(commands, "plan", "memory, traffic and time of a pre-training job, before anything runs",
                       "vilg plan -c fleet_configs/10b.yaml cluster.nodes=4\n"
                       "  vilg plan -c fleet_configs/lite.yaml cluster.device_memory=40 --json", _run_plan)
    command.add_argument("-c", "--config", type=Path, metavar="FILE", help="the settings of the run")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    command.add_argument("--utilisation", type=float, default=0.4, metavar="SHARE",
                         help="of cluster.device_tflops that the devices reach (0.4)")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def _run_plan(options) -> int:
    settings = config.resolve(config.Pretraining, options.config, options.overrides)
    from vilg.plan import advice, estimate, reading, report

    sizes = reading.of_files(settings)
    plan = estimate.estimate(settings, sizes, options.utilisation)
    better = None if plan.fits else advice.cheapest(settings, sizes, options.utilisation)
    if options.json:
        print(json.dumps(plan.as_tree() | {"instead": better and {"overrides": better[0], **better[1].as_tree()}}))
    else:
        print(report.report(plan))
        if not plan.fits:
            print("\n" + report.instead(better))
    return 0 if plan.fits else 1


def _launch(commands) -> None:
    command = _command(commands, "launch", "print or start the fleetrun line of every node of a pre-training job",
                       "vilg launch -c fleet_configs/10b.yaml --hosts a,b,c,d\n"
                       "  vilg launch -c fleet_configs/10b.yaml --hosts a,b,c,d --start\n"
                       "  vilg launch -c fleet_configs/emoji.yaml cluster.devices_per_node=2 --start", _run_launch)
    command.add_argument("-c", "--config", type=Path, metavar="FILE", required=True, help="the settings of the run")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    where = command.add_mutually_exclusive_group()
    where.add_argument("--hosts", metavar="A,B", help="the nodes, the first one the master (localhost)")
    where.add_argument("--hosts-file", type=Path, metavar="FILE", help="a file that names a host a line")
    what = command.add_mutually_exclusive_group()
    what.add_argument("--start", action="store_true",
                      help="start it, follow its logs, and start it again when a rank dies")
    what.add_argument("--slurm", action="store_true", help="print a batch script for Slurm; cluster.nodes nodes")
    what.add_argument("--kubernetes", metavar="IMAGE", help="print a manifest for Kubernetes; cluster.nodes nodes")
    command.add_argument("--ssh", default="ssh -o BatchMode=yes", metavar="COMMAND",
                         help="how to reach a host (ssh -o BatchMode=yes)")


def _run_launch(options) -> int:
    from vilg.distributed.launch import lines, manifests
    from vilg.distributed.launch.supervisor import Supervisor

    settings = config.resolve(config.Pretraining, options.config, options.overrides)
    job = lines.Job(str(options.config), options.overrides, settings)
    if options.slurm or options.kubernetes:
        hosts = [f"node-{number}" for number in range(settings.cluster.nodes or 1)]
        lines.check(job, hosts)
        print(manifests.slurm(job) if options.slurm else manifests.kubernetes(job, options.kubernetes), end="")
        return 0
    hosts = lines.read_hosts(options.hosts_file) if options.hosts_file else (options.hosts or "localhost").split(",")
    lines.check(job, hosts)
    if options.start:
        return Supervisor(job, hosts, shlex.split(options.ssh)).run()
    for number, host in enumerate(hosts):
        print(f"# {host}\n{job.line(len(hosts), str(number), hosts[0], host)}")
    return 0


def _checkpoint(commands) -> None:
    checkpoint = commands.add_parser("checkpoint", help="list, verify or consolidate checkpoints",
                                     description="List, verify or consolidate checkpoints.",
                                     epilog="example:\n  vilg checkpoint list runs/emoji",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = checkpoint.add_subparsers(metavar="KIND", required=True)
    run = "a run's folder, or one step-* folder in it"
    listed = _command(kinds, "list", "step, time, size, world, and whether all of each checkpoint is there",
                      "vilg checkpoint list runs/emoji", _list_checkpoints)
    listed.add_argument("run_folder", metavar="RUN", help=run)
    verified = _command(kinds, "verify", "hash every file of every checkpoint; exit code 1 if any is damaged",
                        "vilg checkpoint verify runs/emoji", _verify_checkpoints)
    verified.add_argument("run_folder", metavar="RUN", help=run)
    whole = _command(kinds, "consolidate", "write the weights of a checkpoint as one safetensors file",
                     "vilg checkpoint consolidate runs/emoji --out emoji.safetensors", _consolidate_checkpoint)
    whole.add_argument("run_folder", metavar="RUN", help=f"{run}; of a run the newest valid checkpoint")
    whole.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")


def _list_checkpoints(options) -> None:
    from vilg.checkpoint import desk

    for line in desk.table(options.run_folder):
        print(line)


def _verify_checkpoints(options) -> int:
    from vilg.checkpoint import desk

    well = True
    for line, good in desk.verified(options.run_folder):
        print(line, flush=True)
        well = well and good
    return 0 if well else 1


def _consolidate_checkpoint(options) -> None:
    from vilg.checkpoint import desk

    chosen, tensors = desk.consolidate(options.run_folder, options.out)
    print(f"{options.out}: {tensors} tensors of {chosen}")


def _generate(commands) -> None:
    command = _command(commands, "generate", "draw pictures of a text",
                       "vilg generate --checkpoint runs/emoji --text 红苹果 -n 4 --out x.png", _run_generate)
    _sampling(command)
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", nargs="+", metavar="TEXT", help="what to draw; several texts become rows of one sheet")
    what.add_argument("--texts", type=Path, metavar="FILE", help="a file with a text on each line")
    command.add_argument("-n", type=int, default=1, metavar="N", help="how many pictures of each text (1)")
    command.add_argument("--guidance", type=float, default=1.0, metavar="SCALE",
                         help="above 1 nearer to the text, if the model was trained with train.drop_caption (1.0)")
    command.add_argument("--best-of", type=int, default=0, metavar="N",
                         help="draw N and keep those from which the model reads the text most easily")
    command.add_argument("--judge", metavar="MODULE:FUNCTION",
                         help="for --best-of: a function of Python, (texts, pictures [B, 3, H, W] in [0, 1]) -> scores")
    command.add_argument("--image", type=Path, metavar="FILE", help="complete this picture ..")
    command.add_argument("--keep-rows", type=int, default=0, metavar="N", help=".. whose upper N rows of codes stay")
    command.add_argument("--out", type=Path, required=True, metavar="FILE|DIR",
                         help="the picture to write, or without a suffix a folder for one file a picture")


def _caption(commands) -> None:
    command = _command(commands, "caption", "describe pictures",
                       "vilg caption --checkpoint runs/emoji --image x.png --greedy", _run_caption)
    _sampling(command)
    command.add_argument("--image", type=Path, nargs="+", required=True, metavar="FILE", help="the pictures")
    command.add_argument("--beams", type=int, default=0, metavar="N",
                         help="search with N beams instead of choosing word by word (0)")
    command.add_argument("--length-penalty", type=float, default=1.0, metavar="P",
                         help="of beam search: 0 prefers short captions, 1 compares means (1.0)")
    command.add_argument("--prefix", default="", metavar="TEXT", help="what every caption begins with")


def _sampling(command: argparse.ArgumentParser) -> None:
    model = command.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", type=Path, metavar="DIR",
                       help="a step-* directory, or a run's directory for its newest")
    model.add_argument("--export", type=Path, metavar="DIR", help="what `vilg export` wrote")
    command.add_argument("--temperature", type=float, default=1.0, help="below 1 is safer, above 1 wilder (1.0)")
    command.add_argument("--top-k", type=int, default=0, metavar="K", help="choose among the K likeliest (0: all)")
    command.add_argument("--top-p", type=float, default=1.0, metavar="P",
                         help="choose among the likeliest that together reach P (1.0: all)")
    command.add_argument("--greedy", action="store_true", help="always the likeliest")
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same result (0)")


def _sampler(options):
    from vilg.generation.sampling import Sampler

    return Sampler(options.seed, options.temperature, options.top_k, options.greedy, options.top_p)


def _pipeline(options):
    if options.export:
        from vilg.export import Predictor

        return Predictor(options.export)
    from vilg.generation.trained import load_trained

    return load_trained(options.checkpoint)


def _run_generate(options) -> None:
    from vilg.generation.looking import Wish, generate, read_texts

    wish = Wish(read_texts(options.texts) if options.texts else options.text, options.n, options.best_of,
                options.guidance, options.image, options.keep_rows, options.judge, _sampler(options))
    drawn = generate(_pipeline(options), wish, options.out)
    kind = f"{options.judge} says" if options.judge else "log p(text | image)"
    for text, scores in zip(wish.texts, drawn.scores):
        print(f"{options.out}: {text}: {kind} {', '.join(f'{score:.2f}' for score in scores)}")


def _run_caption(options) -> None:
    from vilg.generation.looking import describe

    texts = describe(_pipeline(options), options.image, _sampler(options), options.beams,
                     options.length_penalty, options.prefix)
    for file, text in zip(options.image, texts):
        print(f"{file}\t{text}")


def _export(commands) -> None:
    command = _command(commands, "export", "write inference models of a checkpoint, and compare them with it",
                       "vilg export --checkpoint runs/emoji --out emoji-export\n"
                       "  vilg generate --export emoji-export --text 红苹果 --out x.png", _run_export)
    command.add_argument("--checkpoint", type=Path, required=True, metavar="DIR",
                         help="a step-* directory, or a run's directory for its newest; of any world size")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder that is not there yet")
    command.add_argument("--portable", action="store_true",
                         help="without the compiled operator: for machines that have Paddle and no compiler")


def _run_export(options) -> None:
    from vilg.export.exporter import export

    made = export(options.checkpoint, options.out, options.portable)
    size = sum(file.size for file in made.files.values())
    print(f"{options.out}: {len(made.files)} files, {size / 1e6:.1f} MB, "
          f"{'with' if made.operator else 'without'} the operator; differs from the checkpoint by "
          f"{made.self_test['logits']:.1e} of the largest logit and {made.self_test['pixels']:.1e} a pixel")


def _bench(commands) -> None:
    bench = commands.add_parser("bench", help="measure ratios on this machine", description="Measure ratios: ours "
                                "against something real, in one process.", epilog="example:\n  vilg bench attention",
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = bench.add_subparsers(metavar="KIND", required=True)
    attention = _command(kinds, "attention", "the sparse operator beside block-wise and dense attention",
                         "vilg bench attention --heads 16 --grid 32 --json", _bench_attention)
    for name, number, what in (("batch", 1, "sequences"), ("heads", 16, "attention heads"),
                               ("head-size", 64, "numbers of a head"), ("text", 64, "text positions"),
                               ("grid", 32, "image tokens a side"), ("kernel", 11, "side of the conv window"),
                               ("repeats", 10, "calls, of which the fastest counts")):
        attention.add_argument(f"--{name}", type=_positive, default=number, metavar="N", help=f"{what} ({number})")
    attention.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    train = _command(kinds, "train", "whole training steps by every attention backend",
                     "vilg bench train model.layers=2 model.hidden=4096 model.heads=64", _bench_train)
    train.add_argument("-c", "--config", type=Path, metavar="FILE", help="settings of a run (8 layers of 512)")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those")
    train.add_argument("--steps", type=_positive, default=3, metavar="N", help="steps, of which the fastest counts (3)")
    train.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


    checkpoint = _command(kinds, "checkpoint", "saving and loading beside plain writing, and how long training waits",
                          "vilg bench checkpoint --megabytes 500 --json", _bench_checkpoint)
    checkpoint.add_argument("--folder", type=Path, default=Path("."), metavar="DIR", help="where to write (here)")
    checkpoint.add_argument("--megabytes", type=_positive, default=500, metavar="N", help="how much to write (500)")
    checkpoint.add_argument("--json", action="store_true", help="print one JSON object instead of lines")


    generate = _command(kinds, "generate", "seconds a drawing: whole passes, a dense cache, the windowed caches",
                        "vilg bench generate --json", _bench_generate)
    generate.add_argument("-c", "--config", type=Path, metavar="FILE", help="settings of a run (8 layers of 512)")
    generate.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those")
    generate.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number}: must be positive")
    return number


def _bench_attention(options) -> None:
    from vilg.bench import attention

    shape = attention.Shape(options.batch, options.heads, options.head_size, options.text,
                            (options.grid, options.grid), options.kernel)
    result = attention.bench(shape, options.repeats)
    print(json.dumps(result) if options.json else attention.table(result))


def _bench_generate(options) -> None:
    from vilg.bench import generate

    result = generate.bench(_bench_settings(options))
    print(json.dumps(result) if options.json else generate.table(result))


def _bench_settings(options) -> config.Pretraining:
    from vilg.bench.train import DEFAULTS

    return config.resolve(config.Pretraining, options.config,
                          [*([] if options.config else DEFAULTS), *options.overrides])


def _bench_train(options) -> None:
    from vilg.bench import train

    result = train.bench(_bench_settings(options), options.steps)
    print(json.dumps(result) if options.json else train.table(result))


def _bench_checkpoint(options) -> None:
    from vilg.bench import checkpoint

    result = checkpoint.bench(options.folder, options.megabytes)
    print(json.dumps(result) if options.json else checkpoint.table(result))


if __name__ == "__main__":
    sys.exit(main())
