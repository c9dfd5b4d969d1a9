"""How fast is this program, against what people would use instead? `python -m benchmarks` prints the table."""
