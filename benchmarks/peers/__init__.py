"""What people would use instead of this program, written as well as we can: none of it imports the program."""
