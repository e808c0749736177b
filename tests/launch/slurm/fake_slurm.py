"""A fake sbatch, srun, squeue, scontrol, sacct and scancel: jobs are processes of this machine.

$FAKE_SLURM/<job>.json   {"name", "pid", "options", "environment"}; the last: slurm's variables at sbatch
            <job>.ended  how it ended, in slurm's words
            broken       while it is there, sbatch refuses
            down         while it is there, nothing answers
            forgotten    while it is there, jobs that ended are unknown
            requeued     how often jobs were queued again
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM"])


def options_of(script: str) -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.M)
    return {key: value.strip("'\"") for key, value in found}


def sbatch(words):
    if (STATE / "broken").exists():
        print("sbatch: error: invalid partition specified: nowhere", file=sys.stderr)
        return 1
    script = Path(words[-1])
    options = options_of(script.read_text())
    job = 100 + len(list(STATE.glob("*.json")))
    nodes = int(options.get("nodes", 1))
    environment = {
        **os.environ,
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NTASKS": str(nodes * int(options["ntasks-per-node"])),
        "SLURM_JOB_NODELIST": os.environ.get("FAKE_NODES", "127.0.0.1"),
    }
    end = "[ $? = 0 ] && how=COMPLETED || how=FAILED"
    watched = f"bash {script.with_name(f'{job}.copy')}; {end}; echo $how > {STATE}/{job}.ended"
    script.with_name(f"{job}.copy").write_text(script.read_text())
    with open(os.devnull, "r+") as nothing:
        process = subprocess.Popen(
            ["bash", "-c", watched],
            env=environment,
            start_new_session=True,
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
        )
    (STATE / f"{job}.json").write_text(
        json.dumps(
            {
                "name": options["job-name"],
                "pid": process.pid,
                "options": options,
                "environment": {key: value for key, value in os.environ.items() if key.startswith("SLURM")},
            }
        )
    )
    print(f"Submitted batch job {job}")
    return 0


def srun(words):
    paths = {}
    while words[0].startswith("--"):
        key = words.pop(0)
        if key in ("--output", "--error"):
            paths[key] = words.pop(0)
    job, tasks, nodes = (int(os.environ[name]) for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_JOB_NUM_NODES"))
    running = []
    for rank in range(tasks):
        named = {key: path.replace("%j", str(job)).replace("%t", str(rank)) for key, path in paths.items()}
        environment = {
            **os.environ,
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank % (tasks // nodes)),
            "SLURM_NODEID": str(rank // (tasks // nodes)),
        }
        with open(named["--output"], "a") as out, open(named["--error"], "a") as error:
            running.append(subprocess.Popen(words, env=environment, stdout=out, stderr=error))
    codes = []
    for process in running:  # --kill-on-bad-exit, as far as the order of the ranks allows
        codes.append(process.wait())
        if codes[-1]:
            for other in running:
                other.terminate()
    return max(map(abs, codes))


def alive(job: str) -> bool:
    return (STATE / f"{job}.json").exists() and not (STATE / f"{job}.ended").exists()


def scontrol(words):
    what, name = words[-2:]
    if what == "node":
        print(f"NodeName={name} Arch=x86_64 NodeAddr=127.0.0.1 NodeHostName=here Port=6818")
        return 0
    if not (STATE / f"{name}.json").exists() or (not alive(name) and (STATE / "forgotten").exists()):
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    requeued = STATE / "requeued"
    told = {
        "JobId": name,
        "JobName": json.loads((STATE / f"{name}.json").read_text())["name"],
        "JobState": "RUNNING" if alive(name) else (STATE / f"{name}.ended").read_text().strip(),
        "Reason": "None",
        "Restarts": requeued.read_text() if requeued.exists() else "0",
    }
    print(*(f"{key}={value}" for key, value in told.items()))
    return 0


def squeue(words):
    name = words[words.index("--name") + 1]
    for path in STATE.glob("*.json"):
        if alive(path.stem) and json.loads(path.read_text())["name"] == name:
            print(path.stem)
    return 0


def sacct(words):
    print("Slurm accounting storage is disabled", file=sys.stderr)
    return 1


def scancel(words):
    job = words[-1]
    pid = json.loads((STATE / f"{job}.json").read_text())["pid"]
    (STATE / f"{job}.ended").write_text("CANCELLED")
    os.killpg(pid, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    name = Path(sys.argv[0]).name
    if (STATE / "down").exists():
        sys.exit(f"{name}: error: Unable to contact slurm controller (connect failure)")
    programs = (sbatch, srun, squeue, scontrol, sacct, scancel)
    sys.exit({one.__name__: one for one in programs}[name](sys.argv[1:]))
