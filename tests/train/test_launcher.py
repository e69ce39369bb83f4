"""What launchers leave in the environment, whole, half and wrong."""

import pytest

from mae_fast.cli import main
from mae_fast.train.launcher import Place, find, first_host
from tests.train.runs import flags

MASTER = {"MASTER_ADDR": "a", "MASTER_PORT": "29500"}
TORCHRUN = MASTER | {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x"}
SRUN = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "8", "SLURM_STEP_NODELIST": "gpu[003-004],b1"}  # fmt: skip
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "gpu[003-004]"}
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    "env, options, place",
    [
        ({}, {}, Place()),
        ({"WORLD_SIZE": "1"}, {}, Place()),
        ({"RANK": "0", "WORLD_SIZE": "1"}, {}, Place("RANK and WORLD_SIZE")),
        (TORCHRUN, {}, Place("torchrun", 3, 4, 1, "env://")),
        (TORCHRUN | SRUN | MPI, {"world_size": 2}, Place("torchrun", 3, 4, 1, "env://")),
        ({"RANK": "1", "WORLD_SIZE": "2"}, {"dist_url": "file:///x"}, Place("RANK and WORLD_SIZE", 1, 2, 0, "file:///x")),
        (SRUN, {}, Place("Slurm", 5, 8, 1, "tcp://gpu003:20049")),
        (SRUN, {"world_size": 8}, Place("Slurm", 5, 8, 1, "tcp://gpu003:20049")),
        (SRUN | MASTER, {}, Place("Slurm", 5, 8, 1, "tcp://a:29500")),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, {}, Place()),
        (BATCH_SCRIPT, {}, Place()),
        (BATCH_SCRIPT | MASTER, {"world_size": 8}, Place("Slurm", 0, 8, 0, "tcp://a:29500")),
        (MPI | MASTER, {"dist_on_itp": True}, Place("Open MPI", 1, 2, 1, "tcp://a:29500")),
    ],
)  # fmt: skip
def test_the_place_that_a_launcher_gives(env, options, place):
    assert find(env, **options) == place


@pytest.mark.parametrize(
    "env, options, said",
    [
        ({"WORLD_SIZE": "2"}, {}, "RANK: not set, but WORLD_SIZE is 2; start with torchrun"),
        ({"RANK": "0"}, {}, "WORLD_SIZE: not set, but RANK is 0; start with torchrun"),
        ({"WORLD_SIZE": "two"}, {}, "WORLD_SIZE: expected a whole number, got 'two'"),
        (TORCHRUN | {"RANK": "4"}, {}, "RANK: torchrun says process 4 of 4; expected 0 to 3"),
        (TORCHRUN | {"MASTER_ADDR": ""}, {}, "MASTER_ADDR: not set, so the processes cannot meet"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, {}, "MASTER_PORT: not set"),
        (SRUN | {"MASTER_ADDR": "a"}, {}, "MASTER_PORT: not set"),
        (SRUN, {"world_size": 4}, "world_size: 4, but srun started 8"),
        ({k: v for k, v in SRUN.items() if "NODELIST" not in k}, {}, "MASTER_ADDR: not set, and neither is SLURM_JOB"),
        ({}, {"world_size": 2}, "world_size: 2, but no launcher started this process; start with torchrun"),
        (MPI, {}, "dist_on_itp: Open MPI started 2 processes, which would train apart"),
        ({}, {"dist_on_itp": True}, "OMPI_COMM_WORLD_RANK: not set; start with mpirun"),
        (MPI, {"dist_on_itp": True}, "MASTER_ADDR: not set"),
    ],
)
def test_half_a_place_is_an_error_with_a_remedy(env, options, said):
    with pytest.raises(ValueError) as error:
        find(env, **options)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    "names, first",
    [("a", "a"), ("a,b", "a"), ("n[003-005,9],m", "n003"), ("n[7,9-10]", "n7"), ("r[1-2]n[04-08].x,b", "r1n04.x")],
)
def test_the_first_host_of_a_list(names, first):
    assert first_host({"SLURM_JOB_NODELIST": names}) == first


def test_the_command_says_it_in_a_sentence(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["pretrain", *flags(photos, tmp_path / "o")]) == 1
    assert capsys.readouterr().err.startswith("mae-fast pretrain: RANK: not set, but WORLD_SIZE is 2; ")
    assert not (tmp_path / "o").exists()
