#!/usr/bin/env bash
# A throw-away Slurm cluster on this machine: real munged, slurmctld and three slurmd, no systemd, no
# cgroups, loopback only, nothing in /etc touched. Needs root, and
#   apt-get install -y --no-install-recommends slurm-wlm munge
# (also slurmdbd mariadb-server for --accounting, without which sacct keeps nothing).
#   tests/slurm/cluster.sh up FOLDER [--accounting]     then: export SLURM_CONF=FOLDER/etc/slurm.conf
#   tests/slurm/cluster.sh down FOLDER
# Partitions: low (default) is preempted by high; a preempted job has 20 s, and is requeued.
set -euo pipefail
command=${1:?up or down}
root=$(realpath -m "${2:?a folder}")
nodes=3 cpus=2 gpus=2 port=${SLURM_TEST_PORT:-17101}
export SLURM_CONF=$root/etc/slurm.conf

alive() { # a zombie has ended
  local state
  state=$(sed 's/.*) \(.\).*/\1/' "/proc/$1/stat" 2>/dev/null) && [[ $state != Z ]]
}

started() { echo "$1 $2" >>"$root/run/pids"; }

wait_for() { # seconds, command...
  local tries=$(($1 * 10))
  shift
  for ((i = 0; i < tries; i++)); do "$@" && return 0 || sleep 0.1; done
  echo "gave up waiting for: $*" >&2
  tail -n 5 "$root"/log/slurmctld.log >&2 || true
  return 1
}

configure() {
  local accounting="AccountingStorageType=accounting_storage/none"
  if [[ $1 == --accounting ]]; then
    accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((port - 3))
AccountingStoragePass=$root/munge/munge.socket"
  fi
  cat >"$root/etc/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$((port - 2))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits, 120 s by default
AuthInfo=socket=$root/munge/munge.socket,cred_expire=5
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool/%n
SlurmctldPidFile=$root/run/slurmctld.pid
SlurmdPidFile=$root/run/slurmd-%n.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=1,bf_continue
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PreemptExemptTime=00:00:00
PreemptParameters=send_user_signal
JobRequeue=1
MinJobAge=3600
KillWait=5
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=30
GresTypes=gpu
$accounting
NodeName=n[1-$nodes] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[$port-$((port + nodes - 1))] CPUs=$cpus RealMemory=4000 Gres=gpu:$gpus State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=1:00:00 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=ALL MaxTime=1:00:00 State=UP PriorityTier=10 PreemptMode=OFF
CONF
  # stand-ins for GPUs must be devices: copies of /dev/null
  for ((i = 0; i < gpus; i++)); do [[ -e $root/dev/gpu$i ]] || mknod "$root/dev/gpu$i" c 1 3; done
  { echo "AutoDetect=off"; echo "Name=gpu File=$root/dev/gpu[0-$((gpus - 1))]"; } >"$root/etc/gres.conf"
  echo "CgroupPlugin=disabled" >"$root/etc/cgroup.conf"
}

start_accounting() {
  mkdir -p "$root/mysql"
  chown mysql:mysql "$root/mysql"
  mariadb-install-db --no-defaults --user=mysql --datadir="$root/mysql" \
    --auth-root-authentication-method=socket >"$root/log/mariadb-install.log" 2>&1
  mariadbd --no-defaults --user=mysql --datadir="$root/mysql" --socket="$root/mysql/sock" \
    --skip-networking --pid-file="$root/mysql/pid" >"$root/log/mariadb.log" 2>&1 &
  started mariadbd $!
  wait_for 20 mariadb-admin --no-defaults -S "$root/mysql/sock" ping >/dev/null 2>&1
  # slurmdbd 24.11 dies at its first start where it has to create its database
  mariadb --no-defaults -S "$root/mysql/sock" -e "create database if not exists slurm_acct"
  cat >"$root/etc/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$root/munge/munge.socket
DbdHost=localhost
DbdPort=$((port - 3))
SlurmUser=root
LogFile=$root/log/slurmdbd.log
PidFile=$root/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
CONF
  chmod 600 "$root/etc/slurmdbd.conf"
  MYSQL_UNIX_PORT="$root/mysql/sock" slurmdbd -D >/dev/null 2>&1 &
  started slurmdbd $!
  wait_for 20 bash -c "exec 3<>/dev/tcp/127.0.0.1/$((port - 3))" 2>/dev/null
}

up() {
  rm -rf "$root/state" "$root/spool" # state of a start in another mode would end slurmctld
  mkdir -p "$root"/{etc,log,run,state,spool,munge,dev}
  : >"$root/run/pids"
  head -c 128 /dev/urandom >"$root/munge/munge.key"
  chmod 600 "$root/munge/munge.key"
  chmod 711 "$root/munge"
  munged --force --key-file="$root/munge/munge.key" --socket="$root/munge/munge.socket" \
    --pid-file="$root/run/munged.pid" --log-file="$root/log/munged.log" --seed-file="$root/munge/seed"
  started munged "$(cat "$root/run/munged.pid")"
  configure "${1:-}"
  if [[ ${1:-} == --accounting ]]; then start_accounting; fi
  slurmctld -D >/dev/null 2>"$root/log/slurmctld.err" &
  started slurmctld $!
  wait_for 20 bash -c 'timeout 5 scontrol ping 2>/dev/null | grep -q "is UP"'
  for ((i = 1; i <= nodes; i++)); do
    mkdir -p "$root/spool/n$i"
    slurmd -D -N "n$i" >/dev/null 2>"$root/log/slurmd-n$i.err" &
    started slurmd $!
  done
  wait_for 20 bash -c "[[ \$(timeout 5 sinfo -h -N -p low -t idle -o %N 2>/dev/null | wc -l) -eq $nodes ]]"
  disown -a
}

down() { # only what up() wrote down, each checked by its name; newest first
  [[ -f $root/run/pids ]] || exit 0
  timeout 10 scancel -u "$(id -un)" 2>/dev/null || true
  for _ in $(seq 50); do [[ -z $(timeout 5 squeue -h 2>/dev/null) ]] && break || sleep 0.2; done
  while read -r name pid; do
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$name"* ]] || continue
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 60); do alive "$pid" && sleep 0.05 || break; done
    alive "$pid" && kill -9 "$pid" || true
  done < <(tac "$root/run/pids")
  rm -f "$root/run/pids"
}

case $command in
  up) up "${3:-}" ;;
  down) down ;;
  *) echo "up or down, not $command" >&2; exit 2 ;;
esac
