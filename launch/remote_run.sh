# shellcheck shell=bash
# Sourced by launch/tpu_pod.sh and launch/ssh.sh: installs the checkout on machines, and follows a run
# that lives there (launch/worker.sh).
#
# The script that sources it sets program, root and poll_seconds, and defines:
#   everywhere COMMAND         runs a command on all machines; fails where one of them fails
#   copy_everywhere FILE NAME  copies a file into the home of each
#   follow_log                 prints the log of the first until the run ends
#   are_there                  whether the machines exist

: "${program:?}" "${root:?}" "${poll_seconds:?}"
readonly saved_status=75 transient_status=70 killed_status=137 # see docs/guides/pods.md
readonly max_unanswered=20 # queries in a row that machines that exist may leave open
readonly patience=10       # queries in which all machines notice that the run has ended on one

fail() { # STATUS MESSAGE
  echo "$program: $2" >&2
  exit "$1"
}

say() { echo "$program: $1" >&2; }

# The same checkout gives the same bytes.
make_archive() { # FILE
  tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
    --exclude=__pycache__ --exclude='./.*' --exclude=./runs -c . | gzip -n >"$1"
}

# Installs on all machines unless they have this very checkout.
install() { # EXTRAS
  local archive hash there
  archive="$(mktemp -d)/jaxtag.tar.gz"
  make_archive "$archive"
  hash="$(sha256sum <"$archive" | cut -d' ' -f1)"
  # shellcheck disable=SC2016 # for the machines' shells
  there="$(everywhere 'echo "installed: $(cat jaxtag/.archive 2>/dev/null)"' | grep '^installed:')" ||
    return 1
  if [[ "$(sort -u <<<"$there")" != "installed: $hash" ]]; then
    copy_everywhere "$archive" jaxtag.tar.gz || return 1
    everywhere "set -e; mkdir -p jaxtag; cd jaxtag; rm -f .archive
      find . -mindepth 1 -maxdepth 1 ! -name .venv ! -name .uv -exec rm -rf {} +
      tar -xzf ../jaxtag.tar.gz; JAXTAG_EXTRAS=$1 launch/local.sh install; echo $hash >.archive" ||
      return 1
  fi
  rm -r "$(dirname "$archive")"
}

# How the run is on each machine, a line each; fails where one does not answer.
run_states() {
  local lines
  lines="$(everywhere 'if [ -x jaxtag/launch/worker.sh ]; then jaxtag/launch/worker.sh status
    else echo "jaxtag is absent"; fi' 2>/dev/null)" || return 1
  grep '^jaxtag ' <<<"$lines"
}

may_mend() { # STATUS
  (($1 == saved_status || $1 == transient_status || ($1 >= 128 && $1 != 130)))
}

log=''       # the process that prints the run's log
made_anew=no # whether a machine has lost the run with all that it held
stop_following() {
  [[ -z "$log" ]] || kill -- "-$log" 2>/dev/null || true
  log=''
}

# Follows the run to its end; returns its status, or killed_status where the machines are gone.
follow() {
  local lines each outcome unanswered=0 uneven=0
  trap stop_following EXIT
  while true; do
    if [[ -z "$log" ]] || ! kill -0 "$log" 2>/dev/null; then
      set -m # in a process group of its own, to be ended as a whole
      follow_log >&2 </dev/null &
      log=$!
      set +m
    fi
    sleep "$poll_seconds"
    if ! lines="$(run_states)"; then
      unanswered=$((unanswered + 1))
      if ! are_there; then outcome=$killed_status && break; fi
      if ((unanswered < max_unanswered)); then continue; fi
      fail 1 "the machines do not answer; the run may live: the same call follows it again"
    fi
    unanswered=0
    if [[ "$lines" == *'jaxtag is absent'* ]]; then
      # shellcheck disable=SC2034 # read by launch/tpu_pod.sh
      made_anew=yes lines="${lines//jaxtag is absent/jaxtag ended with $killed_status}"
    fi
    outcome=0
    while read -r each; do
      if ((each != 0)) && ! may_mend "$each"; then outcome="$each" && break; fi
      ((each == 0)) || outcome="$each"
    done < <(sed -n 's/^jaxtag ended with //p' <<<"$lines")
    if [[ "$lines" != *'jaxtag is running'* ]]; then break; fi
    [[ "$lines" != *'jaxtag ended with'* ]] || uneven=$((uneven + 1))
    if ((outcome != 0)) && { ! may_mend "$outcome" || ((uneven > patience)); }; then
      everywhere 'jaxtag/launch/worker.sh stop' || true
      break
    fi
  done
  stop_following
  return "$outcome"
}
