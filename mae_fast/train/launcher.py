"""Who started this process, as one of how many: read from the variables of torchrun, Open MPI and Slurm."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

START = "start with torchrun --nproc_per_node=N -m mae_fast"


@dataclass(frozen=True)
class Place:
    """rank of size processes, local_rank on this machine; url: where they meet, "" for a process that is alone."""

    launcher: str = ""
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    url: str = ""


def find(env: Mapping[str, str], dist_url: str = "env://", dist_on_itp: bool = False, world_size: int = 1) -> Place:
    """The place that the launcher gave this process; alone where none started it, also in a shell of Slurm's.

    world_size: what the user says Slurm started. ValueError names a variable that is missing or cannot be, and the
    remedy: half a place would train one process in silence, or wait for the others for ever.
    """
    if dist_on_itp:
        rank, size = _number(env, "OMPI_COMM_WORLD_RANK", MPI), _number(env, "OMPI_COMM_WORLD_SIZE", MPI)
        local = _number(env, "OMPI_COMM_WORLD_LOCAL_RANK", MPI)
        place = Place("Open MPI", rank, size, local, f"tcp://{_address(env, MPI)}")
    elif "RANK" in env or _number(env, "WORLD_SIZE", "", 1) > 1:
        rank, size = _number(env, "RANK", TORCHRUN), _number(env, "WORLD_SIZE", TORCHRUN)
        name = "torchrun" if "TORCHELASTIC_RUN_ID" in env else "RANK and WORLD_SIZE"
        if dist_url == "env://" and (size > 1 or "MASTER_ADDR" in env):
            _address(env, TORCHRUN)
        elif dist_url == "env://":
            dist_url = ""
        place = Place(name, rank, size, _number(env, "LOCAL_RANK", "", 0), dist_url)
    elif _number(env, "OMPI_COMM_WORLD_SIZE", "", 1) > 1:
        count = env["OMPI_COMM_WORLD_SIZE"]
        raise ValueError(f"dist_on_itp: Open MPI started {count} processes, which would train apart; set dist_on_itp")
    else:
        place = _of_slurm(env, dist_url, world_size)
    if not 0 <= place.rank < place.size:
        raise ValueError(
            f"RANK: {place.launcher} says process {place.rank} of {place.size}; expected 0 to {place.size - 1}, "
            "another in each process"
        )
    return place


TORCHRUN = f"{START}, which sets all, or unset the others"
MPI = "start with mpirun, or leave out dist_on_itp"
SRUN = "start with srun"


def _of_slurm(env: Mapping[str, str], dist_url: str, world_size: int) -> Place:
    """srun, and not a batch script or a shell of an allocation, gives a process SLURM_STEP_NUM_TASKS."""
    tasks = _number(env, "SLURM_STEP_NUM_TASKS", SRUN, 0) or (world_size if "SLURM_PROCID" in env else 1)
    if world_size > 1 and tasks != world_size:
        started = f"srun started {tasks}" if "SLURM_STEP_NUM_TASKS" in env else "no launcher started this process"
        raise ValueError(f"world_size: {world_size}, but {started}; {START}, or with srun --ntasks={world_size}")
    if tasks == 1:
        return Place()
    if dist_url == "env://" and "MASTER_ADDR" not in env and "MASTER_PORT" not in env:
        dist_url = f"tcp://{first_host(env)}:{port(env)}"
    elif dist_url == "env://":
        dist_url = f"tcp://{_address(env, SRUN)}"
    return Place("Slurm", _number(env, "SLURM_PROCID", SRUN), tasks, _number(env, "SLURM_LOCALID", "", 0), dist_url)


def first_host(env: Mapping[str, str]) -> str:
    """The first name in a list such as node[003-005,9],login1, as Slurm writes it."""
    names = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST")
    if not names:
        raise ValueError("MASTER_ADDR: not set, and neither is SLURM_JOB_NODELIST; set MASTER_ADDR and MASTER_PORT")
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", names)[0]
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first)


def port(env: Mapping[str, str]) -> int:
    """The same for all processes of a job's step, and another for another's."""
    job, step = (int(env.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return 20000 + (job * 7 + step) % 12000


def _address(env: Mapping[str, str], remedy: str) -> str:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not env.get(name):
            raise ValueError(f"{name}: not set, so the processes cannot meet; set it, or {remedy}")
    return f"{env['MASTER_ADDR']}:{_number(env, 'MASTER_PORT', remedy)}"


def _number(env: Mapping[str, str], name: str, remedy: str, default: int | None = None) -> int:
    """A variable's whole number. default: where it may be left out."""
    if not env.get(name):
        if default is None:
            others = [other for other in ("RANK", "WORLD_SIZE") if other != name and other in env]
            beside = f", but {others[0]} is {env[others[0]]}" if others else ""
            raise ValueError(f"{name}: not set{beside}; {remedy}")
        return default
    try:
        return int(env[name])
    except ValueError:
        raise ValueError(f"{name}: expected a whole number, got {env[name]!r}") from None
