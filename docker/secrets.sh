#!/usr/bin/env bash
# Everything that must not be guessed, and Kafka's certificates: docker/secrets.sh [FOLDER], FOLDER being that of compose.yaml.
# What is there already is kept, so it can be run again; to change a secret, remove its file (and those made of it) first.
# KAFKA_HOST: the name by which phones call the brokers from outside, for their certificate. Needs bash and openssl.
set -euo pipefail
umask 077

folder=$(cd "${1:-$(dirname "$0")}" && pwd)
secrets=$folder/secrets
outside=${KAFKA_HOST:-localhost}
days=825
mkdir -p "$secrets"
cd "$secrets"

# Containers run as users of their own, and read these files through a mount; on the host the folder lets nobody in.
chmod 700 .
keep() { # without a newline at the end, which some who read the file would take for a part of it
  local text
  text=$(cat)
  [ -s "$1" ] || { printf %s "$text" >"$1.part"; chmod 444 "$1.part"; mv "$1.part" "$1"; }
}
random() { openssl rand -hex "$1"; }

certificate() { # NAME COMMON_NAME SUBJECT_ALT_NAMES
  [ -s "$1.pem" ] && [ -s "$1.key" ] && return
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$2" -keyout "$1.key.part" -out "$1.csr" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA kafka_ca.pem -CAkey kafka_ca.key -days "$days" -out "$1.pem.part" 2>/dev/null -extfile <(
    printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=%s\n' "$3"
  )
  rm -f "$1.csr"
  chmod 444 "$1.key.part" "$1.pem.part"
  mv "$1.key.part" "$1.key"
  mv "$1.pem.part" "$1.pem"
}

if ! [ -s kafka_ca.pem ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=sensorloop Kafka CA" -days 3650 \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout kafka_ca.key -out kafka_ca.pem.part 2>/dev/null
  chmod 400 kafka_ca.key
  chmod 444 kafka_ca.pem.part
  mv kafka_ca.pem.part kafka_ca.pem
fi
names=DNS:kafka-1,DNS:kafka-2,DNS:kafka-3,DNS:localhost,IP:127.0.0.1
case $outside in
  localhost) ;;
  *[!0-9.]*) names+=,DNS:$outside ;;
  *) names+=,IP:$outside ;;
esac
if ! [ -s kafka_broker.pem ]; then
  certificate kafka_node kafka "$names"
  cat kafka_node.key kafka_node.pem kafka_ca.pem >kafka_broker.pem.part # one file, as Kafka's PEM stores have it
  chmod 444 kafka_broker.pem.part
  mv kafka_broker.pem.part kafka_broker.pem
  rm -f kafka_node.key kafka_node.pem
fi
certificate kafka_client sensorloop DNS:sensorloop

for name in postgres_password airflow_database_password mlflow_database_password redis_password s3_secret_key \
  airflow_admin_password grafana_admin_password; do
  random 24 | keep "$name"
done
for name in airflow_api_secret_key airflow_jwt_secret; do random 32 | keep "$name"; done
openssl rand -base64 32 | tr '+/' '-_' | keep airflow_fernet_key

echo "postgresql+psycopg2://airflow:$(<airflow_database_password)@postgres:5432/airflow" | keep airflow_database_url
echo "db+postgresql+psycopg2://airflow:$(<airflow_database_password)@postgres:5432/airflow" | keep celery_result_backend
echo "postgresql+psycopg2://mlflow:$(<mlflow_database_password)@postgres:5432/mlflow" | keep mlflow_database_url
echo "redis://:$(<redis_password)@redis:6379/0" | keep celery_broker_url
echo "user default on >$(<redis_password) ~* &* +@all" | keep redis_acl
printf '[default]\naws_access_key_id = sensorloop\naws_secret_access_key = %s\n' "$(<s3_secret_key)" | keep s3_credentials
printf '{"identities": [{"name": "sensorloop", "credentials": [{"accessKey": "sensorloop", "secretKey": "%s"}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}\n' \
  "$(<s3_secret_key)" | keep s3_config.json

if ! [ -s "$folder/.env" ]; then
  while id=$(openssl rand -base64 16 | tr '+/' '-_' | tr -d '=') && [ "${id#-}" != "$id" ]; do :; done
  printf '# Read by docker compose. Written by secrets.sh; the id is that of the data in the brokers'"'"' volumes.\nKAFKA_CLUSTER_ID=%s\nKAFKA_HOST=%s\n' \
    "$id" "$outside" >"$folder/.env"
fi
echo "Secrets are in $secrets, and what compose reads is in $folder/.env. The password of 'admin' is in airflow_admin_password" \
  "for Airflow, in grafana_admin_password for Grafana." >&2
