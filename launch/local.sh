#!/usr/bin/env bash
# Runs a jaxtag command on this machine, in a virtual environment that it creates.
set -euo pipefail

usage() {
  cat <<'END'
launch/local.sh [--processes=N] [--restarts=N] COMMAND [ARGUMENT…]

  COMMAND   train, evaluate, annotate, prepare, …: runs python -m jaxtag.COMMAND ARGUMENT…
            test: runs the tests, two files at a time; ARGUMENT… goes to pytest
            install: only makes the environment

The first call creates .venv in the checkout and installs jaxtag there with the versions of
constraints.txt (with CUDA if nvidia-smi lists a GPU); later calls install again only after changes
of pyproject.toml or constraints.txt. Relative paths are relative to the current folder.

  --processes=N  run train or evaluate as N processes, which share the machine's GPUs, or are as
                 many CPU devices; when one is lost, all end
  --restarts=N   restart the command when it saved and stopped early (status 75), met something
                 that may mend (70) or was killed (128 and above), at most N times in a row from the
                 same step; not after a failure (1, 2), nor when this script received a signal
  LD_PRELOAD     is set to tcmalloc where it is installed (on Debian and Ubuntu: apt install
                 libtcmalloc-minimal4), unless you set it: faster steps on CPU
  PYTHON=PATH    the Python to create .venv with; otherwise the first of python3.11, python3.12,
                 python3.13, python3 that is 3.11 or newer; where none is, uv fetches 3.11 (pip
                 installs uv into .uv where it is absent)
  JAXTAG_EXTRAS  extras to install, such as tpu; by default test, and cuda with a GPU

  launch/local.sh train --config=shapes_caption --workdir=runs/shapes
END
}

fail() { # STATUS MESSAGE
  echo "launch/local.sh: $2" >&2
  exit "$1"
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
readonly root
readonly environment="$root/.venv"
readonly python="$environment/bin/python"
readonly saved_status=75 transient_status=70 # see docs/guides/pods.md
readonly patience=90 # seconds in which the other processes notice that one has ended

find_python() {
  local candidate candidates=(python3.11 python3.12 python3.13 python3)
  [[ -z "${PYTHON:-}" ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
      >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

find_uv() {
  local candidate
  for candidate in uv "$HOME/.local/bin/uv" "$root/.uv/bin/uv"; do
    if command -v "$candidate"; then return; fi
  done
  python3 -m pip install --quiet --target "$root/.uv" uv >&2 && echo "$root/.uv/bin/uv"
}

make_environment() {
  local base
  if base="$(find_python)"; then
    echo "launch/local.sh: creating $environment with $base" >&2
    "$base" -m venv --clear "$environment"
  elif [[ -n "${PYTHON:-}" ]]; then
    fail 1 "PYTHON=$PYTHON is not Python 3.11 or newer with venv"
  elif base="$(find_uv)"; then
    echo "launch/local.sh: creating $environment with Python 3.11 by $base" >&2
    "$base" venv --quiet --clear --seed --python 3.11 "$environment" >&2 ||
      fail 1 "uv could not fetch Python 3.11 (above)"
  else
    fail 1 "no Python 3.11 or newer with the venv module found: install it (on Debian and Ubuntu: \
apt install python3 python3-venv), install uv, or name one with PYTHON=PATH"
  fi
}

install() {
  local extras="${JAXTAG_EXTRAS:-test}" stamp="$environment/jaxtag-installed" state
  if [[ -z "${JAXTAG_EXTRAS:-}" ]] && command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    extras=test,cuda
  fi
  state="$extras $root $(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)"
  if [[ -f "$stamp" && "$(<"$stamp")" == "$state" ]] && "$python" -c '' 2>/dev/null; then
    return
  fi
  if ! "$python" -m pip --version >/dev/null 2>&1; then # missing, or its Python was removed
    make_environment
  fi
  echo "launch/local.sh: installing jaxtag[$extras] into $environment" >&2
  (cd "$root" && "$python" -m pip install --quiet --disable-pip-version-check \
    --editable ".[$extras]" --constraint constraints.txt) >&2 || fail 1 "installing failed (above)"
  echo "$state" >"$stamp"
}

# A training step allocates and frees hundreds of megabytes: glibc returns them to the kernel, which
# clears the pages each time; tcmalloc keeps them (a quarter of a step's time on two cores).
use_tcmalloc() {
  local library
  [[ -z "${LD_PRELOAD:-}" ]] || return 0
  for library in /usr/lib/*/libtcmalloc{_minimal,}.so.4 /usr/lib64/libtcmalloc{_minimal,}.so.4; do
    if [[ -e "$library" ]]; then
      export LD_PRELOAD="$library"
      return
    fi
  done
}

# Starts "$@" in the background, so that signals reach it while this script waits, and in its own
# process group, because bash makes other background commands ignore Ctrl-C.
start() {
  set -m
  "$@" &
  children+=($!)
  set +m
}

start_all() {
  local index port gpus share
  if ((processes == 1)); then
    start "$@"
    return
  fi
  port="$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0))
print(s.getsockname()[1])')"
  gpus="$(gpu_count)"
  share=$((gpus / processes))
  for ((index = 0; index < processes; index++)); do
    if ((gpus > 0)); then
      CUDA_VISIBLE_DEVICES="$(seq -s, $((index * share)) $((index * share + share - 1)))"
      export CUDA_VISIBLE_DEVICES
    fi
    start "$@" --coordinator_address="localhost:$port" --num_processes="$processes" \
      --process_id="$index"
  done
}

gpu_count() {
  local list=
  ! command -v nvidia-smi >/dev/null || list="$(nvidia-smi -L 2>/dev/null || true)"
  grep -c '^GPU ' <<<"$list" || true
}

# Whether starting again may mend it; 130 is a second Ctrl-C.
may_mend() { # STATUS
  (($1 == saved_status || $1 == transient_status || ($1 >= 128 && $1 != 130)))
}

# Ranks the exit statuses of processes: a failure above a kill above a request to restart.
severity() { # STATUS
  if (($1 == 0)); then
    echo 0
  elif (($1 == saved_status)); then
    echo 1
  elif may_mend "$1"; then
    echo 2
  else
    echo 3
  fi
}

# Runs "$@" as all processes; returns when they and their children have ended.
run_once() {
  local outcome=0 status deadline='' index child
  children=()
  start_all "$@"
  local started=("${children[@]}")
  while ((${#children[@]} > 0)); do
    for index in "${!children[@]}"; do
      child="${children[index]}"
      if kill -0 "$child" 2>/dev/null; then continue; fi
      status=0
      wait "$child" || status=$?
      unset 'children[index]'
      if (($(severity "$status") > $(severity "$outcome"))); then outcome="$status"; fi
      if ((status != 0)); then deadline="${deadline:-$((SECONDS + patience))}"; fi
    done
    if [[ -n "$deadline" ]] && ((SECONDS >= deadline)); then sweep "${children[@]}"; fi
    sleep 0.1
  done
  sweep "${started[@]}"
  return "$outcome"
}

# Kills the rest of process groups: decoding workers outlive a process that was killed.
sweep() {
  local group
  for group in "$@"; do
    kill -KILL -- "-$group" 2>/dev/null || true
  done
}

forward() { # SIGNAL
  local child
  stopped=yes
  for child in "${children[@]}"; do
    kill "-$1" "$child" 2>/dev/null || true
  done
}

run_with_restarts() {
  local left="$restarts" step='' before='' status
  stopped=no children=()
  JAXTAG_STEP_FILE="$(mktemp)" # gets the step from which each start goes on
  export JAXTAG_STEP_FILE
  trap 'rm -f "$JAXTAG_STEP_FILE"' EXIT
  trap 'forward TERM' TERM
  trap 'forward INT' INT
  while true; do
    status=0
    run_once "$@" || status=$?
    if ! may_mend "$status" || [[ $stopped == yes ]]; then exit "$status"; fi
    before="$step" step="$(<"$JAXTAG_STEP_FILE")"
    if ((${step:-0} > ${before:-0})); then left="$restarts"; fi
    if ((left == 0)); then exit "$status"; fi
    left=$((left - 1))
    echo "launch/local.sh: ended with status $status, starting again ($left left)" >&2
  done
}

restarts=0 processes=1
while [[ "${1:-}" == -* ]]; do
  case "$1" in
    --processes=*) processes="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
    -h | --help) usage && exit 0 ;;
    *) fail 2 "unknown option $1; see launch/local.sh --help" ;;
  esac
  shift
done
[[ "$restarts" =~ ^[0-9]+$ ]] || fail 2 "--restarts=$restarts is not a number"
[[ "$processes" =~ ^[1-9][0-9]*$ ]] || fail 2 "--processes=$processes is not a number above 0"
if ((processes > 1)) && ((gpus = $(gpu_count), gpus % processes)); then
  fail 2 "--processes=$processes does not divide the $gpus GPUs of this machine"
fi
[[ $# -gt 0 ]] || { usage >&2 && exit 2; }
name="$1"
shift

if [[ "$name" == test ]]; then
  command=("$python" -m pytest -n 2 --dist loadfile "$@")
elif [[ "$name" == install ]]; then
  command=(true)
elif [[ "$name" =~ ^[a-z_]+$ ]] &&
  [[ -f "$root/jaxtag/$name.py" || -f "$root/jaxtag/$name/__main__.py" ]]; then
  command=("$python" -m "jaxtag.$name" "$@")
else
  fail 2 "no command '$name'; see launch/local.sh --help"
fi
install
if [[ "$name" == test ]]; then
  cd "$root"
else
  use_tcmalloc
fi
if ((restarts == 0 && processes == 1)); then
  exec "${command[@]}"
fi
run_with_restarts "${command[@]}"
