# Processes that outlive the script: started in the background, found again by a file, ended by a signal.
#
# $folder/NODE/pid holds the process id and when that process was started, so that an id that was given to another
# process meanwhile is never signalled.

# spawn NODE COMMAND…: in the background, in a process group of its own (Ctrl-C in the terminal does not reach it), with
# what it says added to $folder/NODE/log.
spawn() {
  local node=$1
  shift
  echo "$mark $(date '+%F %T')" >>"$folder/$node/log"
  set -m
  # The locks of this script (8 and 9) must not live on in it.
  nohup "$@" >>"$folder/$node/log" 2>&1 </dev/null 8>&- 9>&- &
  set +m
  remember "$node" "$!"
}
readonly mark='== started by scripts/brokers'

# said NODE TEXT: whether it has said that since it was last started.
said() {
  awk -v mark="$mark" -v text="$2" 'index($0, mark) == 1 { seen = 0 } index($0, text) { seen = 1 } END { exit !seen }' "$folder/$1/log"
}

remember() { echo "$2 $(born "$2")" >"$folder/$1/pid"; }

# born PID: when the process was started, in clock ticks since the machine was; nothing when it has ended.
born() {
  local line fields
  { line=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
  # The name in parentheses may hold anything; behind it the fields are plain, from the third on (proc_pid_stat(5)).
  read -ra fields <<<"${line##*) }"
  [[ ${fields[0]} == Z ]] || echo "${fields[19]}"
}

pid_of() { cut -d ' ' -f 1 "$folder/$1/pid"; }

alive() {
  local pid birth
  { read -r pid birth <"$folder/$1/pid"; } 2>/dev/null || return 1
  [[ -n $birth && $(born "$pid") == "$birth" ]]
}

# signal NAME NODE: to the process; no error when it does not run.
signal() {
  if alive "$2"; then kill "-$1" "$(pid_of "$2")" 2>/dev/null || true; fi
}

# await_end NODE: until it has ended; after a minute it is killed.
await_end() {
  local deadline=$((SECONDS + 60)) hard=''
  while alive "$1"; do
    if ((SECONDS >= deadline)); then
      [[ -z $hard ]] || fail "$1 does not end, not even when it is killed: process $(pid_of "$1")"
      echo "scripts/brokers: $1 did not end within a minute and is killed" >&2
      signal KILL "$1"
      hard=yes deadline=$((SECONDS + 10))
    fi
    sleep 0.05
  done
  rm -f "$folder/$1/pid"
}

# eventually SECONDS COMMAND…: again and again until it succeeds.
eventually() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || fail "gave up waiting for: $*"
    sleep 0.1
  done
}
