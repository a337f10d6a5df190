# What brokers and clients are made of, from the package registries, at pinned versions. Downloads stay in $state/dist
# and are made anew only when their list changes.

# debian COMMANDS…: scripts/debian, one at a time: apt refuses a second one.
debian() {
  (
    exec 9>"$state/locks/debian"
    flock 9
    "$root/scripts/debian" "$@"
  )
}

# fetched FOLDER FILE…: whether that folder was completed from these files as they are now; `complete` says so.
fetched() {
  local folder=$1
  shift
  [[ -e $folder/.made-from ]] && cat "$@" | cmp -s - "$folder/.made-from"
}

complete() {
  local folder=$1
  shift
  cat "$@" >"$folder/.made-from"
}

# jars NAME: the Java archives that scripts/brokers.d/NAME/pom.xml lists, into $state/dist/NAME.
jars() {
  local pom=$here/$1/pom.xml into=$state/dist/$1
  debian java mvn
  (
    mkdir -p "$state/dist"
    exec 9>"$state/locks/jars-$1"
    flock 9
    fetched "$into" "$pom" && exit 0
    rm -rf "$into"
    mvn -q -B -f "$pom" dependency:copy-dependencies -DoutputDirectory="$into"
    complete "$into" "$pom"
  )
}

# python NAME REQUIREMENTS: a virtual environment in $state/dist/NAME with what that file lists and nothing beside: a
# requirement that it does not list is an error, so that no version is left to chance.
python() {
  local into=$state/dist/$1 requirements=$2
  debian python3 python3-venv
  (
    mkdir -p "$state/dist"
    exec 9>"$state/locks/python-$1"
    flock 9
    fetched "$into" "$requirements" && exit 0
    rm -rf "$into"
    python3 -m venv "$into"
    "$into/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$requirements"
    complete "$into" "$requirements"
  )
}

clients_python() { echo "$state/dist/clients/bin/python"; }

# install_clients: kcat, redis-cli, the Python clients and the Node ones.
install_clients() {
  mkdir -p "$state/locks"
  debian kcat redis-cli
  python clients "$root/test/interop/requirements.txt"
}
