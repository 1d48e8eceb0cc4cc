"""What is made of the records: one module a form of report."""
