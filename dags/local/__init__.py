"""What a cluster would provide, on this machine: Airflow, and the demo that runs the whole loop."""
