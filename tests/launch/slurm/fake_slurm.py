"""sbatch, srun, squeue, sacct and scancel in little: jobs are processes of this machine.

$FAKE_SLURM/<job>.json   {"name", "pid", "options"}
            <job>.ended  how it ended
            broken       while it is there, sbatch refuses
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
    watched = f"bash {script.with_name(f'{job}.copy')}; echo $? > {STATE}/{job}.ended"
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
        json.dumps({"name": options["job-name"], "pid": process.pid, "options": options})
    )
    print(f"Submitted batch job {job}")
    return 0


def srun(words):
    paths = {}
    while words[0].startswith("--"):
        key = words.pop(0)
        if key in ("--output", "--error"):
            paths[key] = words.pop(0)
    job, tasks, nodes = (
        int(os.environ[name]) for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_JOB_NUM_NODES")
    )
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


def squeue(words):
    if "--jobs" in words:
        job = words[words.index("--jobs") + 1]
        if not (STATE / f"{job}.json").exists():
            print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
            return 1
        if alive(job):
            print("RUNNING")
        return 0
    name = words[words.index("--name") + 1]
    for path in STATE.glob("*.json"):
        if alive(path.stem) and json.loads(path.read_text())["name"] == name:
            print(path.stem)
    return 0


def sacct(words):
    print("JobID|State|NodeList")
    for path in STATE.glob("*.json"):
        print(f"{path.stem}|{'RUNNING' if alive(path.stem) else 'COMPLETED'}|here")
    return 0


def scancel(words):
    job = words[-1]
    pid = json.loads((STATE / f"{job}.json").read_text())["pid"]
    (STATE / f"{job}.ended").write_text("cancelled")
    os.killpg(pid, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    name = Path(sys.argv[0]).name
    sys.exit({one.__name__: one for one in (sbatch, srun, squeue, sacct, scancel)}[name](sys.argv[1:]))
