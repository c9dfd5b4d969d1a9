"""What does the results table say? Pure functions from tables to tables, numbers and sentences."""
