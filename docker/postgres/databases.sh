#!/bin/sh
# A database and an owner each for Airflow and MLflow. PostgreSQL's image runs this once, when its data folder is new.
set -eu
for name in airflow mlflow; do
  psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 --username postgres --dbname postgres <<SQL
\\set password \`cat /run/secrets/${name}_database_password\`
CREATE ROLE ${name} LOGIN PASSWORD :'password';
CREATE DATABASE ${name} OWNER ${name};
SQL
done
