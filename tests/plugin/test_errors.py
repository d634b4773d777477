"""What a user can put right is one sentence on stderr, and everything else keeps its traceback."""

import errno

import pytest

from vllm_specflash.errors import one_sentence_errors


@pytest.mark.parametrize(
    "error, says",
    [
        # A write that fails names no file.
        (OSError(errno.ENOSPC, "No space left on device"), "There is no room left on the disk (No space left on device)"),
        (PermissionError(errno.EACCES, "Permission denied", "out.json"), "out.json cannot be used (Permission denied)"),
    ],
)
def test_one_sentence(error, says, capsys):
    with pytest.raises(SystemExit), one_sentence_errors():
        raise error
    assert capsys.readouterr().err.startswith(says)


def test_what_no_user_can_put_right():
    with pytest.raises(OSError), one_sentence_errors():
        raise OSError(errno.EBADF, "Bad file descriptor")
