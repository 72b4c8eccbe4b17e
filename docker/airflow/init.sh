#!/bin/sh
# Airflow's database, its administrator and the pool that fine-tuning waits in. May be run again, as it is at every start.
set -eu
password=$(cat "$AIRFLOW_ADMIN_PASSWORD_FILE") # by itself, so that a file that is missing ends the script
airflow db migrate
airflow users create --username admin --role Admin --firstname sensorloop --lastname admin --email admin@localhost \
  --password "$password"
airflow pools set gpu "$GPU_SLOTS" "Fine-tuning runs at a time."
