#!/usr/bin/env bash
# Runs a jaxtag command on all workers of a Cloud TPU slice, requested as a queued resource.
set -euo pipefail

usage() {
  cat <<'END'
launch/tpu_pod.sh --name=NAME --zone=ZONE --type=TYPE [OPTION…] COMMAND [ARGUMENT…]

  COMMAND ARGUMENT…   as for launch/local.sh: runs python -m jaxtag.COMMAND on every worker

Uses the queued resource NAME, or requests it, and waits until it is active. Copies the checkout to
all workers, installs jaxtag[tpu] there with the versions of constraints.txt, and runs the command
on all of them at once. A preempted slice (spot) is requested again, and the run resumes from its
last checkpoint. The slice is kept afterwards: see --delete.

--workdir and --config.data.data_dir must lie on a file system that all workers share, mounted by
--setup (Filestore, or a bucket with gcsfuse).

  --type=TYPE        such as v5litepod-256, v4-32, v6e-16
  --version=VERSION  of the TPU software; by default the one for TYPE
  --spot             may be preempted at any time, and costs less
  --setup=COMMAND    run on every worker before each start, such as: sudo mount … /shared
  --restarts=N       restart, at most N times (default 20), when it saved and stopped early
                     (status 75), met something that may mend (70), a worker was killed (128 and
                     above) or the slice was preempted
  --delete           delete the slice in the end, whatever the outcome
  POLL_SECONDS       between two queries of the slice's state (default 30)

Needs gcloud, logged in and with a project. Cloud TPUs of the v7 generation are on GKE only: see
launch/gke_jobset.yaml, also for several slices.
END
}

fail() { # STATUS MESSAGE
  echo "launch/tpu_pod.sh: $2" >&2
  exit "$1"
}

say() { echo "launch/tpu_pod.sh: $1" >&2; }

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
readonly root
readonly saved_status=75 transient_status=70 # see docs/guides/pods.md
readonly killed_status=137 # the status of a preempted slice

queued() { gcloud compute tpus queued-resources "$1" "$name" --zone="$zone" "${@:2}"; }

state() { queued describe --format='value(state.state)' 2>/dev/null || echo ABSENT; }

# Runs one command on all workers.
everywhere() { gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

software() {
  case "$1" in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) fail 2 "--type=$1: no software is known for it; give --version" ;;
  esac
}

# Returns when the slice is active, and requests it (again) if necessary.
ensure_slice() {
  local now before=
  while true; do
    now="$(state)"
    [[ "$now" == "$before" ]] || say "$name is $now"
    before="$now"
    case "$now" in
      ACTIVE) return ;;
      FAILED | SUSPENDED) queued delete --force --quiet || say "deleting failed; trying again" ;;
      ABSENT)
        queued create --node-id="$name" --accelerator-type="$type" --runtime-version="$version" \
          ${spot:+"$spot"} || fail 1 "the slice could not be requested (above)"
        continue
        ;;
    esac
    sleep "${POLL_SECONDS:-30}"
  done
}

install() {
  local archive
  archive="$(mktemp -d)/jaxtag.tar.gz"
  tar -C "$root" -czf "$archive" --exclude=__pycache__ --exclude='./.*' --exclude=./runs . &&
    gcloud compute tpus tpu-vm scp "$archive" "$name:jaxtag.tar.gz" --zone="$zone" --worker=all &&
    rm -r "$(dirname "$archive")" &&
    everywhere 'set -e; mkdir -p jaxtag; tar -C jaxtag -xzf jaxtag.tar.gz; cd jaxtag
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --editable ".[tpu]" --constraint constraints.txt'
}

may_mend() { # STATUS
  (($1 == saved_status || $1 == transient_status || $1 >= 128))
}

# Runs the command on all workers; returns the most severe of their statuses. gcloud does not report
# how each worker ended, so each prints it.
run_once() {
  local log status=$killed_status each
  log="$(mktemp)"
  everywhere "$setup
    cd jaxtag && status=0; .venv/bin/python -m jaxtag.$command || status=\$?
    echo \"jaxtag ended with \$status\"" 2>&1 | tee "$log" >&2 || true
  while read -r each; do
    if ((each != 0)) && ! may_mend "$each"; then
      status="$each"
      break # a failure, whatever it caused on the others
    fi
    ((status == killed_status)) && status="$each"
    ((each == 0)) || status="$each"
  done < <(sed -n 's/^.*jaxtag ended with \([0-9]*\).*$/\1/p' "$log")
  rm "$log"
  return "$status"
}

name='' zone='' type='' version='' spot='' setup='' restarts=20 delete=no
while [[ "${1:-}" == -* ]]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --setup=*) setup="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
    --spot) spot=--spot ;;
    --delete) delete=yes ;;
    -h | --help) usage && exit 0 ;;
    *) fail 2 "unknown option $1; see launch/tpu_pod.sh --help" ;;
  esac
  shift
done
for option in name zone type; do
  [[ -n "${!option}" ]] || fail 2 "--$option is missing; see launch/tpu_pod.sh --help"
done
[[ "$restarts" =~ ^[0-9]+$ ]] || fail 2 "--restarts=$restarts is not a number"
[[ $# -gt 0 && "$1" =~ ^[a-z_]+$ && ( -f "$root/jaxtag/$1.py" || -f "$root/jaxtag/$1/__main__.py" ) ]] ||
  fail 2 "no command '${1:-}'; see launch/tpu_pod.sh --help"
command -v gcloud >/dev/null || fail 1 "gcloud is not installed: https://cloud.google.com/sdk"
version="${version:-$(software "$type")}"
command="$(printf '%q ' "$@")"
if [[ $delete == yes ]]; then
  trap 'queued delete --force --quiet || say "$name could not be deleted"' EXIT
fi

for ((left = restarts; ; left--)); do
  status=$killed_status
  ensure_slice
  if install; then
    status=0
    run_once || status=$?
  elif [[ "$(state)" == ACTIVE ]]; then
    fail 1 "installing failed (above)"
  fi
  if ! may_mend "$status" || ((left == 0)); then
    exit "$status"
  fi
  say "ended with status $status, starting again ($left left)"
done
