import io
import os
import pickle
import struct

import numpy as np
import pytest

from landscape.data.pickles import read_pickle
from landscape.errors import DataError, StorageError


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.fixture
def write(tmp_path):
    def write(content, protocol=2):
        path = tmp_path / "batch"
        path.write_bytes(
            content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol)
        )
        return path

    return write


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {b"data": [np.zeros(3), (bad,)]}])
def test_os_system_is_refused_and_not_run(write, tmp_path, protocol, wrap):
    ran = tmp_path / "ran"
    path = write(wrap(Calls(os.system, f"touch {ran}")), protocol)
    with pytest.raises(DataError, match=r"batch is refused: its pickle asks for \w+\.system"):
        read_pickle(path)
    assert not ran.exists()


@pytest.mark.parametrize(
    "function", [eval, exec, getattr, setattr, __import__, open, compile, print, type, object]
)
def test_functions_of_builtins_are_refused(write, function):
    with pytest.raises(DataError, match=rf"asks for {function.__module__}\.{function.__name__}"):
        read_pickle(write(Calls(function, "1 + 1")))


def test_a_call_nested_in_the_arguments_of_an_allowed_call_is_refused(write):
    with pytest.raises(DataError, match=r"asks for builtins\.eval"):
        read_pickle(write(Calls(set, [Calls(eval, "(1,)")])))


def test_an_array_of_objects_cannot_smuggle_a_call_in(write):
    array = np.empty(1, object)
    array[0] = Calls(eval, "1")
    with pytest.raises(DataError, match=r"asks for builtins\.eval"):
        read_pickle(write(array))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "ndarray.tofile"),
        ("numpy", "fromfile"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "scalar"),
        ("builtins", "set.__class__"),
        ("pickle", "loads"),
    ],
)
def test_other_names_near_the_allowed_ones_are_refused(write, module, name):
    def text(value):
        return pickle.SHORT_BINUNICODE + struct.pack("<B", len(value)) + value.encode()

    stream = pickle.PROTO + b"\x04" + text(module) + text(name) + pickle.STACK_GLOBAL + b"."
    with pytest.raises(DataError, match=rf"asks for {module}\.{name}"):
        read_pickle(write(stream))


def test_a_python_2_pickle_names_builtins_by_their_old_name_and_is_refused_too(write):
    with pytest.raises(DataError, match=r"asks for builtins\.eval"):
        read_pickle(write(b"c__builtin__\neval\n(S'1'\ntR."))


def test_text_codecs_other_than_latin1_are_refused(write):
    import _codecs

    with pytest.raises(DataError, match="cannot decode 'rot13'"):
        read_pickle(write(Calls(_codecs.encode, "abc", "rot13")))


def test_an_array_subclass_is_refused(write):
    stream = pickle.dumps(np.zeros(2), protocol=2).replace(b"cnumpy\nndarray", b"cnumpy\nmatrix")
    with pytest.raises(DataError, match=r"asks for numpy\.matrix"):
        read_pickle(write(stream))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_and_plain_containers_come_back_as_they_were(write, protocol):
    content = {
        b"data": np.arange(12, dtype=np.uint8).reshape(3, 4),
        b"\xff\x00": [1, 2.5, None, True, "text", b"bytes"],
        b"more": ({1, 2}, frozenset([3]), bytearray(b"x"), 1j, 2**70),
    }
    found = read_pickle(write(content, protocol))
    np.testing.assert_array_equal(found.pop(b"data"), content.pop(b"data"))
    assert found == content


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:-1],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"<html>not found</html>",
        lambda whole: b"\x80\x63" + whole[2:],
        lambda whole: b"\x80\x02)R.",
    ],
)
def test_a_malformed_pickle_is_named(write, damage):
    whole = pickle.dumps({b"data": np.zeros((3, 4), np.uint8)}, protocol=2)
    with pytest.raises(DataError, match="batch is not a readable pickle"):
        read_pickle(write(damage(whole)))


def test_every_truncation_of_a_pickle_is_a_data_error(write):
    whole = pickle.dumps({b"data": np.zeros(4, np.uint8)}, protocol=2)
    for length in range(len(whole)):
        with pytest.raises(DataError):
            read_pickle(write(whole[:length]))


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="cannot read"):
        read_pickle(tmp_path)


def test_the_unrestricted_unpickler_would_have_run_the_call(tmp_path):
    # Shows that the streams above are live: what is refused there does run elsewhere.
    stream = pickle.dumps(Calls(eval, "6 * 7"), protocol=2)
    assert pickle.load(io.BytesIO(stream)) == 42
