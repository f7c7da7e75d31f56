#!/bin/sh
# Make what compose.yaml mounts as secrets, in deploy/secrets or the folder named: passwords, Qdrant's key, and a certificate
# for the attributor, signed by an authority of its own. What is there already stays. Needs openssl.
# usage: secrets.sh [FOLDER] [NAME...], with further host names or addresses of the attributor
set -eu
umask 077
folder=${1:-$(dirname "$0")/secrets}
[ "$#" = 0 ] || shift
mkdir -p "$folder"
cd "$folder"

for name in postgres_password qdrant_api_key grafana_password; do
    [ -s "$name" ] || openssl rand -hex 32 > "$name"
done

if [ ! -s attributor.crt ]; then
    names=DNS:attributor,DNS:localhost,IP:127.0.0.1
    for name in "$@"; do
        case $name in *[!0-9.]*) names=$names,DNS:$name ;; *) names=$names,IP:$name ;; esac
    done
    curve='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
    # shellcheck disable=SC2086 # several words on purpose
    openssl req -x509 $curve -keyout authority.key -out authority.crt -days 1825 -subj '/CN=gmvaluator authority' \
        -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign' 2> /dev/null
    # shellcheck disable=SC2086
    openssl req $curve -keyout attributor.key -out attributor.csr -subj '/CN=attributor' 2> /dev/null
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$names" > attributor.ext
    openssl x509 -req -in attributor.csr -CA authority.crt -CAkey authority.key -CAcreateserial -days 397 \
        -extfile attributor.ext -out attributor.crt 2> /dev/null
    rm attributor.csr attributor.ext authority.srl
fi

# The containers run as users of their own: they read the files; on this machine the folder lets nobody else in.
chmod 700 .
chmod 644 postgres_password qdrant_api_key grafana_password attributor.crt attributor.key authority.crt
chmod 600 authority.key
echo "secrets are in $(pwd); keep authority.key elsewhere, offline: no container needs it"
