"""When to call what: Airflow's DAGs, one a file, and the local stack that runs them on one machine."""
