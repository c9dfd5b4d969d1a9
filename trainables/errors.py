"""What is an error of the user's, and not a bug of ours? And what of it may be shown?"""

import re


class UserError(ValueError):
    """Something that a user wrote, or has, or lacks. The message is one line: what was found, where, what to do.

    The command line prints it and ends with exit code 2; every other exception keeps its traceback.
    """


def without_password(text: str) -> str:
    """A text with the user names and passwords of its URIs left out: for people, logs and reports.

    A password is hidden also where a slash in it was not escaped.
    """
    bare = re.sub(r"//(?:(?:[^/@\s]*|[^/@\s]+:(?!\d+(?:/|\s|$))[^@\s]*)@)+", "//", text)
    return re.sub(r"(?i)([?&](?:password|passwd|pwd|secret|token)=)[^&\s]*", r"\1***", bare)
