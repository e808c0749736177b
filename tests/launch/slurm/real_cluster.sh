#!/bin/bash
# A slurm of two nodes on this machine, as root, with all of its state in one folder. Needs munge and slurm-wlm.
#
#   real_cluster.sh start FOLDER     then: export SLURM_CONF=FOLDER/slurm.conf
#   real_cluster.sh controller FOLDER start|stop
#   real_cluster.sh stop FOLDER
set -eu
what=$1 folder=$(realpath -m "$2")

end() {  # a daemon, by the file that holds its process
    [ -s "$1" ] || return 0
    local process=$(cat "$1") turn
    kill "$process" 2>/dev/null || true
    for turn in $(seq 100); do
        kill -0 "$process" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$process" 2>/dev/null || true
    rm -f "$1"
}

free_ports() { python3 - "$1" <<'PYTHON'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(one.getsockname()[1] for one in held))
PYTHON
}

start() {
    mkdir -p "$folder"/{state,node1,node2}
    chmod 755 "$folder"
    dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 status=none
    chmod 400 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
        --seed-file="$folder/munge.seed" --pid-file="$folder/munged.pid" --log-file="$folder/munged.log"
    read -r controller first second < <(free_ports 3)
    cat > "$folder/slurm.conf" <<CONF
ClusterName=trial
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
SlurmctldPort=$controller
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdPidFile=$folder/%n/slurmd.pid
SlurmdLogFile=$folder/%n/slurmd.log
SlurmdSpoolDir=$folder/%n
StateSaveLocation=$folder/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=5
OverTimeLimit=0
SlurmdParameters=config_overrides
NodeName=node1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$first CPUs=4
NodeName=node2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$second CPUs=4
PartitionName=small Nodes=node[1-2] Default=YES MaxTime=60 State=UP
CONF
    export SLURM_CONF=$folder/slurm.conf
    slurmctld
    slurmd -N node1
    slurmd -N node2
    for turn in $(seq 100); do
        [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" = 2 ] && return
        sleep 0.1
    done
    sinfo; tail "$folder"/*.log "$folder"/node*/slurmd.log
    exit 1
}

stop() {
    export SLURM_CONF=$folder/slurm.conf
    timeout 20 scancel --user="$(id -un)" 2>/dev/null || true
    for turn in $(seq 50); do
        [ -z "$(timeout 5 squeue --noheader 2>/dev/null)" ] && break
        sleep 0.1
    done
    for daemon in node1/slurmd node2/slurmd slurmctld munged; do
        end "$folder/$daemon.pid"
    done
}

export SLURM_CONF=$folder/slurm.conf
case "$what $#" in
    "start 2") start ;;
    "stop 2") stop ;;
    "controller 3") if [ "$3" = start ]; then slurmctld; else end "$folder/slurmctld.pid"; fi ;;
    *) echo "usage: see the head of $0" >&2; exit 2 ;;
esac
