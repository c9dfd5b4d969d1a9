"""What is an error of the user's, and not a bug of ours?"""


class UserError(ValueError):
    """Something that a user wrote, or has, or lacks. The message is one line: what was found, where, what to do.

    The command line prints it and ends with exit code 2; every other exception keeps its traceback.
    """
