# Ports and certificates.

# port NAME: the port that the broker in use has under that name; chosen at the first call, kept in $folder/ports.
# Below the range from which the system takes ports for outgoing connections: it is still free after a stop.
port() {
  local found
  found=$(port_kept "$1")
  if [[ -n $found ]]; then
    echo "$found"
    return
  fi
  (
    exec 9>"$state/locks/ports"
    flock 9
    found=$(port_kept "$1") # somebody may have been quicker
    while [[ -z $found ]]; do
      found=$((20000 + RANDOM % 10000))
      if listens "$found" || cat "$state"/*/ports 2>/dev/null | grep -q " $found\$"; then found=''; fi
    done
    grep -q "^$1 " "$folder/ports" 2>/dev/null || echo "$1 $found" >>"$folder/ports"
    echo "$found"
  )
}

port_kept() {
  if [[ -e $folder/ports ]]; then awk -v name="$1" '$1 == name { print $2 }' "$folder/ports"; fi
}

# listens PORT: whether somebody takes connections there.
listens() { (exec 7<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# answers PORT PATH: whether an HTTP GET there is answered with 200.
answers() {
  (
    local status=''
    exec 7<>"/dev/tcp/127.0.0.1/$1" || exit 1
    printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1:%s\r\n\r\n' "$2" "$1" >&7
    read -r -t 10 _ status _ <&7 || exit 1
    [[ $status == 200 ]]
  ) 2>/dev/null
}

# certificates: makes an authority, and a server's and a client's certificate from it, once for all brokers:
# $state/tls/{ca,server,client}.pem with {ca,server,client}.key (PKCS #8), server.both.pem with key and certificate.
certificates() {
  tls=$state/tls
  (
    exec 9>"$state/locks/tls"
    flock 9
    [[ ! -e $tls/done ]] || exit 0
    command -v openssl >/dev/null || debian openssl
    umask 077
    mkdir -p "$tls"
    cd "$tls" || exit
    openssl req -x509 -newkey rsa:2048 -nodes -sha256 -days 3650 -keyout ca.key -out ca.pem -subj '/CN=ferry test authority' \
      -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign,cRLSign'
    sign server '/CN=localhost' 'subjectAltName=DNS:localhost,IP:127.0.0.1' 'extendedKeyUsage=serverAuth'
    sign client '/CN=ferry' 'extendedKeyUsage=clientAuth'
    cat server.key server.pem >server.both.pem
    touch "done"
  )
}

# sign NAME SUBJECT EXTENSIONS…
sign() {
  local name=$1 subject=$2
  shift 2
  openssl req -new -newkey rsa:2048 -nodes -keyout "$name.key" -out "$name.csr" -subj "$subject"
  printf '%s\n' "$@" >"$name.ext"
  openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -sha256 -extfile "$name.ext" -out "$name.pem"
  rm "$name.csr" "$name.ext"
}
