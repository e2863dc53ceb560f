"""``google.protobuf.Struct``: from its wire bytes to JSON values. Defined by ``structs_pure.py``."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from propfan._speedups import structs_pure

MAX_DEPTH = structs_pure.MAX_DEPTH
StructError = structs_pure.StructError

cdef int DEPTH = structs_pure.MAX_DEPTH
cdef object UNSET = object()

ctypedef const unsigned char* Bytes


cdef struct Cursor:
    Bytes data
    Py_ssize_t at


def to_value(bytes data not None):
    cdef Cursor cursor
    cursor.data = <Bytes>PyBytes_AS_STRING(data)
    cursor.at = 0
    cdef dict fields = {}
    read_struct(&cursor, PyBytes_GET_SIZE(data), 1, fields)
    return fields


cdef int fail(str problem, Py_ssize_t at) except -1:
    raise StructError(f"byte {at}: {problem}")


cdef uint64_t varint(Cursor* cursor, Py_ssize_t end) except? 1844674407370955161:
    cdef uint64_t value = 0
    cdef int shift = 0
    cdef unsigned char byte
    while True:
        if cursor.at >= end:
            fail("truncated", cursor.at)
        byte = cursor.data[cursor.at]
        cursor.at += 1
        if shift == 63 and byte > 1:
            fail("a number is longer than 64 bits", cursor.at - 1)
        value |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7


cdef long long tag(Cursor* cursor, Py_ssize_t end) except -1:
    cdef Py_ssize_t begin = cursor.at
    cdef uint64_t value
    if begin < end and 8 <= cursor.data[begin] < 0x80:
        cursor.at = begin + 1
        return cursor.data[begin]
    value = varint(cursor, end)
    if value >> 32 or not value >> 3 or cursor.at - begin > 5:
        fail("no such field", begin)
    return <long long>value


cdef Py_ssize_t length(Cursor* cursor, Py_ssize_t end) except -1:
    """The end of a length-delimited field that begins at the cursor."""
    cdef Py_ssize_t begin = cursor.at
    cdef uint64_t size = varint(cursor, end)
    if size > <uint64_t>(end - cursor.at):
        fail(f"truncated, {size} bytes announced and {end - cursor.at} there", begin)
    return cursor.at + <Py_ssize_t>size


cdef str text(Cursor* cursor, Py_ssize_t end):
    cdef Py_ssize_t begin = cursor.at
    cursor.at = end
    try:
        return PyUnicode_DecodeUTF8(<char*>cursor.data + begin, end - begin, NULL)
    except UnicodeDecodeError:
        raise StructError(f"byte {begin}: text is not UTF-8") from None


cdef int skip(Cursor* cursor, Py_ssize_t end, long long field, int depth) except -1:
    cdef int kind = field & 7
    cdef long long inner
    cdef Py_ssize_t size
    if kind == 0:
        varint(cursor, end)
    elif kind == 2:
        cursor.at = length(cursor, end)
    elif kind == 1 or kind == 5:
        size = 8 if kind == 1 else 4
        if end - cursor.at < size:
            fail("truncated", cursor.at)
        cursor.at += size
    elif kind != 3:
        fail("no such wire type", cursor.at)
    elif depth > DEPTH:
        fail(f"nested deeper than {DEPTH}", cursor.at)
    else:
        while True:
            inner = tag(cursor, end)
            if inner & 7 == 4:
                if inner >> 3 != field >> 3:
                    fail("a group ends that never began", cursor.at)
                return 0
            skip(cursor, end, inner, depth + 1)
    return 0


cdef int read_struct(Cursor* cursor, Py_ssize_t end, int depth, dict fields) except -1:
    cdef long long field
    if depth > DEPTH:
        fail(f"nested deeper than {DEPTH}", cursor.at)
    while cursor.at < end:
        field = tag(cursor, end)
        if field == 10:
            read_entry(cursor, length(cursor, end), depth, fields)
        else:
            skip(cursor, end, field, depth)
    return 0


cdef int read_entry(Cursor* cursor, Py_ssize_t end, int depth, dict fields) except -1:
    cdef str key = ""
    cdef object value = UNSET
    cdef long long field
    while cursor.at < end:
        field = tag(cursor, end)
        if field == 10:
            key = text(cursor, length(cursor, end))
        elif field == 18:
            value = read_value(cursor, length(cursor, end), depth, value)
        else:
            skip(cursor, end, field, depth)
    if value is UNSET:
        fail(f"key '{key[:80]}' has no value", cursor.at)
    fields[key] = value
    return 0


cdef object read_value(Cursor* cursor, Py_ssize_t end, int depth, object value):
    cdef long long field
    cdef double number
    while cursor.at < end:
        field = tag(cursor, end)
        if field == 26:
            value = text(cursor, length(cursor, end))
        elif field == 17:
            if end - cursor.at < 8:
                fail("truncated", cursor.at)
            memcpy(&number, cursor.data + cursor.at, 8)
            if not number - number == 0:
                fail(f"{number} is no JSON number", cursor.at)
            cursor.at += 8
            value = number
        elif field == 42:
            if type(value) is not dict:
                value = {}
            read_struct(cursor, length(cursor, end), depth + 1, <dict>value)
        elif field == 50:
            if type(value) is not list:
                value = []
            read_list(cursor, length(cursor, end), depth + 1, <list>value)
        elif field == 32:
            value = varint(cursor, end) != 0
        elif field == 8:
            varint(cursor, end)
            value = None
        else:
            skip(cursor, end, field, depth)
    return value


cdef int read_list(Cursor* cursor, Py_ssize_t end, int depth, list items) except -1:
    cdef long long field
    cdef Py_ssize_t begin, end_of_item
    cdef object value
    if depth > DEPTH:
        fail(f"nested deeper than {DEPTH}", cursor.at)
    while cursor.at < end:
        field = tag(cursor, end)
        if field == 10:
            end_of_item = length(cursor, end)
            begin = cursor.at
            value = read_value(cursor, end_of_item, depth, UNSET)
            if value is UNSET:
                fail(f"item {len(items)} has no value", begin)
            items.append(value)
        else:
            skip(cursor, end, field, depth)
    return 0
