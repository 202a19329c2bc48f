#!/usr/bin/env bash
# The part of launch/tpu_pod.sh and launch/ssh.sh that runs on each machine: a run that outlives the
# connection that started it.
set -euo pipefail

usage() {
  cat <<'END'
launch/worker.sh start WORKDIR COMMAND [ARGUMENT…]   starts launch/local.sh COMMAND … in the background
launch/worker.sh status                              prints how it is, in one line
launch/worker.sh follow                              prints its log until it ends
launch/worker.sh stop                                ends it; it saves first

What it prints is in ~/jaxtag-run/log, and every 30 seconds in WORKDIR/logs (WORKDIR "": nowhere).
END
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
readonly root
readonly run="${JAXTAG_RUN:-$HOME/jaxtag-run}"
readonly restarts="${JAXTAG_RESTARTS:-2}" # in a row from the same step
readonly copy_seconds="${JAXTAG_COPY_SECONDS:-30}"
readonly stop_seconds=90 # for a run to save
readonly killed_status=137

is_alive() {
  [[ -s "$run/pid" && ! -e "$run/status" ]] && kill -0 "$(<"$run/pid")" 2>/dev/null
}

# Sends a signal to all processes of the run: it has a session of its own.
signal_run() { # SIGNAL
  [[ ! -s "$run/pid" ]] || pkill "-$1" -s "$(<"$run/pid")" || true
}

start() { # WORKDIR COMMAND ARGUMENT…
  if is_alive; then
    echo "launch/worker.sh: a run lives here: $(<"$run/command")" >&2
    exit 1
  fi
  signal_run KILL # what a killed run left: it would hold the devices
  rm -rf "$run"
  mkdir -p "$run"
  printf '%q ' "${@:2}" >"$run/command"
  setsid nohup "$root/launch/worker.sh" supervise "$@" >"$run/log" 2>&1 </dev/null &
  echo $! >"$run/pid"
}

supervise() { # WORKDIR COMMAND ARGUMENT…
  local workdir="$1" status=0 child copier
  shift
  if [[ -n "$workdir" ]]; then
    export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$workdir/compiled}"
    copy_log_repeatedly "$workdir" &
    copier=$!
  fi
  "$root/launch/local.sh" --restarts="$restarts" "$@" &
  child=$!
  trap 'kill -TERM "$child"' TERM
  while true; do
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2>/dev/null || break # else a signal ended the wait
  done
  echo "$status" >"$run/status.new"
  if [[ -n "$workdir" ]]; then
    kill "$copier" && wait "$copier" || true # a copy under way would end after the last one
    copy_log "$workdir"
  fi
  mv "$run/status.new" "$run/status"
  signal_run KILL # data workers that outlive their process
}

copy_log() { # WORKDIR
  local target
  target="$1/logs/$(hostname)-$(<"$run/pid").log"
  if [[ "$1" == *://* ]]; then
    gcloud storage cp --quiet "$run/log" "$target" >/dev/null 2>&1 || true
  else
    mkdir -p "$1/logs" && cp "$run/log" "$target" || true
  fi
}

copy_log_repeatedly() { # WORKDIR; until SIGTERM, which lets a copy end
  trap 'exit 0' TERM
  while true; do
    sleep "$copy_seconds" &
    wait $!
    copy_log "$1"
  done
}

status() {
  if [[ -s "$run/status" ]]; then
    echo "jaxtag ended with $(<"$run/status")"
  elif is_alive; then
    echo "jaxtag is running: $(<"$run/command")"
  elif [[ -s "$run/pid" ]]; then
    echo "jaxtag ended with $killed_status"
  else
    echo "jaxtag is absent"
  fi
}

stop() {
  local deadline=$((SECONDS + stop_seconds))
  if is_alive; then
    kill -TERM "$(<"$run/pid")"
    while is_alive && ((SECONDS < deadline)); do sleep 0.2; done
  fi
  signal_run KILL
}

case "${1:-}" in
  start | supervise) [[ $# -ge 3 ]] || { usage >&2 && exit 2; } ;;
  status | stop) ;;
  follow) exec tail -n 200 --pid="$(<"$run/pid")" -F "$run/log" ;;
  -h | --help) usage && exit 0 ;;
  *) usage >&2 && exit 2 ;;
esac
"$@"
