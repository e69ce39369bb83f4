"""What the commands that train have in common: flags and --config keys made from a recipe, and how a run ends."""

import argparse
import difflib
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mae_fast.cli.yaml_file import read_yaml
from mae_fast.data import LoaderStalled
from mae_fast.files.lock import FolderInUse
from mae_fast.setting import Recipe, Setting
from mae_fast.train import Diverged
from mae_fast.train.heartbeat import RankLost
from mae_fast.train.interrupt import Interrupted, LoaderFailed


def add_recipe(parser: argparse.ArgumentParser, kind: type[Recipe], script: str) -> None:
    """Flags for every setting of a recipe. script: the official one, some of whose flags they are."""
    groups = {
        True: parser.add_argument_group(f"as in the official {script}"),
        False: parser.add_argument_group("ours"),
    }
    groups[False].add_argument("--config", metavar="FILE.yaml", help="defaults for any of these flags, by name")
    for name, setting in kind.settings().items():
        spellings = [f"--{name}"] if name != "on_bad_image" else ["--on-bad-image", "--on_bad_image"]
        about = {"default": argparse.SUPPRESS, "help": setting.describe()}
        if setting.kind is bool:
            about["action"] = "store_true"
        else:
            about["type"] = number_or_auto if setting.words else setting.kind
            about["choices"] = setting.choices or None
            about["nargs"] = "+" if setting.several else None
            about["metavar"] = "MODEL" if name == "model" else None
        groups[setting.official].add_argument(*spellings, **about)
        if setting.kind is bool and setting.default is not False:  # on, or left open: to be switched off
            off = about | {"action": "store_false", "dest": name, "help": f"the opposite of --{name}"}
            groups[setting.official].add_argument(f"--no_{name}", **off)


def number_or_auto(text: str) -> int | str:
    return text if text == "auto" else int(text)


def recipe_of(args: argparse.Namespace, kind: type[Recipe]) -> Recipe:
    """The defaults, under the settings of --config, under the flags that were given."""
    settings = kind.settings()
    given = {name: value for name, value in vars(args).items() if name in settings}
    given |= {name: settings[name].read(value) for name, value in given.items() if isinstance(value, list)}
    return kind.of(**(read_config(args.config, settings, kind.__name__.lower()) if args.config else {}) | given)


def run_recipe(args: argparse.Namespace, train: Callable[[Recipe], object], recipe: Recipe) -> int:
    """Train; -> the exit code, of a run that had to stop with the command that goes on with it."""
    try:
        train(recipe)
    except Interrupted as stop:
        if stop.is_main:
            command = stop.checkpoint and resume_command(args.words, stop.checkpoint)
            print(f"{stop.reason}. To go on: {command}" if command else stop, file=sys.stderr)
        return stop.exit_code
    except LoaderFailed as stop:
        command = stop.checkpoint and resume_command(args.words, stop.checkpoint)
        text = f"{stop.reason}. To go on: {command}" if command else stop
        print(f"mae-fast {args.command}: {text}", file=sys.stderr)
        if isinstance(stop.error, LoaderStalled):  # Python would wait at its end for the threads that hang
            _leave(stop.exit_code)
        return stop.exit_code
    except FolderInUse as error:
        print(f"mae-fast {args.command}: --{error}", file=sys.stderr)
        return 2
    except (Diverged, RankLost) as error:
        print(f"mae-fast {args.command}: {error}", file=sys.stderr)
        if isinstance(error, RankLost):  # what waits for that rank in a library would hold up the end of Python
            _leave(1)
        return 1
    return 0


def _leave(exit_code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def read_config(path: str, settings: dict[str, Setting], command: str) -> dict:
    """The settings in a YAML file, by the names of the flags, in their types and ranges.

    Raises ValueError naming the file and the key that is no flag or whose value does not fit it.
    """
    if Path(path).is_dir():
        raise ValueError(f"--config: {path} is a folder; expected a YAML file of flags and values")
    try:
        values = read_yaml(Path(path)) or {}
    except ValueError as error:
        raise ValueError(f"--config: {path}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"--config: {path}: expected flags and values, one `name: value` a line")
    for name, value in values.items():
        if name not in settings:
            close = difflib.get_close_matches(str(name), settings, n=1)
            raise ValueError(
                f"--config: {path}: {name} is not a flag of {command}" + (f"; {close[0]}?" if close else "")
            )
        try:
            values[name] = settings[name].read(value)
        except ValueError as error:
            raise ValueError(f"--config: {path}: {name}: {value!r} does not fit (expected {error})") from None
        try:
            settings[name].check(values[name])
        except ValueError as error:
            raise ValueError(f"--config: {path}: {name}: {error}") from None
    return values


def resume_command(words: list[str], checkpoint: Path) -> str:
    """The command line of a run started by `mae-fast WORDS`, by the launcher that started it, going on from checkpoint.

    Of several machines it is this one's command: each machine gets its own.
    """
    words = [word for word in words if word != "--auto_resume"]
    for index in [i for i, word in enumerate(words) if word == "--resume"][::-1]:
        del words[index : index + 2]
    words = [word for word in words if not word.startswith("--resume=")]
    return shlex.join([*_launcher(os.environ, words), *words, "--resume", str(checkpoint)])


def _launcher(env, words: list[str]) -> list[str]:
    """What stands before `pretrain`, as mae_fast.train.distributed finds out who started it."""
    if "TORCHELASTIC_RUN_ID" in env:  # torchrun
        machines = int(env.get("GROUP_WORLD_SIZE", 1))
        where = [f"--nnodes={machines}", f"--node_rank={env['GROUP_RANK']}", f"--master_addr={env['MASTER_ADDR']}",
                 f"--master_port={env['MASTER_PORT']}"] if machines > 1 else []  # fmt: skip
        return ["torchrun", f"--nproc_per_node={env['LOCAL_WORLD_SIZE']}", *where, "-m", "mae_fast"]
    if "OMPI_COMM_WORLD_SIZE" in env:
        return ["mpirun", "-n", env["OMPI_COMM_WORLD_SIZE"], "mae-fast"]
    by_flag = "SLURM_PROCID" in env and any(word.startswith("--world_size") for word in words)
    tasks = env.get("SLURM_STEP_NUM_TASKS") or (by_flag and env.get("SLURM_NTASKS")) or "1"
    if tasks != "1":
        return ["srun", f"--ntasks={tasks}", "mae-fast"]
    return ["mae-fast"]
