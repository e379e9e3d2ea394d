-- At the first start, beside the database `prefect`, which the image makes itself.
CREATE DATABASE mlflow;
