#!/usr/bin/env bash
# Runs a jaxtag command as one process on each of several machines, by ssh alone.
set -euo pipefail

usage() {
  cat <<'END'
launch/ssh.sh --hosts=HOST,HOST,… [OPTION…] COMMAND [ARGUMENT…]
launch/ssh.sh --hosts=HOST,HOST,… --stop

  COMMAND ARGUMENT…   as for launch/local.sh: runs python -m jaxtag.COMMAND on every host, train and
                      evaluate as processes of one job

Copies the checkout to ~/jaxtag of all hosts where it has changed, installs jaxtag there, and starts
the command. The run lives on the hosts: this script follows it, and may be closed; the same call
follows again. Each host starts again by itself where that may mend what ended it (see
docs/guides/pods.md), at most twice in a row from the same step.

--workdir and --config.data.data_dir lie on a file system that all hosts share, or are gs://….

  --hosts=HOST,…   as ssh names them, without a password (keys); the first is the coordinator, and
                   the others reach it by that name (without USER@)
  --port=N         of the coordinator (default 8476)
  --extras=NAME    of the installation: cuda (default), cpu, tpu
  --setup=COMMAND  run on every host before the start
  --stop           end the run on the hosts; it saves first
  POLL_SECONDS     between two queries (default 10)
END
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
readonly program=launch/ssh.sh poll_seconds="${POLL_SECONDS:-10}"
# shellcheck source=launch/remote_run.sh
source "$root/launch/remote_run.sh"

# {index} in the command becomes the number of the host.
everywhere() { # COMMAND
  local index outcome=0 calls=()
  for index in "${!hosts[@]}"; do
    # shellcheck disable=SC2029 # what the command holds is quoted already
    ssh "${ssh_options[@]}" "${hosts[index]}" "${1//\{index\}/$index}" &
    calls+=($!)
  done
  for index in "${calls[@]}"; do wait "$index" || outcome=1; done
  return "$outcome"
}

copy_everywhere() { # FILE NAME
  local host
  for host in "${hosts[@]}"; do
    scp -q "${ssh_options[@]}" "$1" "$host:$2" || return 1
  done
}

follow_log() { ssh "${ssh_options[@]}" "${hosts[0]}" 'jaxtag/launch/worker.sh follow'; }

are_there() { true; }

start() {
  everywhere "set -e
    $setup
    export JAXTAG_EXTRAS=$extras
    jaxtag/launch/worker.sh start $(printf '%q' "$workdir") $command"
}

hosts=() port=8476 extras=cuda setup=: stop=no
while [[ "${1:-}" == -* ]]; do
  case "$1" in
    --hosts=*) IFS=, read -r -a hosts <<<"${1#*=}" ;;
    --port=*) port="${1#*=}" ;;
    --extras=*) extras="${1#*=}" ;;
    --setup=*) setup="${1#*=}" ;;
    --stop) stop=yes ;;
    -h | --help) usage && exit 0 ;;
    *) fail 2 "unknown option $1; see launch/ssh.sh --help" ;;
  esac
  shift
done
((${#hosts[@]} > 0)) || fail 2 "--hosts is missing; see launch/ssh.sh --help"
[[ "$port" =~ ^[0-9]+$ ]] || fail 2 "--port=$port is not a number"
readonly ssh_options=(-o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=20)
if [[ $stop == yes ]]; then
  everywhere 'jaxtag/launch/worker.sh stop'
  exit
fi
[[ $# -gt 0 && "$1" =~ ^[a-z_]+$ && ( -f "$root/jaxtag/$1.py" || -f "$root/jaxtag/$1/__main__.py" ) ]] ||
  fail 2 "no command '${1:-}'; see launch/ssh.sh --help"
command="$(printf '%q ' "$@")" workdir=''
if [[ "$1" == train || "$1" == evaluate ]]; then
  command+="--coordinator_address=${hosts[0]#*@}:$port --num_processes=${#hosts[@]} "
  command+="--process_id={index} --initialization_timeout=1800 "
fi
for argument in "$@"; do
  [[ "$argument" != --workdir=* ]] || workdir="${argument#*=}"
done
trap 'say "the run goes on; the same call follows it again, --stop ends it" && exit 130' INT

lines="$(run_states || true)"
if [[ "$lines" != *'jaxtag is running'* ]]; then
  { install "$extras" && start; } || fail 1 "installing or starting failed (above)"
elif [[ "$lines" != *"jaxtag is running: ${command//\{index\}/0}"* ]]; then
  fail 1 "another command runs there: $(head -n 1 <<<"$lines")"
fi
status=0
follow || status=$?
exit "$status"
