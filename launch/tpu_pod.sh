#!/usr/bin/env bash
# Runs a jaxtag command on all workers of Cloud TPU slices, requested as a queued resource.
set -euo pipefail

usage() {
  cat <<'END'
launch/tpu_pod.sh --name=NAME --zone=ZONE --type=TYPE [OPTION…] COMMAND [ARGUMENT…]
launch/tpu_pod.sh --name=NAME --zone=ZONE --stop

  COMMAND ARGUMENT…   as for launch/local.sh: runs python -m jaxtag.COMMAND on every worker

Uses the queued resource NAME, or requests it, and waits until it is active. Copies the checkout to
all workers where it has changed, installs jaxtag[tpu] there with the versions of constraints.txt (and
Python by uv: the workers' own is older), and starts the command on all of them at once. The run lives
on the workers: this script follows it, and may be closed; the same call follows again. Each worker
starts again by itself where that may mend what ended it (see docs/guides/pods.md), at most twice in a
row from the same step. A slice that was taken away (spot) is requested again while this script runs.
The slices are kept afterwards: see --delete.

--workdir and --config.data.data_dir are gs://… or lie on a file system that all workers share,
mounted by --setup. WORKDIR/logs gets the log of each worker, WORKDIR/compiled what was compiled.

  --type=TYPE             such as v5litepod-256, v4-32, v6e-16
  --version=VERSION       of the TPU software; by default the one for TYPE
  --node-count=N          slices of that type, which train together (default 1)
  --spot | --reserved     may be taken away at any time, and costs less; from a reservation
  --project=PROJECT       by default gcloud's own
  --service-account=NAME  of the workers: it reads and writes the buckets
  --network=NAME          and --subnetwork=NAME of the workers
  --setup=COMMAND         run on every worker before each start, such as: sudo mount … /shared
  --stop                  end the run on the workers; it saves first
  --delete                delete the slices when the run has ended, whatever the outcome
  POLL_SECONDS            between two queries (default 30)

Needs gcloud, logged in. Cloud TPUs of the v7 generation are on GKE only: launch/gke_jobset.yaml.
END
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
readonly program=launch/tpu_pod.sh poll_seconds="${POLL_SECONDS:-30}"
# shellcheck source=launch/remote_run.sh
source "$root/launch/remote_run.sh"

tpus() { gcloud compute tpus "$@" --zone="$zone" ${project:+"--project=$project"}; }

queued() { tpus queued-resources "$1" "$name" "${@:2}"; }

state() { queued describe --format='value(state.state)' 2>/dev/null || echo ABSENT; }

# Runs one command on all workers of all slices at once; fails where one of them fails.
everywhere() { # COMMAND
  local node outcome=0 calls=()
  for node in "${nodes[@]}"; do
    tpus tpu-vm ssh "$node" --worker=all --command="$1" &
    calls+=($!)
  done
  for node in "${calls[@]}"; do wait "$node" || outcome=1; done
  return "$outcome"
}

software() {
  case "$1" in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) fail 2 "--type=$1: no software is known for it; give --version" ;;
  esac
}

copy_everywhere() { # FILE NAME
  local node
  for node in "${nodes[@]}"; do
    tpus tpu-vm scp "$1" "$node:$2" --worker=all || return 1
  done
}

follow_log() {
  tpus tpu-vm ssh "${nodes[0]}" --worker=0 --command='jaxtag/launch/worker.sh follow'
}

are_there() { [[ "$(state)" == ACTIVE ]]; }

# Returns when the slices are active, and requests them (again) if necessary.
ensure_slices() {
  local now before=
  while true; do
    now="$(state)"
    [[ "$now" == "$before" ]] || say "$name is $now"
    before="$now"
    case "$now" in
      ACTIVE) return ;;
      FAILED | SUSPENDED) queued delete --force --quiet || say "deleting failed; trying again" ;;
      ABSENT)
        queued create "${request[@]}" || fail 1 "the slices could not be requested (above)"
        continue
        ;;
    esac
    sleep "$poll_seconds"
  done
}

# Starts the command on all workers. A TPU that is in use is an error instead of a run on CPU.
start() {
  everywhere "set -e
    $setup
    export JAXTAG_EXTRAS=tpu JAX_PLATFORMS=tpu,cpu JAXTAG_JOB=$job
    jaxtag/launch/worker.sh start $(printf '%q' "$workdir") $command"
}

finish() { # STATUS
  if [[ $delete == yes ]]; then
    queued delete --force --quiet || say "$name could not be deleted"
  fi
  exit "$1"
}

name='' zone='' type='' version='' project='' setup=: node_count=1 delete=no stop=no options=()
while [[ "${1:-}" == -* ]]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --setup=*) setup="${1#*=}" ;;
    --node-count=*) node_count="${1#*=}" ;;
    --spot | --reserved | --service-account=* | --network=* | --subnetwork=*) options+=("$1") ;;
    --delete) delete=yes ;;
    --stop) stop=yes ;;
    -h | --help) usage && exit 0 ;;
    *) fail 2 "unknown option $1; see launch/tpu_pod.sh --help" ;;
  esac
  shift
done
for option in name zone; do
  [[ -n "${!option}" ]] || fail 2 "--$option is missing; see launch/tpu_pod.sh --help"
done
[[ "$node_count" =~ ^[1-9][0-9]*$ ]] || fail 2 "--node-count=$node_count is not a number above 0"
if ((node_count == 1)); then
  nodes=("$name") request=("--node-id=$name")
else
  mapfile -t nodes < <(seq -f "$name-%.0f" 0 $((node_count - 1)))
  request=("--node-count=$node_count" "--node-prefix=$name")
fi
command -v gcloud >/dev/null || fail 1 "gcloud is not installed: https://cloud.google.com/sdk"
if [[ $stop == yes ]]; then
  everywhere 'jaxtag/launch/worker.sh stop'
  exit
fi
[[ -n "$type" ]] || fail 2 "--type is missing; see launch/tpu_pod.sh --help"
[[ $# -gt 0 && "$1" =~ ^[a-z_]+$ && ( -f "$root/jaxtag/$1.py" || -f "$root/jaxtag/$1/__main__.py" ) ]] ||
  fail 2 "no command '${1:-}'; see launch/tpu_pod.sh --help"
version="${version:-$(software "$type")}"
request+=("--accelerator-type=$type" "--runtime-version=$version" "${options[@]}")
command="$(printf '%q ' "$@")" workdir=''
for argument in "$@"; do
  [[ "$argument" != --workdir=* ]] || workdir="${argument#*=}"
done
trap 'say "the run goes on; the same call follows it again, --stop ends it" && exit 130' INT

job="$name-$(date +%s)" # whose starts without progress the work directory counts
while true; do
  ensure_slices
  lines="$(run_states || true)"
  if [[ "$lines" == *'jaxtag is running'* && "$lines" != *"jaxtag is running: $command"* ]]; then
    fail 1 "another command runs there: $(head -n 1 <<<"$lines")"
  fi
  if [[ "$lines" != *'jaxtag is running'* ]] && ! { install tpu && start; }; then
    ! are_there || fail 1 "installing or starting failed (above)"
    continue
  fi
  status=0
  follow || status=$?
  # The workers have started again where that may mend it: what comes here is final, but for
  # machines that are gone.
  if ((status != killed_status)) || { are_there && [[ $made_anew == no ]]; }; then
    finish "$status"
  fi
  made_anew=no
  say "machines were taken away; starting again on others"
done
