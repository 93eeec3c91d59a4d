#!/usr/bin/env bash
# profiles/slurm on a real SLURM of one node: does every job go through it, and does the same come out as without?
#
# Starts munged, slurmctld and slurmd as whoever calls, with all they write in a temporary folder and ports of their own, so that it neither
# needs nor disturbs an installed SLURM; makes one table of a small project through them and once more without; stops them in any case.
# The node claims one GPU, which is /dev/null, and more memory than there is: jobs ask for both, and use neither. Takes some minutes.
# Each line says what was looked at and what was found. Exit code: 0, all as expected; 1, something was not; 2, something is missing here.
set -euo pipefail
TOP=$(cd "$(dirname "$0")/.." && pwd)
TARGET=results/church/none/table.csv
export PATH="$PATH:/usr/sbin:/sbin" PYTHONPATH=. OMP_NUM_THREADS=1 DVC_NO_ANALYTICS=1
for program in slurmctld slurmd munged; do
    command -v $program > /dev/null || { echo "$program is not here; it takes Debian's packages slurm-wlm and munge"; exit 2; }
done
python -c 'import snakemake_executor_plugin_slurm' 2> /dev/null || { echo "snakemake-executor-plugin-slurm is not here; pip brings it"; exit 2; }

WORK=$(mktemp -d)
. "$TOP/tests/project.sh"
DAEMONS=()
RUN=
end() {
    [ -z "$RUN" ] || kill "$RUN" 2> /dev/null || true
    if [ -e "$WORK/slurm.conf" ]; then
        timeout 10 scancel --user "$(id -un)" 2> /dev/null || true
        for _ in $(seq 20); do [ -z "$(timeout 10 squeue -h 2> /dev/null)" ] && break; sleep 0.5; done
    fi
    [ ${#DAEMONS[@]} = 0 ] || kill "${DAEMONS[@]}" 2> /dev/null || true
    wait
    rm -rf "$WORK"
}
trap end EXIT
trap 'exit 1' INT TERM HUP

sums() { find results -type f -not -path '*/plan/*' -not -name '*cost*' -not -path '*/costs/*' -not -name table.csv -not -name metrics.json \
    -not -name report.html -exec sha256sum {} + | sort -k 2; }
run() { # a snakemake, in the background so that a signal to this script is heard at once
    timeout -k 10 1200 snakemake "$@" > run.log 2>&1 & RUN=$!
    wait $RUN || tail -n 30 run.log
    RUN=
}
through_slurm() { run --profile profiles/slurm --slurm-init-seconds-before-status-checks 2 "$@"; }
submitted() { grep -c '_slurm_rpc_submit_batch_job: JobId=' "$WORK/slurmctld.log" || true; } # jobs so far, by SLURM's own log
failed() { grep '_job_complete: JobId=[0-9]* ' "$WORK/slurmctld.log" | grep -cvE 'WEXITSTATUS 0$|done$' || true; }
having() { scontrol --oneliner show job | grep -c "JobName=[0-9a-f-]\{36\} .*$1" || true; } # jobs of the workflow with such a request

start_slurm() {
    local name ports; name=$(hostname -s)
    read -ra ports < <(python -c '
import socket
free = [socket.socket() for _ in range(2)]
for one in free: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in free))')
    mkdir -p "$WORK"/{munge,state,spool}; chmod 711 "$WORK" "$WORK/munge"
    (umask 077; head -c 128 /dev/urandom > "$WORK/munge/key")
    munged --foreground --force --key-file="$WORK/munge/key" --socket="$WORK/munge/socket" --pid-file="$WORK/munge/pid" \
        --log-file="$WORK/munge/log" --seed-file="$WORK/munge/seed" &> "$WORK/munge/said" & DAEMONS+=($!)
    cat > "$WORK/slurm.conf" <<CONF
ClusterName=palimpsest
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$WORK/munge/socket
StateSaveLocation=$WORK/state
SlurmdSpoolDir=$WORK/spool
SlurmctldPidFile=$WORK/slurmctld.pid
SlurmdPidFile=$WORK/slurmd.pid
SlurmctldLogFile=$WORK/slurmctld.log
SlurmdLogFile=$WORK/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=2
MinJobAge=3600
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$name NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000000 Gres=gpu:1
PartitionName=main Nodes=$name Default=YES State=UP
CONF
    echo "NodeName=$name Name=gpu File=/dev/null" > "$WORK/gres.conf"
    export SLURM_CONF="$WORK/slurm.conf"
    mkdir "$WORK/bin" # inside a job, the plugin drops every SLURM_ variable that it does not know, this one too
    printf '#!/bin/sh\nSLURM_CONF=%q exec %q "$@"\n' "$SLURM_CONF" "$(command -v srun)" > "$WORK/bin/srun"; chmod +x "$WORK/bin/srun"
    export PATH="$WORK/bin:$PATH"
    for _ in $(seq 50); do [ -S "$WORK/munge/socket" ] && break; sleep 0.1; done
    slurmctld -D -i -f "$SLURM_CONF" &> "$WORK/slurmctld.said" & DAEMONS+=($!)
    slurmd -D -f "$SLURM_CONF" &> "$WORK/slurmd.said" & DAEMONS+=($!)
    for _ in $(seq 60); do [ "$(sinfo -h -o %t 2> /dev/null)" = idle ] && return; sleep 0.5; done
    echo "SLURM did not come up:"; tail -n 5 "$WORK"/munge/said "$WORK"/slurm*.said "$WORK"/slurm*.log; exit 1
}


start_slurm
check "SLURM runs a job" "$(hostname)" "$(timeout 30 srun hostname)"

project through '{resources: {generate: {parts: 3}}}'
JOBS=$(snakemake -n $TARGET 2> /dev/null | awk '$1 == "total" { n = $2 } END { print n }')
through_slurm $TARGET
check "jobs that SLURM was given" "$JOBS" "$(submitted)"
check "of these, failed" 0 "$(failed)"
check "of these, with a GPU: pool, pairs, erase, attack, three parts, generate, score" 9 "$(having TresPerJob=gres:gpu:1)"
check "of these, with a limit to time and memory" "$JOBS" "$(having 'TimeLimit=[0-9].*MinMemoryNode=[1-9]')"
check "jobs that computed something" "$JOBS" "$(find logs -name '*.log' -exec grep -L '^kept:' {} + | wc -l)"
check "the table is there" yes "$([ -s $TARGET ] && echo yes || echo no)"
check "snakemake -n behind it" "Nothing to be done" "$(snakemake -n $TARGET 2>&1 | grep -o 'Nothing to be done' || true)"
check "snakemake -n with the profile" "Nothing to be done" "$(snakemake --profile profiles/slurm -n $TARGET 2>&1 | grep -o 'Nothing to be done' || true)"
check "what dvc status misses in dvc.lock" "" "$(dvc status --json $TARGET | python -c 'import json, sys; print(*json.load(sys.stdin))')"

rm -r $TARGET logs
through_slurm $TARGET
check "the table deleted, jobs that SLURM was given" 1 "$(($(submitted) - JOBS))"
check "of these, brought back from the cache" 1 "$({ grep -rl '^kept:' logs || true; } | wc -l)"

project without '{}'
run --cores 2 $TARGET
check "files without SLURM and with it" "$(sums | wc -l)" "$(cd "$WORK/through" && sums | wc -l)"
check "differing files" "" "$(diff <(sums) <(cd "$WORK/through" && sums) | head -n 3)"
exit "$FAILED"
