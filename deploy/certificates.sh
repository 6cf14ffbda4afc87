#!/bin/sh
# Makes an authority, and for each service a certificate that the authority signs, in a folder:
#   deploy/certificates.sh tls
# Certificates are valid for $DAYS days, 365 if DAYS is not set. Run this again to replace the
# certificates before they expire: the authority stays. Needs openssl.
set -eu
directory=${1:?say where: deploy/certificates.sh DIR}
days=${DAYS:-365}
mkdir -p "$directory"
cd "$directory"

if [ ! -f ca.key ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
    -subj "/CN=Lonja's services" -keyout ca.key -out ca.crt 2>/dev/null
  chmod 600 ca.key
fi
for service in gateway console registry catalog audit; do
  mkdir -p "$service"
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=lonja-$service" \
    -keyout "$service/new.key" -out "$service/new.csr" 2>/dev/null
  printf 'subjectAltName=DNS:lonja-%s\nbasicConstraints=CA:FALSE\n' "$service" >"$service/new.ext"
  openssl x509 -req -in "$service/new.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$days" \
    -extfile "$service/new.ext" -out "$service/new.crt" 2>/dev/null
  cp ca.crt "$service/ca.crt"
  mv "$service/new.key" "$service/tls.key"
  mv "$service/new.crt" "$service/tls.crt"
  rm "$service/new.csr" "$service/new.ext"
  # Containers run as a user of their own, who must be able to read the key.
  chmod 644 "$service/tls.key"
done
