import tarfile

import pytest

from landscape.data.archives import extract
from landscape.errors import DataError


def member(name, kind=tarfile.REGTYPE, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


GOOD = (("set/a", b"A"), ("set/b", b"B"))


@pytest.fixture
def unpack(tmp_path, tar_gz):
    def unpack(*members):
        archive = tmp_path / "set.tar.gz"
        archive.write_bytes(members[0] if isinstance(members[0], bytes) else tar_gz(*members))
        target = tmp_path / "in" / "target"
        target.mkdir(parents=True)
        extract(archive, "set", ["a", "b"], target)
        return target

    return unpack


def test_only_expected_files_are_taken(unpack):
    target = unpack((member("set", tarfile.DIRTYPE), b""), *GOOD, ("set/readme", b"R"), ("a", b"X"))
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"a": b"A", "b": b"B"}


def test_a_leading_dot_in_member_names_is_understood(unpack):
    target = unpack(("./set/a", b"A"), ("./set/b", b"B"))
    assert (target / "b").read_bytes() == b"B"


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (member("../escaped"), "points outside its folder"),
        (member("set/../../escaped"), "points outside its folder"),
        (member("..\\escaped"), "points outside its folder"),
        (member("/tmp/escaped"), "has an absolute path"),
        (member("\\escaped"), "has an absolute path"),
        (member("set/c", tarfile.SYMTYPE, "/etc/passwd"), "is a link to '/etc/passwd'"),
        (member("set/c", tarfile.SYMTYPE, "a"), "is a link"),
        (member("set/c", tarfile.LNKTYPE, "set/a"), "is a link"),
        (member("set", tarfile.SYMTYPE, ".."), "is a link"),
        (member("set/c", tarfile.FIFOTYPE), "is neither a file nor a folder"),
        (member("set/c", tarfile.CHRTYPE), "is neither a file nor a folder"),
        (member("set/c", tarfile.BLKTYPE), "is neither a file nor a folder"),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_hostile_member_is_named_and_refused(unpack, tmp_path, hostile, message, last):
    members = (*GOOD, (hostile, b"")) if last else ((hostile, b""), *GOOD)
    with pytest.raises(DataError, match=message) as error:
        unpack(*members)
    assert repr(hostile.name) in str(error.value)
    assert not list(tmp_path.rglob("escaped"))


def test_an_expected_name_that_is_a_link_is_refused_not_followed(unpack, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    with pytest.raises(DataError, match="is a link"):
        unpack((member("set/a", tarfile.SYMTYPE, str(outside)), b""), ("set/a", b"A"), GOOD[1])
    assert outside.read_bytes() == b"untouched"


def test_a_folder_in_place_of_a_file_is_not_taken_for_it(unpack):
    with pytest.raises(DataError, match="lacks set/a"):
        unpack((member("set/a", tarfile.DIRTYPE), b""), GOOD[1])


def test_the_first_of_two_files_of_one_name_is_refused_to_be_replaced(unpack):
    with pytest.raises(DataError, match="holds 'set/a' twice"):
        unpack(*GOOD, ("set/a", b"other"))


def test_a_missing_file_is_named(unpack):
    with pytest.raises(DataError, match=r"set\.tar\.gz lacks set/b"):
        unpack(GOOD[0])


@pytest.mark.parametrize("keep", [0, 5, 60])
def test_a_damaged_archive_is_named(unpack, tar_gz, keep):
    with pytest.raises(DataError, match=r"set\.tar\.gz is not a readable tar archive"):
        unpack(tar_gz(*GOOD)[:keep])


def test_a_page_in_place_of_an_archive_is_refused(unpack):
    with pytest.raises(DataError, match="is not a readable tar archive"):
        unpack(b"<html>moved</html>" * 100)
